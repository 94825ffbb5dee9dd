"""The training loop: resumable at any step, with the same result on a CPU as if it had not been interrupted.

Whatever is random in a step depends on (seed, epoch, step or index) alone, and the learning rate on the step; so the
state is the network, the optimiser and the history.
"""

from __future__ import annotations

import json
import logging
import pickle
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from wcx import files
from wcx.errors import WcxError
from wcx.models.devices import as_device
from wcx.training.recipe import Recipe, derive
from wcx.training.samples import Batches, brief_errors, loader

log = logging.getLogger("wcx")

HISTORY = ("epoch", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "seconds")


def fit(
    net: nn.Module,
    samples: Dataset,
    recipe: Recipe,
    *,
    indices: Sequence[int],
    validation: Dataset | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    num_workers: int = 0,
    amp: bool | None = None,
    state_path: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    save_every: float = 60.0,
) -> list[dict[str, float]]:
    """Train `net` in place, on `device`, and leave it in eval mode with the weights that `recipe.select` asks for.

    Args:
        net: takes a batch of samples' inputs (uint8 inputs are scaled to [0, 1]) and returns logits (N, C).
        samples: (epoch, index) -> (input, label).
        recipe: see `Recipe`.
        indices: of the samples to learn from.
        validation: index -> (input, label); needed if recipe.select is "best".
        seed: of order, augmentation and dropout.
        num_workers: processes that make the samples; the result does not depend on it.
        amp: mixed precision (float16); None: on a GPU.
        state_path: where the state is kept until the caller deletes it; None: nowhere.
        identity: JSON values; a state of another identity is not resumed.
        save_every: seconds between states within an epoch.

    Returns:
        The history: one dict with the keys HISTORY for each epoch.
    """
    device = as_device(device)
    amp = device.type == "cuda" if amp is None else amp
    net.to(device, memory_format=torch.channels_last)
    optimizer = recipe.build_optimizer(p for p in net.parameters() if p.requires_grad)
    scaler = torch.amp.GradScaler(device.type, enabled=amp)
    batches = Batches(indices, recipe.batch_size, seed)
    options = {"persistent_workers": num_workers > 0, "pin_memory": device.type == "cuda"}
    loaded = loader(samples, num_workers, batch_sampler=batches, **options)
    state = _State(net, optimizer, scaler, json.dumps(identity or {}, sort_keys=True), state_path)
    state.resume()
    steps = recipe.epochs * batches.steps
    done = state.epoch * batches.steps + state.step
    bar = tqdm(total=steps, initial=done, desc="fine-tuning", unit="batch", disable=None)
    with bar, brief_errors(), torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        for epoch in range(state.epoch, recipe.epochs):
            batches.epoch, batches.start = epoch, state.step
            saved = began = time.monotonic()
            _train_mode(net, recipe.freeze_batchnorm)
            for inputs, answers in loaded:
                lr = recipe.lr_at(epoch * batches.steps + state.step, steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                torch.manual_seed(derive(seed, "step", epoch, state.step))
                with torch.autocast(device.type, torch.float16, enabled=amp):
                    logits = net(to_device(inputs, device))
                    labels = answers.to(device)
                    loss = cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                state.count(loss.item() * len(labels), (logits.argmax(1) == labels).sum().item(), len(labels))
                bar.set_postfix(epoch=f"{epoch + 1}/{recipe.epochs}", loss=f"{loss.item():.3f}", refresh=False)
                bar.update()
                instant = time.monotonic()
                if instant - saved >= save_every and state.step < batches.steps:
                    state.seconds += instant - began
                    state.save()
                    saved = began = time.monotonic()
            state.end_epoch(lr, time.monotonic() - began, validation and evaluate(net, validation, device=device))
    state.select(recipe.select)
    net.eval()
    return state.history


@torch.no_grad()
def evaluate(
    net: nn.Module, samples: Dataset, *, batch_size: int = 64, device: str | torch.device = "cpu", num_workers: int = 0
) -> tuple[float, float]:
    """Return (mean cross entropy, accuracy) of `net` in eval mode, float32, on samples index -> (input, label)."""
    device = as_device(device)
    net.eval()
    loss = correct = 0.0
    batches = loader(samples, num_workers, batch_size=batch_size)
    with brief_errors():
        for inputs, answers in tqdm(batches, "evaluating", unit="batch", disable=None, leave=False):
            logits, labels = net(to_device(inputs, device)), answers.to(device)
            loss += cross_entropy(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
    return loss / len(samples), correct / len(samples)


class _State:
    """What a run consists of between two steps, kept in a file by an atomic rename."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        identity: str,
        path: Path | None,
    ) -> None:
        self.parts = {"net": net, "optimizer": optimizer, "scaler": scaler}
        self.identity, self.path = identity, path
        self.epoch = self.step = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.step, self.loss, self.correct, self.seen, self.seconds = 0, 0.0, 0, 0, 0.0

    def count(self, loss: float, correct: int, seen: int) -> None:
        """Note a step."""
        self.step, self.loss, self.correct, self.seen = (
            self.step + 1,
            self.loss + loss,
            self.correct + correct,
            self.seen + seen,
        )

    def end_epoch(self, lr: float, seconds: float, validation: tuple[float, float] | None) -> None:
        """Close the epoch: one line of history, and the best weights yet if there is a validation."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.parts["net"].parameters()):
            raise WcxError(
                f"the weights are no numbers any more after epoch {self.epoch + 1} (lr {lr:g}); give a smaller recipe.lr. No "
                "checkpoint is written."
            )
        means = (self.loss / self.seen, self.correct / self.seen)
        values = (self.epoch + 1, lr, *means, *(validation or (float("nan"),) * 2), self.seconds + seconds)
        if validation and all(validation[1] > line["validation_accuracy"] for line in self.history):
            self.best = {key: value.detach().cpu().clone() for key, value in self.parts["net"].state_dict().items()}
            self.best_epoch = self.epoch + 1
        self.history.append(dict(zip(HISTORY, values, strict=True)))
        scores = f"loss {means[0]:.3f}, accuracy {means[1]:.3f}"
        held = f", held out: loss {validation[0]:.3f}, accuracy {validation[1]:.3f}" if validation else ""
        log.info("epoch %d: %s%s, %.0f s", self.epoch + 1, scores, held, values[-1])
        self.epoch += 1
        self._start_epoch()
        self.save()

    def select(self, version: str) -> None:
        """Load the weights to keep."""
        if version == "best":
            self.parts["net"].load_state_dict(self.best)

    def save(self) -> None:
        """Write the state, if there is a path."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        plain = {key: value for key, value in vars(self).items() if key not in ("parts", "path")}
        with files.part_of(self.path) as file:
            torch.save({**plain, **{name: part.state_dict() for name, part in self.parts.items()}}, file)

    def resume(self) -> None:
        """Load the state from the file, if there is one of the same identity."""
        if self.path is None or not self.path.is_file():
            return
        try:
            with zipfile.ZipFile(self.path) as archive:  # torch writes a CRC of each tensor, and does not read it
                if (damaged := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(f"{damaged} is not what was written")
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            files.set_aside(self.path, f"is damaged ({error}): starting afresh")
            return
        if saved["identity"] != self.identity:
            log.warning("%s is of another recipe, seed, dataset or start: starting afresh", self.path)
            return
        for name, part in self.parts.items():
            part.load_state_dict(saved.pop(name))
        vars(self).update(saved)
        log.info("resuming after %d epochs and %d steps", self.epoch, self.step)


def _train_mode(net: nn.Module, freeze_batchnorm: bool) -> None:
    net.train()
    for module in net.modules():
        if freeze_batchnorm and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def to_device(inputs: Tensor, device: str | torch.device) -> Tensor:
    """Return the inputs on the device; uint8 pixels become float32 in [0, 1], in channels_last order (faster)."""
    inputs = inputs.to(device, non_blocking=True)
    if inputs.dtype == torch.uint8:
        inputs = inputs.float().div_(255).contiguous(memory_format=torch.channels_last)
    return inputs
