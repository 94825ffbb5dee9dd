"""Integrated gradients (Sundararajan et al. 2017; Wang & Wang 2022, section 4)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from wcx.errors import WcxError, choose
from wcx.methods import _reference
from wcx.methods.base import Method, as_images, forward
from wcx.methods.paths import Path, PathRun

RULES = ("midpoint", "left", "right", "trapezoid", "gauss-legendre")


class IntegratedGradients(Method):
    """phi = (x - x') * integral over a in [0, 1] of the gradient of sum_s v_s y_s at x' + a (x - x'), x' the baseline.

    A contrast that depends on the path (probability) is evaluated at each point of it; all others are frozen at the
    image (Eq. 1).

    Args:
        baseline: x': ``zeros``, ``blur``, ``mean`` (each image's own channel means), or a tensor in the model's input
            space that broadcasts to the images.
        space: where "zeros" are zeros: ``normalized`` (the mean colour; 0 for a model of normalised input, `mean` for a
            `wcx.models.Normalized`) or ``pixel`` (black; 0 for a `Normalized`, -mean / std of ImageNet for any other).
        steps: points on the path.
        rule: the quadrature: midpoint, left, right, trapezoid (at least 2 steps), gauss-legendre.
        batch_size: at most so many images go through the network at once (but at least one step of all).
        sigma: of the blur, in pixels of an image of side 224.
    """

    space = "input"
    version = 2  # 2: no two steps in one batch of a network that mixes images

    def __init__(
        self,
        baseline: str | Tensor = "zeros",
        space: str = "normalized",
        steps: int = 50,
        rule: str = "midpoint",
        batch_size: int = 32,
        sigma: float = 15.0,
    ) -> None:
        _reference.check(baseline, space)
        self.baseline, self.zero_space, self.sigma, self.batch_size = baseline, space, sigma, batch_size
        self.nodes, self.weights = quadrature(rule, steps)

    def run(self, model: nn.Module, images: Tensor, layer: str | nn.Module | None = None) -> IntegratedRun:
        """See `Method.run`; `layer` plays no part."""
        images = as_images(images).clone()  # for later: the caller may write into them
        start = _reference.reference(model, images, self.baseline, self.zero_space, self.sigma)
        return IntegratedRun(model, images, start, self.nodes, self.weights, self.batch_size)


class IntegratedRun(PathRun):
    """The straight path from `start` to `images`, both (N, channels, H, W), with a quadrature's `nodes` and `weights` (S,)."""

    def __init__(
        self, model: nn.Module, images: Tensor, start: Tensor, nodes: Tensor, weights: Tensor, batch_size: int
    ) -> None:
        difference = images - start
        path = Path(
            steps=len(nodes),
            point=lambda s: start + float(nodes[s]) * difference,
            weights=weights,
            factor=lambda _: difference,
        )
        super().__init__(model, images, path, batch_size)
        self._start = start
        self._start_logits: Tensor | None = None
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def residual(self) -> Tensor:
        """By how much the last explanation misses completeness: its sum minus sum_s v_s (y_s(x) - y_s(x')).

        (N,) or (K, N), float64. NaN where v changed along the path: what the integral should be is then not known.
        Costs one forward pass, the first time.

        Raises:
            WcxError: nothing has been explained yet.
        """
        if self._last is None:
            raise WcxError("residual: nothing has been explained yet; call explain first.")
        if self._start_logits is None:
            with self.again(), torch.no_grad():
                self._start_logits = forward(self._state.model, self._start)
        total, v, varied = self._last
        missed = _reference.residual(total, v, self.logits - self._start_logits).masked_fill(varied, torch.nan)
        return self._unstack(missed)

    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        varied = torch.zeros(v.shape[:2], dtype=torch.bool, device=v.device)

        def watched(logits: Tensor) -> Tensor:
            here = path(logits)
            varied.logical_or_((here != v).any(2))
            return here

        maps = super()._explain(v, path and watched)
        self._last = maps.double().sum((2, 3, 4)), v, varied
        return maps


def quadrature(rule: str, steps: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights (steps,) on [0, 1], float64; the weights sum to 1.

    Raises:
        WcxError: unknown rule, or too few steps.
    """
    choose("rule", rule, RULES)
    least = 2 if rule == "trapezoid" else 1
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise WcxError(f"steps = {steps!r} is not a number of steps; give an integer of at least {least}.")
    equal = torch.full((steps,), 1 / steps, dtype=torch.float64)
    if rule == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    if rule == "trapezoid":
        weights = torch.full((steps,), 1 / (steps - 1), dtype=torch.float64)
        weights[[0, -1]] /= 2
        return torch.linspace(0, 1, steps, dtype=torch.float64), weights
    shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return (torch.arange(steps, dtype=torch.float64) + shift) / steps, equal
