"""Walks along the sign of an explanation, see `sign_perturbation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wcx import contrasts
from wcx.errors import WcxError
from wcx.explainer import Explainer, cotangents
from wcx.methods import Run

if TYPE_CHECKING:
    from wcx.experiments.sign_perturbation import SignPerturbation


class Walks:
    """All walks of a batch under one method.

    Args:
        experiment: whose settings and counters are used.
        explainer: the method, on the engine's model.
        pixels: x^0, (N, 3, H, W).
        labels: (N,).

    Attributes:
        clean: the columns of the unperturbed images.
    """

    def __init__(self, experiment: SignPerturbation, explainer: Explainer, pixels: Tensor, labels: Tensor) -> None:
        self._experiment, self._explainer, self._settings = experiment, explainer, experiment.settings
        self._pixels, self._labels = pixels, labels
        epsilon = self._settings.epsilon
        self._box = (pixels - epsilon).clamp(min=0), (pixels + epsilon).clamp(max=1)
        self._target, self._foils = labels, labels  # set once the clean logits are known
        self.clean: dict[str, Tensor] = {}

    def run(self, names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Return for each contrast of `names` the columns of every number of steps."""
        columns: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        for name, first in zip(names, self._first(names), strict=True):
            for n in self._settings.iterations:
                logits, zero = self._walk(name, n, first)
                y, p, correct = self._measure(logits)
                columns[name] |= {f"y_t/{n}": y, f"p_t/{n}": p, f"correct/{n}": correct, f"zero_gradient/{n}": zero}
        return columns

    def _first(self, names: Sequence[str]) -> Tensor:
        """Return the explanations (K, N, 3, H, W) of the clean images, and learn their targets, foils and columns."""
        run = self._forward(self._pixels)
        self._choose(self._experiment.logits(self._pixels) if self._experiment.separate else run.logits)
        return self._explain(run, names)

    def _choose(self, logits: Tensor) -> None:
        """Set target and foils for the whole walk, from the clean logits (N, C)."""
        settings = self._settings
        if settings.target_rule == "label" and bool((self._labels < 0).any()):
            raise WcxError("target_rule=label: the images have no labels (class_map=none); give target_rule=predicted.")
        self._target = contrasts.as_targets(self._labels if settings.target_rule == "label" else _top(logits), logits)
        self._foils = self._experiment.subject.foil_masks(logits, self._target, settings.foils)
        y, p, correct = self._measure(logits)
        self.clean = {"target": self._target, "y_t": y, "p_t": p, "correct": correct}

    def _explain(self, run: Run, names: Sequence[str]) -> Tensor:
        """Return the explanations (K, N, 3, H, W) of a run's images, one backward pass a contrast."""
        options = self._experiment.subject.contrast_options
        v = cotangents(names, run.logits.to(self._pixels.dtype), self._target, self._foils, options)
        self._experiment.subject.passes["backward"] += len(names) * len(self._pixels)
        with self._experiment.gradients():
            return run.explain(v)

    def _walk(self, name: str, n: int, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, C) after n steps, and whether the explanation vanished at one of them, bool (N,).

        Args:
            name: the contrast.
            n: the number of steps.
            phi: its explanation of the clean images, (N, 3, H, W).
        """
        x, step = self._pixels, self._settings.epsilon / n
        zero = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for j in range(n):
            if j:
                phi = self._gradient(name, x)
            zero |= phi.abs().amax((1, 2, 3)) == 0
            x = torch.add(x, phi.sign(), alpha=step).clamp_(*self._box)
        return self._experiment.logits(x), zero

    def _gradient(self, name: str, x: Tensor) -> Tensor:
        """Return the explanation (N, 3, H, W) of x under one contrast; its graph is gone by then."""
        return self._explain(self._forward(x), [name])[0]

    def _forward(self, x: Tensor) -> Run:
        self._experiment.subject.passes["forward"] += len(x)
        with self._experiment.gradients():
            return self._explainer(x)

    def _measure(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return y_t, p_t (float64) and whether the label is top-1 (NaN where there is none), each (N,)."""
        if not bool(logits.isfinite().all()):
            raise WcxError("logits hold NaN or infinite values; check the model and its input.")
        t = self._target[:, None]
        y, p = logits.gather(1, t)[:, 0], logits.double().softmax(1).gather(1, t)[:, 0]
        correct, unknown = _top(logits) == self._labels, self._labels < 0
        return y.double(), p, torch.where(unknown, torch.nan, correct.double()) if bool(unknown.any()) else correct


def _top(logits: Tensor) -> Tensor:
    """Return the most probable class (N,); of equals the lower id."""
    return logits.sort(dim=1, descending=True, stable=True).indices[:, 0]
