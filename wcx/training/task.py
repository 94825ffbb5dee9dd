"""One fine-tuning from start to checkpoint."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.utils.data import Subset

from wcx.datasets.base import ImageDataset
from wcx.errors import WcxError
from wcx.models import LoadedModel
from wcx.models.checkpoints import read_meta, save_checkpoint
from wcx.models.devices import as_device
from wcx.models.state_dicts import head_name, weights_hash
from wcx.training.curve import write_curve, write_history
from wcx.training.features import keep, remove
from wcx.training.loop import evaluate, fit
from wcx.training.recipe import Recipe
from wcx.training.samples import Augmented, Features, Pixels, Views, choose_indices
from wcx.training.tail import Tail

log = logging.getLogger("wcx")


def finished(path: Path, recipe: Recipe) -> str | None:
    """Return a line about the finished checkpoint at `path`, or None if there is none.

    Raises:
        WcxError: it was made by another recipe, or by the same with other values.
    """
    if not path.is_file():
        return None
    meta = read_meta(path)
    known = Recipe.of(meta["recipe"])  # an older one has fewer settings
    stated, asked = (json.loads(json.dumps(asdict(each))) for each in (known, recipe))
    if differing := [f"{key}={json.dumps(stated[key])}" for key in asked if stated[key] != asked[key]]:
        values = "" if known.name != recipe.name else f" with other values ({', '.join(differing)})"
        raise WcxError(
            f"{path} was made by recipe {known.name}{values}, not by {recipe.name} as asked for; checkpoint_recipe={known.name} "
            f"takes it as it is, recipe.name=<another> trains one beside it, force=true replaces it"
        )
    return f"finished: {path}, test accuracy {meta['accuracy']:.3f}; force=true trains again"


def finetune(
    start: LoadedModel,
    train: ImageDataset,
    test: ImageDataset,
    recipe: Recipe,
    path: Path,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    num_workers: int = 2,
    cache_gib: float = 2.0,
    keep_features: bool = False,
    amp: bool | None = None,
) -> dict[str, Any]:
    """Fine-tune `start` on `train`, write the checkpoint `path`, and return its metadata.

    Beside the checkpoint, with its name: `.history.csv`, `.curve.png`, and while it runs `.state` (and the folder
    `features`). Called again after a kill, it goes on where it was.

    Args:
        start: from `models.load(..., num_classes=...)`; trained in place.
        train, test: with the same classes; test is looked at once, at the end.
        recipe: see `Recipe`.
        path: of the checkpoint; an existing one is replaced.
        seed: of order, augmentation, dropout and hold-out (that of the fresh layers belongs to `start`).
        num_workers: processes that decode images; unused on a CPU when the images are kept in memory.
        cache_gib: a set of images up to this size is decoded once and kept in memory, GiB.
        keep_features: keep the files of features, for other seeds and heads (recipe.train=head and tail).
        amp: mixed precision; None: on a GPU.

    Raises:
        WcxError: the splits have different classes; a damaged image; a cut that cannot be; no room for the features.
    """
    if train.class_names != test.class_names:
        raise WcxError(f"dataset {train.name}: train and test have different classes")

    device = as_device(device)
    run = {"seed": seed, "device": device, "amp": amp, "state_path": path.with_suffix(".state")}
    tail = cut(start, recipe, train[0][0], device)
    run["identity"] = _identity(start, tail, train, recipe, seed)
    if tail:
        history, accuracy, files = _fit_tail(start, tail, train, test, recipe, path, num_workers, run)
    else:
        history, accuracy, files = *_fit_all(start, train, test, recipe, cache_gib, num_workers, run), []
    log.info("test accuracy %.3f on %d images", accuracy, len(test))
    meta = _meta(start, train, test, recipe, seed, history, accuracy, str(device))
    meta |= {"cut": tail.cut} if tail else {}
    write_history(path.with_suffix(".history.csv"), history)
    title = f"{train.name}, {start.name}, recipe {recipe.name}, seed {seed}"
    write_curve(path.with_suffix(".curve.png"), history, accuracy, title)
    save_checkpoint(path, start.net.state_dict(), meta)  # last: where it is, nothing is made any more
    run["state_path"].unlink(missing_ok=True)
    for file in files if not keep_features else []:
        remove(file)
    return meta


def _fit_all(
    start: LoadedModel,
    train: ImageDataset,
    test: ImageDataset,
    recipe: Recipe,
    cache_gib: float,
    num_workers: int,
    run: Mapping[str, Any],
) -> tuple[list[dict[str, float]], float]:
    """Train all layers; return (history, test accuracy). The test images are opened after the training only."""
    images = Pixels(train, cache_gib * 2**30, num_workers)
    kept, held = choose_indices(len(train), recipe, run["seed"])
    in_memory = images.cache is not None and torch.device(run["device"]).type == "cpu"
    history = fit(
        start.model,
        Augmented(images, recipe.augmentation(images.side), run["seed"]),
        recipe,
        indices=kept,
        validation=Subset(images, held) if held else None,
        num_workers=0 if in_memory else num_workers,
        **run,
    )
    seen = Pixels(test, cache_bytes=0)
    return history, evaluate(start.model, seen, device=run["device"], num_workers=num_workers)[1]


def cut(start: LoadedModel, recipe: Recipe, image: Tensor, device: str | torch.device) -> Tail | None:
    """Return the part of the network that the recipe trains, on the device; None: all of it."""
    start.model.to(device, memory_format=torch.channels_last)
    if recipe.train == "all":
        return None
    module = head_name(start.net) if recipe.train == "head" else recipe.cut
    return Tail(start.model, module, image.to(device, start.model.mean.dtype))


def _fit_tail(
    start: LoadedModel,
    tail: Tail,
    train: ImageDataset,
    test: ImageDataset,
    recipe: Recipe,
    path: Path,
    num_workers: int,
    run: Mapping[str, Any],
) -> tuple[list[dict[str, float]], float, list[Path]]:
    """Train the tail on its inputs; return (history, test accuracy, files of features)."""
    files: list[Path] = []

    def features(dataset: ImageDataset, seen: Recipe) -> Features:
        facts = {
            "network": [start.name, start.options, run["identity"]["front"]],
            "cut": tail.cut,
            "dataset": dataset.listing_hash(),
            "transform": [asdict(dataset.transform), start.model.mean.tolist(), start.model.std.tolist()],
            "views": [seen.mirror, seen.variants, list(seen.augment.items())],
            "type": recipe.kept,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
        files.append(path.parent / "features" / f"{start.name}-{tail.cut}-{dataset.split}-{digest}.npy")
        views = Views(Pixels(dataset, cache_bytes=0), seen)  # each is looked at once
        options = {"dtype": recipe.kept, "device": run["device"], "num_workers": num_workers}
        return Features(keep(tail, views, files[-1], facts, **options), dataset.labels)

    samples = features(train, recipe)
    views, count = samples.array.shape[:2]
    kept, held = choose_indices(count, recipe, run["seed"])
    indices = [view * count + image for view, image in product(range(views), kept)]
    history = fit(tail, samples, recipe, indices=indices, validation=Subset(samples, held) if held else None, **run)
    seen = features(test, replace(recipe, mirror=False, variants=0, augment={}))
    return history, evaluate(tail, seen, device=run["device"])[1], files


def _identity(start: LoadedModel, tail: Tail | None, train: ImageDataset, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Return all that a run depends on; `front` is the hash of the weights that stay as they are."""
    return {
        "recipe": asdict(recipe),
        "seed": seed,
        "start": start.weights_hash,
        "front": weights_hash(tail.front if tail else {}),
        "options": start.options,
        "listing": train.listing_hash(),
        "transform": asdict(train.transform),
    }


def _meta(
    start: LoadedModel,
    train: ImageDataset,
    test: ImageDataset,
    recipe: Recipe,
    seed: int,
    history: list[dict[str, float]],
    accuracy: float,
    device: str,
) -> dict[str, Any]:
    best = max(history, key=lambda line: line["validation_accuracy"]) if recipe.select == "best" else history[-1]
    return {
        "model": start.name,
        "options": start.options,
        "dataset": train.name,
        "class_names": train.class_names,
        "transform": asdict(train.transform),
        "mean": start.model.mean.flatten().tolist(),
        "std": start.model.std.flatten().tolist(),
        "weights": start.weights,
        "stand_in": start.stand_in,
        "start_hash": start.weights_hash,
        "recipe": asdict(recipe),
        "seed": seed,
        "accuracy": accuracy,
        "epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"] if recipe.select == "best" else None,
        "train_images": len(train),
        "test_images": len(test),
        "subset": test.subset,
        "listing": {"train": train.listing_hash(), "test": test.listing_hash()},
        "seconds": round(sum(line["seconds"] for line in history), 1),
        "device": device,
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }
