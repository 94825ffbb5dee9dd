"""What a fine-tuning would cost, before it is started."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from wcx.datasets.base import ImageDataset
from wcx.models import LoadedModel
from wcx.models.devices import as_device
from wcx.training.recipe import Recipe
from wcx.training.samples import Batches, choose_indices
from wcx.training.task import cut


def plan(
    start: LoadedModel,
    train: ImageDataset,
    test: ImageDataset,
    recipe: Recipe,
    path: Path,
    device: str | torch.device = "cpu",
) -> dict[str, str]:
    """Return, in words, what `finetune` would do with these arguments: steps, passes, files, disk, and a rough time.

    The time is measured on one small batch of noise, in float32; reading the images is not in it.
    """
    device = as_device(device)
    kept, held = choose_indices(len(train), recipe, seed=0)
    start = replace(start, model=(model := copy.deepcopy(start.model)), net=model.model)
    tail = cut(start, recipe, train[0][0], device)
    trained: nn.Module = tail or model
    forward_of: Callable[[Tensor], Tensor] = tail.inputs_of if tail else model
    image = torch.rand(1, *train[0][0].shape, device=device)
    forward = _time(forward_of, image.repeat(8, 1, 1, 1)) / 8
    views = (1 + recipe.variants) * (1 + recipe.mirror)  # 1 with train=all
    steps = Batches(range(len(kept) * views), recipe.batch_size, seed=0).steps * recipe.epochs
    size = min(recipe.batch_size, 16)
    inputs = tail.inputs_of(image) if tail else image
    step = _time(trained, inputs.repeat(size, *[1] * (inputs.ndim - 1)), backward=True) / size * recipe.batch_size
    if tail:
        passes = len(train) * views + len(test)
        work = f"{passes} forward passes up to {tail.cut} for the features, then {steps} steps of what is behind it"
        features = getattr(torch, recipe.kept).itemsize * inputs.numel() * passes
    else:
        passes = len(test) + len(held) * recipe.epochs
        work = f"{steps} steps of {recipe.batch_size} forward and backward passes; {passes} forward passes to evaluate"
        features = 0
    weights = _megabytes(model)
    copies = (2 if recipe.optimizer == "sgd" else 3) + (recipe.select == "best")
    disk = {
        "checkpoint": weights,
        "state while it runs": copies * _megabytes(trained),
        "features while it runs": features / 1e6,
    }
    return {
        "fine-tuning": f"{start.name} on {train.name}, recipe {recipe.name}, from {start.weights}",
        "images": f"{len(kept)} to train on, {len(held)} held out, {len(test)} to test",
        "work": f"{recipe.epochs} epochs: {work}",
        "time": f"about {(passes * forward + steps * step) / 60:.1f} min on {device}",
        "disk": ", ".join(f"{what} {value:.0f} MB" for what, value in disk.items()),
        "checkpoint": str(path),
    }


def _megabytes(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) * 4 / 1e6


def _time(module: Callable[[Tensor], Tensor], inputs: Tensor, backward: bool = False) -> float:
    """Return the seconds of the second of two passes."""
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    for _ in range(2):
        began = time.monotonic()
        with torch.set_grad_enabled(backward):
            output = module(inputs).sum()
            if backward:
                output.backward()
        output.item()  # waits for a GPU
        seconds = time.monotonic() - began
    return seconds
