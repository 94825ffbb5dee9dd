"""Drawn birds for other tools: images, twins, part masks, and a network's truth: Shapley values, questions, verified flags.

    images/<n>.parquet      a row an image: PNG, its parts' masks, its twins as PNG, and the network's logits of all
    questions/<n>.parquet   a row a question: target, foils, the effect of each part on the answer, whether it is verified

The pictures are drawn by wcx.datasets.parts; no photograph is written. A kill loses at most a
file: what is there is not made again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from wcx.datasets.parts import Parts
from wcx.errors import WcxError
from wcx.experiments._answers import Answered
from wcx.experiments.images import Item
from wcx.experiments.twins import PartTwins
from wcx.manifest import manifest
from wcx.pipeline import Job
from wcx.records import fingerprint
from wcx.report import sharing

IMAGES = {
    "index": "place of the image in the dataset",
    "id": "its name in the dataset",
    "label": "its class",
    "class_name": "its class's name",
    "image": "PNG at the size of the network's input",
    "parts": "names of its parts",
    "varying": "of them those that have another look",
    "masks": "the visible pixels of each part (part, PNG of one bit a pixel), disjoint",
    "twins": "the same scene with some parts in their other look: swapped (parts), label, class_name, image (PNG), logits",
    "logits": "of the network, of the image itself, float64",
}
QUESTIONS = {
    "index": IMAGES["index"],
    "id": IMAGES["id"],
    "kind": "q1: the foil differs in one part (q3 asks two of these); q2: in two or three; q4: several foils; q5: a mistake",
    "target": "why this class",
    "foils": "and not these; empty: all others",
    "swapped": "parts in which target and foils differ",
    "answered": "whether the network answers it for the target",
    "verified": "whether it does, and no more once the parts are swapped",
    "answer": "g = y_target - logsumexp of y over the foils, of the image itself",
    "effects": "of each part: its Shapley value in the game g(image) - g(twin with the parts swapped)",
    "candidate": "of each part: whether it can be the top part: it is seen, and differs",
    "top": "the part with the largest effect; empty where there is none",
}


def write(job: Job, folder: Path) -> list[Path]:
    """Write the images of a job of the experiment twins on drawn birds.

    Args:
        folder: where the files go; another export there is refused.

    Returns:
        the files, the data card last.

    Raises:
        WcxError: another dataset; another export in the folder; no pyarrow.
    """
    pa, dataset = sharing.pyarrow(), job.dataset
    if not isinstance(dataset, Parts):
        raise WcxError(
            f"wcx export experiment=twins writes drawn birds; dataset {dataset.name} has pictures of others: give dataset=parts."
        )
    parts = job.shards()[0].parts
    facts = {
        name: parts[name]
        for name in ("dataset", "transform", "weights", "evaluation", "limit", "batch_size", "chunk_size")
    }
    stamp = fingerprint(facts)
    experiment = job.opened(job.cells)
    assert isinstance(experiment, PartTwins)
    chunks, counts = job.chunks(), {"images": 0, "questions": 0}
    files: list[Path] = []
    for number, indices in enumerate(tqdm(chunks, desc="twins", unit="chunk")):
        paths = {kind: folder / kind / f"{number:05d}.parquet" for kind in counts}
        if not all(_there(pa, path, stamp) for path in paths.values()):
            items = job.read(indices)
            rows: dict[str, list[dict[str, Any]]] = {"images": [], "questions": []}
            for item, image in zip(items, experiment.answered(items), strict=True):
                rows["images"].append(_image(item, image, job.class_names()))
                rows["questions"] += _questions(item, image)
            for kind, path in paths.items():
                sharing.write(path, [pa.Table.from_pylist(rows[kind], schema=_schemas(pa)[kind])], {"wcx": stamp})
        for kind, path in paths.items():
            counts[kind] += pa.parquet.read_metadata(path).num_rows
        files += paths.values()
    label = "all images" if not job.subset() else job.subset()
    card = sharing.write_card(
        folder,
        title="Drawn birds, their twins, and what each part does to a network",
        intro="Images, the same with some parts in their other look, and the exact effect of each part on a network's answers.",
        license="mit",
        licence_note="The birds are drawn by wcx, whose code is under the MIT licence.",
        version=manifest(experiment.subject.device)["versions"]["wcx"],
        cautions=[
            f"{job.loaded.name}: {'stand-in: ' * job.loaded.stand_in}{job.loaded.weights}; {label}; n = {counts['images']} images"
        ],
        files=[
            (kind, f"{kind}/*.parquet", counts[kind], sharing.listed(list(meanings), meanings))
            for kind, meanings in (("images", IMAGES), ("questions", QUESTIONS))
        ],
        settings=json.dumps(facts, indent=1),
    )
    return [*files, card]


def _there(pa: Any, path: Path, stamp: str) -> bool:
    """Return whether a file of this export is there.

    Raises:
        WcxError: one of another export is.
    """
    if not path.exists():
        return False
    if (pa.parquet.read_schema(path).metadata or {}).get(b"wcx") != stamp.encode():
        raise WcxError(f"{path} is of another export; give another folder: to=...")
    return True


def _schemas(pa: Any) -> dict[str, Any]:
    text, number, texts = pa.string(), pa.float64(), pa.list_(pa.string())
    picture = pa.struct([("bytes", pa.binary()), ("path", text)])  # as dataset hubs have images
    names = {"label": pa.int64(), "class_name": text}
    twin = {"swapped": texts, **names, "image": picture, "logits": pa.list_(number)}
    nested = {"masks": {"part": text, "mask": picture}, "twins": twin, "effects": {"part": text, "value": number}}
    nested |= {"candidate": {"part": text, "value": pa.bool_()}}
    types = {name: pa.list_(pa.struct(list(fields.items()))) for name, fields in nested.items()}
    types |= dict.fromkeys(("index", "label", "target"), pa.int64()) | {"foils": pa.list_(pa.int64())}
    types |= dict.fromkeys(("parts", "varying", "swapped"), texts) | dict.fromkeys(("answered", "verified"), pa.bool_())
    types |= {"image": picture, "logits": pa.list_(number), "answer": number}
    columns = {"images": IMAGES, "questions": QUESTIONS}
    return {kind: pa.schema([(name, types.get(name, text)) for name in means]) for kind, means in columns.items()}


def _image(item: Item, image: Answered, names: Sequence[str]) -> dict[str, Any]:
    twins = image.twins
    masks = [
        {"part": part, "mask": _png(f"{item.id}-{part}", region)}
        for part, region in zip(twins.parts, twins.regions, strict=True)
    ]
    shown = []
    for swapped, label, pixels, logits in zip(twins.swaps, twins.labels, twins.pixels, image.logits[1:], strict=True):
        parts = sorted(swapped)
        facts = {"swapped": parts, "label": label, "class_name": names[label], "logits": logits.tolist()}
        shown.append(facts | {"image": _png(f"{item.id}-{'-'.join(parts)}", pixels)})
    facts = {"index": item.index, "id": item.id, "label": item.label, "class_name": names[item.label]}
    facts |= {"image": _png(item.id, image.pixels), "parts": list(twins.parts), "varying": list(twins.varying)}
    return facts | {"masks": masks, "twins": shown, "logits": image.logits[0].tolist()}


def _questions(item: Item, image: Answered) -> list[dict[str, Any]]:
    rows = []
    for question in image.questions:
        truth, parts = image.truth(question), image.twins.parts
        answered, turned = image.verified(question)
        rows.append(
            {
                **{"index": item.index, "id": item.id, "kind": question.kind, "target": question.target},
                **{"foils": list(question.foils), "swapped": sorted(question.swapped)},
                **{"answered": answered, "verified": answered and turned},
                "answer": float(image.log_odds(question)(image.logits)[0]),
                "effects": [{"part": p, "value": x} for p, x in zip(parts, truth.effects.tolist(), strict=True)],
                "candidate": [{"part": p, "value": x} for p, x in zip(parts, truth.candidates.tolist(), strict=True)],
                "top": None if truth.right is None else parts[truth.right],
            }
        )
    return rows


def _png(name: str, pixels: Tensor) -> dict[str, Any]:
    """Return an image (3, H, W) in [0, 1], or a mask (H, W), as a PNG without loss."""
    array = pixels.numpy()
    picture = (
        Image.fromarray(array)
        if array.ndim == 2
        else Image.fromarray((array * 255).round().astype(np.uint8).transpose(1, 2, 0))
    )
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{name.replace('/', '-')}.png"}
