"""DeepLIFT with the rescale rule (Shrikumar et al. 2017; Wang & Wang 2022, section 4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.methods import _reference
from wcx.methods._rescale import Recorder, Rescaler
from wcx.methods.base import Method, Run, as_images, evaluated, forward, vjp


class DeepLift(Method):
    """phi = (x - x') * multipliers: the change of sum_s v_s y_s from a reference x' to the image x, shared out among the pixels.

    The rescale rule holds for every elementwise function, whether a module or plain code calls it; max pooling gives its change
    to one input; a product of two activations (squeeze-and-excitation) is shared evenly between both, a rule that is ours. A
    function without a rule is an error, and each explanation is checked to sum to the change.

    Args:
        baseline: x': ``zeros``, ``blur``, ``mean`` (each image's own channel means), or a tensor in the model's input
            space that broadcasts to the images.
        space: where "zeros" are zeros: ``normalized`` (the mean colour; 0 for a model of normalised input, `mean` for a
            `wcx.models.Normalized`) or ``pixel`` (black; 0 for a `Normalized`, -mean / std of ImageNet for any other).
        sigma: of the blur, in pixels of an image of side 224.
    """

    space = "input"

    def __init__(self, baseline: str | Tensor = "zeros", space: str = "normalized", sigma: float = 15.0) -> None:
        _reference.check(baseline, space)
        self.baseline, self.zero_space, self.sigma = baseline, space, sigma

    def run(self, model: nn.Module, images: Tensor, layer: str | nn.Module | None = None) -> DeepLiftRun:
        """See `Method.run`; `layer` plays no part.

        Raises:
            WcxError: the network calls a function that has no rule; the message names it.
        """
        images = as_images(images)
        return DeepLiftRun(
            model, images, _reference.reference(model, images, self.baseline, self.zero_space, self.sigma)
        )


class DeepLiftRun(Run):
    """One forward pass of the references `start` and one of the images, both (N, channels, H, W).

    `explain` raises a WcxError where the explanation does not sum to the change.

    Attributes:
        residual: by how much the last explanation misses summation to delta: its sum minus sum_s v_s (y_s(x) - y_s(x')).
            (N,) or (K, N), float64; None before the first.
    """

    forward = False
    residual: Tensor | None = None

    def __init__(self, model: nn.Module, images: Tensor, start: Tensor) -> None:
        with evaluated(model) as state:
            recorder, leaf = Recorder(), images.clone().requires_grad_()
            with torch.no_grad():
                start_logits = forward(model, start, recorder)
            rescaler = Rescaler(recorder.calls, leaf)
            logits = forward(model, leaf, rescaler)
            super().__init__(state, logits)
        self._graph, self._difference, self._start_logits = (logits, leaf), images - start, start_logits
        # Rounding grows with depth and with what cancels: measured below 1e-6 in float32 and 1e-14 in float64, relative to
        # the sizes below, for the networks in tests and docs. The root of the precision, 3e-4 and 1e-8, is far from that
        # and from the several percent that a wrong rule costs.
        self._tolerance = max(rescaler.eps, torch.finfo(logits.dtype).eps) ** 0.5

    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        maps = vjp(*self._graph, v) * self._difference
        residual = _reference.residual(maps.double().sum((2, 3, 4)), v, self.logits - self._start_logits)
        self.residual = self._unstack(residual)
        size = maps.abs().sum((2, 3, 4)) + (v.abs() * (self.logits.abs() + self._start_logits.abs())).sum(2)
        missed = residual.abs() / size.double().clamp_min(torch.finfo(torch.float64).tiny)
        if not bool((missed <= self._tolerance).all()):
            raise WcxError(
                f"deeplift: the explanation misses the change of the output by {float(missed.max()):.1e} of its size (at most "
                f"{self._tolerance:.1e} is rounding): a part of the network runs out of sight (TorchScript, a custom autograd "
                "function, detached or random values); use integrated_gradients."
            )
        return maps
