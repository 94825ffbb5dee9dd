"""A results folder as Parquet: the records of every experiment, the maps where records keep them, and what all was made with.

    records/<experiment>.parquet   a row an image of a set of records: its key, fingerprint, and what was recorded
    maps/<experiment>.parquet      a row a map that was kept (save_maps=true), float32, flat, with its shape
    sets.parquet                   a row a set of records: settings, labels and manifest as JSON, images, state

Kept out: config.yaml, and of the command what names a folder of the machine.
"""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from wcx import experiments, measures, records
from wcx.errors import WcxError
from wcx.measures import truth
from wcx.records import KEY, Shard
from wcx.report import opened, sharing
from wcx.report.sections import counted

SET = dict(
    zip(KEY, ("dataset", "network", "method of the explanation", "what the class is explained against"), strict=True)
) | {"fingerprint": "of the set of records: everything that could change its numbers (sets.parquet)"}
IMAGE = {
    "index": "place of the image in the dataset",
    "id": "name of the image in the dataset: of a file dataset its path",
    "label": "its class among the network's outputs",
    "predicted": "the likeliest class, an output of the network",
    "skipped": "whether it could not be read",
    "above_threshold": "whether it counts: p of t_2 lies above the protocol's threshold",
}
RANKS = {
    "t_": "class explained, an output of the network, by its rank",
    "y_t": "logit of class t_i",
    "p_t": "probability of class t_i",
}
MAPS = SET | {
    "index": IMAGE["index"],
    "target": "place of the class explained: 0 is t_1",
    "shape": "of the map",
    "values": "of the map, flat, float32: positive speaks for the class",
}
SETS = SET | {
    "experiment": "what was measured",
    "images": "rows",
    "maps": "maps that were kept",
    "complete": "whether nothing is missing",
    "weights": "of the network",
    "stand_in": "whether they only stand in for the paper's",
    "subset": "what the images are not, of the official test set; empty for all",
    "parts": "all that the fingerprint covers: settings, hashes, versions (JSON)",
    "labels": "class names, accuracy, recipe (JSON)",
    "manifest": "versions, device, commit, command (JSON)",
}
LICENCE = (
    "Its licence is for whoever shares it to state. Ids and class names are those of the datasets, whose images are not here and "
    "have terms of their own."
)


