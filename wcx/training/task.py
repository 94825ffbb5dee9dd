"""One fine-tuning from start to checkpoint."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch.utils.data import Subset

from wcx.checkpoints import read_meta, save_checkpoint
from wcx.datasets.base import ImageDataset
from wcx.errors import WcxError
from wcx.models import LoadedModel
from wcx.training.curve import write_curve, write_history
from wcx.training.features import head_inputs, remove
from wcx.training.loop import evaluate, fit
from wcx.training.recipe import Recipe
from wcx.training.samples import Augmented, Features, Pixels, split_holdout
from wcx.weights import head_name, weights_hash

log = logging.getLogger("wcx")


def finished(path: Path, recipe: Recipe) -> str | None:
    """Return a line about the finished checkpoint at `path`, or None if there is none; says so if its recipe is another."""
    if not path.is_file():
        return None
    meta = read_meta(path)
    same = json.dumps(meta["recipe"], sort_keys=True) == json.dumps(asdict(recipe), sort_keys=True)
    other = "" if same else f", made by another recipe ({meta['recipe']['name']}) than asked for ({recipe.name})"
    return f"finished: {path}, test accuracy {meta['accuracy']:.3f}{other}; force=true trains again"


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
        keep_features: keep the file of the head's inputs, for other seeds (recipe.train=head).
        amp: mixed precision; None: on a GPU.

    Raises:
        WcxError: the splits have different classes; a damaged image; no room for the features.
    """
    if train.class_names != test.class_names:
        raise WcxError(f"dataset {train.name}: train and test have different classes")
    state_path = path.with_suffix(".state")
    identity = _identity(start, train, recipe, seed)
    pixels = {split.split: Pixels(split, cache_gib * 2**30, num_workers) for split in (train, test)}
    began = time.monotonic()
    if recipe.train == "head":
        history, accuracy = _fit_head(
            start, pixels, recipe, path, identity, seed, device, num_workers, keep_features, amp
        )
    else:
        samples = Augmented(pixels["train"], recipe.augmentation(pixels["train"].side), seed)
        kept, held = _split(len(train), recipe, seed)
        on_cpu = torch.device(device).type == "cpu"
        history = fit(
            start.model,
            samples,
            recipe,
            indices=kept,
            validation=Subset(pixels["train"], held) if held else None,
            seed=seed,
            device=device,
            num_workers=0 if on_cpu and pixels["train"].cache is not None else num_workers,
            amp=amp,
            state_path=state_path,
            identity=identity,
        )
        accuracy = evaluate(start.model, pixels["test"], device=device, num_workers=0)[1]
    log.info("trained in %.0f s, test accuracy %.3f on %d images", time.monotonic() - began, accuracy, len(test))
    meta = _meta(start, train, test, recipe, seed, history, accuracy, str(device))
    save_checkpoint(path, start.net.state_dict(), meta)
    write_history(path.with_suffix(".history.csv"), history)
    title = f"{train.name}, {start.name}, recipe {recipe.name}, seed {seed}"
    write_curve(path.with_suffix(".curve.png"), history, accuracy, title)
    state_path.unlink(missing_ok=True)
    return meta


def _fit_head(
    start: LoadedModel,
    pixels: dict[str, Pixels],
    recipe: Recipe,
    path: Path,
    identity: dict[str, Any],
    seed: int,
    device: str | torch.device,
    num_workers: int,
    keep_features: bool,
    amp: bool | None,
) -> tuple[list[dict[str, float]], float]:
    """Train the head on its inputs; return (history, test accuracy)."""
    arrays, files = {}, []
    for split, images in pixels.items():
        mirror = recipe.mirror and split == "train"
        key = [identity["body"], images.dataset.listing_hash(), asdict(images.dataset.transform), mirror]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:10]
        files.append(path.parent / "features" / f"{start.name}-{split}-{digest}.npy")
        workers = num_workers if images.cache is None else 0
        arrays[split] = head_inputs(start.model, images, files[-1], mirror=mirror, device=device, num_workers=workers)
    labels = {split: images.dataset.labels for split, images in pixels.items()}
    samples = Features(arrays["train"], labels["train"])
    views, count = arrays["train"].shape[:2]
    kept, held = _split(count, recipe, seed)
    head = start.net.get_submodule(head_name(start.net))
    history = fit(
        head,
        samples,
        recipe,
        indices=[view * count + image for view in range(views) for image in kept],
        validation=Subset(samples, held) if held else None,
        seed=seed,
        device=device,
        amp=amp,
        state_path=path.with_suffix(".state"),
        identity=identity,
    )
    accuracy = evaluate(head, Features(arrays["test"], labels["test"]), device=device)[1]
    if not keep_features:
        for file in files:
            remove(file)
    return history, accuracy


def plan(start: LoadedModel, train: ImageDataset, test: ImageDataset, recipe: Recipe, path: Path) -> str:
    """Return what `finetune` would do, in words: steps, network passes, rough time on this CPU, disk, and the files."""
    kept, held = _split(len(train), recipe, 0)
    whole = start.net
    head = whole.get_submodule(head_name(whole))
    views = 1 + recipe.mirror if recipe.train == "head" else 1
    steps = -(-len(kept) * views // recipe.batch_size) * recipe.epochs
    forward, backward = _time_pass(start, train)
    if recipe.train == "head":
        passes = len(train) * views + len(test)
        work = f"{passes} forward passes for the features, then {steps} steps of the head"
        seconds = passes * forward
    else:
        passes = len(kept) * recipe.epochs
        work = f"{steps} steps ({passes} forward and backward passes), then {len(test)} forward passes"
        seconds = passes * backward + (len(test) + len(held) * recipe.epochs) * forward
    size = sum(p.numel() for p in whole.parameters()) * 4
    trained = sum(p.numel() for p in (head if recipe.train == "head" else whole).parameters()) * 4
    disk = f"checkpoint {size / 1e6:.0f} MB, state while running up to {trained * 4 / 1e6:.0f} MB"
    return (
        f"{train.name}: {start.name} from {start.weights}, recipe {recipe.name}: {len(kept)} training images, {len(held)} held out, "
        f"{len(test)} test images, {recipe.epochs} epochs; {work}; passes take about {seconds / 60:.1f} min on this CPU; {disk}; to {path}"
    )


def _time_pass(start: LoadedModel, train: ImageDataset, batch: int = 4) -> tuple[float, float]:
    """Return seconds per image of a forward pass, and of a forward and backward pass, on the CPU, from one small batch."""
    model = copy.deepcopy(start.model).cpu().eval()
    images = torch.stack([train[0][0]] * batch)
    times = []
    for grad in (False, False, True):  # the first is to warm up
        began = time.monotonic()
        with torch.set_grad_enabled(grad):
            output = model(images).sum()
            if grad:
                output.backward()
        times.append((time.monotonic() - began) / batch)
    return times[1], times[2]


def _split(count: int, recipe: Recipe, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices to train on, and those to choose the best epoch on."""
    return split_holdout(count, recipe.holdout, seed) if recipe.select == "best" else (list(range(count)), [])


def _identity(start: LoadedModel, train: ImageDataset, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Return all that a run depends on; `body` is the hash of the weights before the head."""
    head = head_name(start.net) + "."
    body = {key: value for key, value in start.net.state_dict().items() if not key.startswith(head)}
    return {
        "recipe": asdict(recipe),
        "seed": seed,
        "start": start.weights_hash,
        "body": weights_hash(body),
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
