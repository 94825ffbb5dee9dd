"""The head's inputs, computed once and kept in a memory-mapped file: VGG-16 can be fine-tuned on two cores."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from wcx.errors import WcxError
from wcx.models import Normalized, head_name
from wcx.training.loop import to_device
from wcx.training.samples import brief_errors


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
        path: .npy file; a file of the same name with `.done` counts the finished images. The caller puts whatever the
            features depend on into the name.
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
            array = _open(path, (1 + mirror, len(samples), *capture.inputs.shape[1:]))
            counter = path.with_suffix(".done")
            done = int(counter.read_text()) if counter.is_file() else 0
            rest = Subset(samples, range(done, len(samples)))
            bar = tqdm(total=len(samples), initial=done, desc=f"features {path.stem}", unit="img", disable=None)
            with bar, brief_errors():
                for images, _ in DataLoader(rest, batch_size=batch_size, num_workers=num_workers):
                    for view in range(1 + mirror):
                        model(to_device(images.flip(-1) if view else images, device))
                        array[view, done : done + len(images)] = capture.inputs.float().cpu().numpy()
                    array.flush()
                    done += len(images)
                    _write(counter, str(done))
                    bar.update(len(images))
    finally:
        setattr(net, name, head)
        model.train(training)
    return array


def remove(path: Path) -> None:
    """Delete a file of features and its counter."""
    path.unlink(missing_ok=True)
    path.with_suffix(".done").unlink(missing_ok=True)


def _open(path: Path, shape: tuple[int, ...]) -> np.memmap:
    if path.is_file():
        return np.lib.format.open_memmap(path, mode="r+")
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".done").unlink(missing_ok=True)
    need, free = 4 * int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if need > free:
        raise WcxError(
            f"the head's features need {need / 2**30:.1f} GiB in {path.parent}, and {free / 2**30:.1f} GiB are free; "
            f"give paths.checkpoints_dir=<folder with room>, or a recipe that trains all layers"
        )
    array = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
    part.rename(path)
    return array


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
