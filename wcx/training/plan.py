"""What a fine-tuning would cost, before it is started."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from wcx.datasets.base import ImageDataset
from wcx.models import LoadedModel, Normalized, head_name
from wcx.training.features import Capture
from wcx.training.recipe import Recipe
from wcx.training.samples import Batches, choose_indices


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
    kept, held = choose_indices(len(train), recipe, seed=0)
    model = copy.deepcopy(start.model).to(device, memory_format=torch.channels_last)
    name = head_name(model.model)
    head, body_only = model.model.get_submodule(name), recipe.train == "head"
    image = torch.rand(1, *train[0][0].shape, device=device)
    capture = Capture()
    if body_only:
        setattr(model.model, name, capture)
    forward = _time(model, image.repeat(8, 1, 1, 1)) / 8
    trained: nn.Module = head if body_only else model
    views = 1 + recipe.mirror if body_only else 1
    steps = Batches(range(len(kept) * views), recipe.batch_size, seed=0).steps * recipe.epochs
    size = min(recipe.batch_size, 16)
    inputs = capture.inputs[:1] if body_only else image
    step = _time(trained, inputs.repeat(size, *[1] * (inputs.ndim - 1)), backward=True) / size * recipe.batch_size
    if body_only:
        passes = len(train) * views + len(test)
        work = f"{passes} forward passes for the features, then {steps} steps of the head"
        features = 4 * inputs.numel() * passes
    else:
        passes = len(test) + len(held) * recipe.epochs
        work = f"{steps} steps of {recipe.batch_size} forward and backward passes; {passes} forward passes to evaluate"
        features = 0
    weights = _megabytes(start.model)
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


def _megabytes(module: Normalized | nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) * 4 / 1e6


def _time(module: nn.Module, inputs: Tensor, backward: bool = False) -> float:
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
