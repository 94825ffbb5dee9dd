"""The inputs of a cut, computed once and kept in a memory-mapped file: VGG-16 can be fine-tuned on two cores."""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset
from tqdm.auto import tqdm

from wcx import files
from wcx.errors import WcxError
from wcx.models.devices import as_device
from wcx.training.loop import to_device
from wcx.training.samples import brief_errors, loader
from wcx.training.tail import Tail

log = logging.getLogger("wcx")
_THERE = 1 << 32


def keep(
    tail: Tail,
    samples: Dataset,
    path: Path,
    facts: Mapping[str, Any],
    *,
    dtype: str = "float32",
    batch_size: int = 16,
    device: str | torch.device = "cpu",
    num_workers: int = 0,
) -> np.memmap:
    """Return the inputs of the cut for all samples, computing those that `path` does not hold yet.

    Another process that does so, for another seed or head, is waited for.

    Args:
        tail: of the network, which is on `device`.
        samples: index -> (uint8 (views, 3, H, W), label).
        path: .npy file; beside it `.sums`, a CRC-32 an image (as `datasets.cache` keeps them), against which what is
            there is checked first, and `.json`, the facts.
        facts: JSON values, whatever the features depend on; a file of others is set aside.
        dtype: "float16", "float32" or "float64".

    Returns:
        (views, n, ...) of that dtype.

    Raises:
        WcxError: not enough room on the disk; a value that float16 does not hold.
    """
    device = as_device(device)
    training = tail.training
    tail.eval()
    waits = partial(log.warning, "waiting for another process that computes %s", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.locked(_lock(path), waits), torch.inference_mode():
            views = samples[0][0]
            shape = tail.inputs_of(to_device(views[:1], device)).shape[1:]
            array, sums = _open(path, (len(views), len(samples), *shape), np.dtype(dtype), facts)
            missing = _missing(path, array, sums)
            done = len(samples) - len(missing)
            bar = tqdm(total=len(samples), initial=done, desc=f"features {path.stem}", unit="img", disable=None)
            with bar, brief_errors():
                for images, _ in loader(Subset(samples, missing), num_workers, batch_size=batch_size):
                    indices, missing = missing[: len(images)], missing[len(images) :]
                    for view in range(len(array)):
                        inputs = tail.inputs_of(to_device(images[:, view], device)).to(getattr(torch, dtype))
                        if dtype == "float16" and not inputs.isfinite().all():
                            raise WcxError(f"float16 does not hold all inputs of {tail.cut}; give recipe.kept=float32")
                        array[view, indices] = inputs.cpu().numpy()
                    array.flush()
                    sums[indices] = [_sum(array, i) for i in indices]
                    sums.flush()
                    bar.update(len(images))
    finally:
        tail.train(training)
    return array


def remove(path: Path) -> None:
    """Delete a file of features and what lies beside it, unless another process computes what it lacks."""
    with suppress(BlockingIOError), files.locked(_lock(path)):
        for suffix in (".npy", ".sums", ".json"):
            path.with_suffix(suffix).unlink(missing_ok=True)


def _lock(path: Path) -> Path:
    return path.with_name(f".{path.stem}.lock")


def _open(path: Path, shape: tuple[int, ...], dtype: np.dtype, facts: Mapping[str, Any]) -> tuple[np.memmap, np.memmap]:
    """Return the features, of that shape and dtype, and their sums, uint64 (n,)."""
    label, text = path.with_suffix(".json"), json.dumps(facts, sort_keys=True)
    if (other := files.load(label)[0]) != text.encode():
        if path.is_file():
            files.set_aside(path, f"holds features of {_differences(other, facts)}: computing these anew")
        path.with_suffix(".sums").unlink(missing_ok=True)
    need, free = dtype.itemsize * int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if not path.is_file() and need > free:
        raise WcxError(
            f"the features need {need / 2**30:.1f} GiB in {path.parent}, and {free / 2**30:.1f} GiB are free; "
            f"give paths.checkpoints_dir=<folder with room>, or a recipe that trains all layers"
        )
    if other != text.encode():
        files.write(label, text)
    array, _ = files.memmap(path, shape, dtype.type)
    sums, _ = files.memmap(path.with_suffix(".sums"), shape[1:2], np.uint64)
    return array, sums


def _differences(text: bytes, facts: Mapping[str, Any]) -> str:
    """Return in which facts a file's differ, in words."""
    try:
        other = json.loads(text)
        names = [name for name, value in facts.items() if other.get(name) != value]
    except (ValueError, AttributeError):
        return "an unknown network"
    return f"another {' and '.join(names)}"


def _missing(path: Path, array: np.memmap, sums: np.memmap) -> list[int]:
    """Return the images whose features are not there as they were computed; those of another sum are named."""
    missing = [i for i, total in enumerate(sums.tolist()) if total != _sum(array, i)]
    if damaged := [i for i in missing if sums[i]]:
        log.warning("%s is damaged at %d images, first %d: computed again", path, len(damaged), damaged[0])
    return missing


def _sum(array: np.memmap, i: int) -> int:
    """Return 2^32 + CRC-32 of an image's features under all views; 0 means that they are not there."""
    total = 0
    for view in array:
        total = zlib.crc32(view[i], total)
    return _THERE | total
