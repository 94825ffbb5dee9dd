"""The head's inputs, computed once and kept in a memory-mapped file: VGG-16 can be fine-tuned on two cores."""

from __future__ import annotations

import logging
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from wcx import files
from wcx.errors import WcxError
from wcx.models import Normalized, head_name
from wcx.training.loop import to_device
from wcx.training.samples import brief_errors

log = logging.getLogger("wcx")
_THERE = 1 << 32


class Capture(nn.Module):
    """Stands in for the head and keeps its input."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the input as it is."""
        self.inputs = inputs.detach()
        return inputs


def head_inputs(
    model: Normalized,
    samples: Dataset,
    path: Path,
    *,
    mirror: bool,
    batch_size: int = 16,
    device: str | torch.device = "cpu",
    num_workers: int = 0,
) -> np.memmap:
    """Return the inputs of the model's head for all samples, computing those that `path` does not hold yet.

    Args:
        model: its inner network's head is the submodule `classifier` or `fc`.
        samples: index -> (uint8 (3, H, W), label).
        path: .npy file; beside it `.sums`, a CRC-32 an image (as `datasets.cache` keeps them), against which what is
            there is checked first, and `.done`, which counts the finished images. The caller puts whatever the features
            depend on into the name.
        mirror: also of the mirror images.

    Returns:
        float32 (views, n, ...): view 0 the images, view 1 their mirror images.

    Raises:
        WcxError: not enough room on the disk.
    """
    net, name = model.model, head_name(model.model)
    head, capture = net.get_submodule(name), Capture()
    training = model.training
    model.to(device, memory_format=torch.channels_last).eval()
    setattr(net, name, capture)
    try:
        with torch.inference_mode():
            model(to_device(samples[0][0][None], device))
            array, sums = _open(path, (1 + mirror, len(samples), *capture.inputs.shape[1:]))
            missing = _missing(path, array, sums)
            done = len(samples) - len(missing)
            bar = tqdm(total=len(samples), initial=done, desc=f"features {path.stem}", unit="img", disable=None)
            with bar, brief_errors():
                for images, _ in DataLoader(Subset(samples, missing), batch_size=batch_size, num_workers=num_workers):
                    indices, missing = missing[: len(images)], missing[len(images) :]
                    for view in range(1 + mirror):
                        model(to_device(images.flip(-1) if view else images, device))
                        array[view, indices] = capture.inputs.float().cpu().numpy()
                    array.flush()
                    sums[indices] = [_sum(array, i) for i in indices]
                    sums.flush()
                    files.write(path.with_suffix(".done"), str(len(samples) - len(missing)))
                    bar.update(len(images))
    finally:
        setattr(net, name, head)
        model.train(training)
    return array


def remove(path: Path) -> None:
    """Delete a file of features and what lies beside it."""
    for suffix in (".npy", ".sums", ".done"):
        path.with_suffix(suffix).unlink(missing_ok=True)


def _open(path: Path, shape: tuple[int, ...]) -> tuple[np.memmap, np.memmap]:
    """Return the features, float32 of that shape, and their sums, uint64 (n,)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    need, free = 4 * int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if not path.is_file() and need > free:
        raise WcxError(
            f"the head's features need {need / 2**30:.1f} GiB in {path.parent}, and {free / 2**30:.1f} GiB are free; "
            f"give paths.checkpoints_dir=<folder with room>, or a recipe that trains all layers"
        )
    array, existed = files.memmap(path, shape, np.float32)
    kept = path.with_suffix(".sums").exists()
    sums, _ = files.memmap(path.with_suffix(".sums"), shape[1:2], np.uint64)
    counter = path.with_suffix(".done")
    if existed and not kept and counter.is_file() and (text := counter.read_text(encoding="utf-8")).isdigit():
        done = min(int(text), len(sums))
        sums[:done] = [_sum(array, i) for i in range(done)]
        log.warning("%s was begun before sums were kept: its first %d images are unchecked", path, done)
    return array, sums


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