@dataclass(frozen=True, eq=False)
class SharedSet:
    """A set of records that is what was written."""

    shard: Shard
    rows: pd.DataFrame

    @property
    def key(self) -> dict[str, str]:
        """The columns that name it."""
        fingerprint = self.shard.path.name.rpartition("-")[2]
        return dict(zip(KEY, self.shard.key, strict=True)) | {"fingerprint": fingerprint}

    def maps(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield (index, target, map) of the maps that were kept and are what was written."""
        for chunk in sorted(self.shard.check(".npz").sound):
            content = self.shard.chunk_path(chunk).with_suffix(".npz").read_bytes()
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                index, maps = stored["index"], stored["maps"]
            for place, target in np.ndindex(maps.shape[:2] if len(index) else (0, 0)):
                yield int(index[place]), target, maps[place, target]

    def about(self, maps: int) -> dict[str, Any]:
        """Return its row of sets.parquet."""
        labels, facts = self.shard.labels, {"experiment": self.shard.experiment, "images": len(self.rows), "maps": maps}
        named = {name: str(labels.get(name) or "") for name in ("weights", "subset")}
        stated = {"complete": self.shard.complete, "stand_in": bool(labels.get("stand_in")), **named}
        texts = {"parts": self.shard.parts, "labels": labels, "manifest": manifest(self.shard)}
        return self.key | facts | stated | {name: json.dumps(value) for name, value in texts.items()}


def manifest(shard: Shard) -> dict[str, Any]:
    """Return the manifest of a set of records, without folders of the machine in its command; {} where it is damaged."""
    try:
        facts: dict[str, Any] = json.loads((shard.path / "manifest.json").read_bytes())
        command = [Path(facts["command"][0]).name, *facts["command"][1:]]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return {}
    is_folder = re.compile(r"paths\.|[^=]*=\[?['\"]?(/|~|[A-Za-z]:[\\/])")
    return facts | {"command": [argument for argument in command if not is_folder.match(argument)]}


def meaning(experiment: str, column: str) -> str:
    """Return what a column of records is, as its experiment or measure says it."""
    name = experiment if experiment in experiments.names() else ""
    stated = experiments.get(name).means if name else {}
    first = column.partition("/")[0]
    if text := SET.get(column) or stated.get(first) or IMAGE.get(first):
        axes = experiments.get(name).axes if name else ()
        return f"{text} ({' / '.join(axes)})" if len(axes) == column.count("/") + 1 else text
    if match := re.fullmatch(r"(t_|y_t|p_t)\d+", first):
        return RANKS[match[1]]
    for measure in map(measures.get, measures.names()):
        if first in {title.partition("/")[0] for title in measure.columns(("t_1", "t_2"))}:
            return str(measure.__doc__).splitlines()[0]
    for score in map(truth.get, truth.names()):
        if first in score.columns:
            return f"{str(score.__doc__).splitlines()[0]} (score / question / reading, see wcx.experiments.twins)"
    return f"see wcx.{'experiments' if name else 'checks'}.{experiment}"


def write(
    results_dir: Path, folder: Path, experiment: str | None = None, refused: list[str] | None = None
) -> list[Path]:
    """Write the records of a results folder, or of one experiment in it.

    Args:
        experiment: its name; None is all.
        refused: where a line goes for each set of records that is not what was written: it is left out.

    Returns:
        the files, the data card last.

    Raises:
        WcxError: no records; no pyarrow.
    """
    pa, refused = sharing.pyarrow(), [] if refused is None else refused
    by_experiment: dict[str, list[SharedSet]] = defaultdict(list)
    for shard in tqdm(records.find(results_dir, experiment, refused), desc="records", unit="set"):
        if (rows := opened.rows(shard, refused)) is not None:
            by_experiment[shard.experiment].append(SharedSet(shard, rows))
    if not by_experiment:
        what = f" of experiment {experiment}" if experiment else ""
        raise WcxError(f"{results_dir} holds no sound records{what}; give paths.results_dir=..., or make some first.")
    files, about = [], []
    for name, sets in by_experiment.items():
        frame = pd.concat([each.rows.assign(**each.key) for each in sets], ignore_index=True)
        frame = frame[[*SET, *(column for column in frame if column not in SET)]]
        path = Path("records") / f"{name}.parquet"
        rows = sharing.write(folder / path, [pa.Table.from_pandas(frame, preserve_index=False)])
        meanings = {column: meaning(name, column) for column in frame}
        files.append((name, str(path), rows, sharing.listed(list(frame), meanings)))
        counts = dict.fromkeys(range(len(sets)), 0)
        path = Path("maps") / f"{name}.parquet"
        if rows := sharing.write(folder / path, _maps(pa, sets, counts)):
            files.append((f"{name}_maps", str(path), rows, sharing.listed(list(MAPS), MAPS)))
        about += [each.about(counts[place]) for place, each in enumerate(sets)]
    sharing.write(folder / "sets.parquet", [pa.Table.from_pylist(about)])
    files.append(("sets", "sets.parquet", len(about), sharing.listed(list(about[0]), SETS)))
    card = sharing.write_card(
        folder,
        title="Records of wcx",
        intro=f"{counted(len(about), 'set')} of records ({', '.join(by_experiment)}): one row an image.",
        license="other",
        licence_note=LICENCE,
        version=_versions(about),
        cautions=[*_cautions(about), *refused],
        files=files,
        settings=json.dumps(_settings(by_experiment), indent=1),
    )
    return [*(folder / path for _, path, _, _ in files), card]


def _maps(pa: Any, sets: Sequence[SharedSet], counts: dict[int, int]) -> Iterator[Any]:
    """Yield a table of the maps of each set that kept some, and count them."""
    types = {"index": pa.int64(), "target": pa.int64(), "shape": pa.list_(pa.int64()), "values": pa.list_(pa.float32())}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in MAPS])
    for place, each in enumerate(tqdm(sets, desc="maps", unit="set")):
        rows = [
            each.key | {"index": index, "target": target, "shape": list(phi.shape), "values": phi.ravel()}
            for index, target, phi in each.maps()
        ]
        counts[place] = len(rows)
        if rows:
            yield pa.Table.from_pylist(rows, schema=schema)


def _settings(by_experiment: Mapping[str, Sequence[SharedSet]]) -> dict[str, list[Any]]:
    """Return the protocols that there are of each experiment, each once."""
    return {
        name: [
            json.loads(text) for text in dict.fromkeys(json.dumps(each.shard.parts.get("settings")) for each in sets)
        ]
        for name, sets in by_experiment.items()
    }


def _versions(about: Sequence[dict[str, Any]]) -> str:
    versions = {json.loads(row["manifest"]).get("versions", {}).get("wcx") or "of an unknown version" for row in about}
    return ", ".join(sorted(versions))


def _cautions(about: Sequence[dict[str, Any]]) -> list[str]:
    """Return what is to be said of the networks and images, each once, with n."""
    lines: dict[str, set[int]] = defaultdict(set)
    for row in about:
        state = "" if row["complete"] else "; incomplete"
        stand_in = "stand-in weights: " * row["stand_in"]
        line = f"{row['dataset']}, {row['model']}: {stand_in}{row['weights'] or 'weights not recorded'}"
        lines[f"{row['experiment']}: {line}; {row['subset'] or 'all images'}{state}"].add(row["images"])
    return [f"{line}; n = {'/'.join(map(str, sorted(counts)))} images" for line, counts in lines.items()]
