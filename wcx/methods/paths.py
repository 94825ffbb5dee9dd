"""Methods that go back to the input: at the image itself, or averaged over the points of a path (or a cloud) of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.methods.base import Run, evaluated, forward, vjp


class InputRun(Run):
    """One batch and the graph from the images to the logits.

    Args:
        times_input: the gradient is multiplied by the image.
    """

    forward = False

    def __init__(self, model: nn.Module, images: Tensor, *, times_input: bool) -> None:
        with evaluated(model) as state:
            leaf = images.clone().requires_grad_()
            logits = forward(model, leaf)
            super().__init__(state, logits)
        self._graph, self._times_input = (logits, leaf), times_input

    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        gradients = vjp(*self._graph, v)
        return gradients * self._graph[1].detach() if self._times_input else gradients


@dataclass(frozen=True)
class Path:
    """S images for each image.

    Attributes:
        steps: S.
        point: s -> images (N, channels, H, W) at step s.
        weights: S quadrature weights.
        factor: s -> what the gradient at step s is multiplied by, (N, channels, H, W), or None.
    """

    steps: int
    point: Callable[[int], Tensor]
    weights: Tensor
    factor: Callable[[int], Tensor] | None = None


class PathRun(Run):
    """sum over s of weight_s * factor_s * gradient at x_s: S forward and K S backward passes an `explain`, 1 for the logits.

    Args:
        batch_size: at most this many images go through the network at once (but at least N, one step): memory stays bounded. A
            network that mixes the images of a batch gets the N of one step at a time.
    """

    def __init__(self, model: nn.Module, images: Tensor, path: Path, batch_size: int) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise WcxError(f"batch_size = {batch_size!r} is not a number of images; give an integer of at least 1.")
        self._images, self._path = images, path
        with evaluated(model) as state, torch.no_grad():
            super().__init__(state, forward(model, images))
            at_once = max(1, min(batch_size // len(images), path.steps))
            self._at_once = at_once if at_once == 1 or self._keeps_images_apart(model) else 1

    def _keeps_images_apart(self, model: nn.Module) -> bool:
        """Tell whether an image's logits are the same in other company: only then may steps go through the network together.

        Two passes of three images, the first of them among copies of itself and among others: before and behind it, higher and
        lower and with another mean, since there are networks that mix in one direction, or by a maximum. The same bits are
        expected: in batches of one size rounding does not depend on the neighbours. A false alarm costs time and no more.
        """
        image = self._images[:1]
        companies = (image, image), (-image.flip(3) - 1, 2.7 * image + 1)
        try:
            alone, among = (forward(model, torch.cat([before, image, behind]))[1] for before, behind in companies)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a network for batches of one size
            return False
        return torch.equal(alone, among)

    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        n, walk = len(self._images), self._path
        total = torch.zeros(len(v), *self._images.shape, dtype=self._images.dtype, device=self._images.device)
        for first in range(0, walk.steps, self._at_once):
            steps = range(first, min(first + self._at_once, walk.steps))
            points = torch.cat([walk.point(s) for s in steps]).requires_grad_()
            logits = forward(self._state.model, points)
            by_step = logits.detach().unflatten(0, (len(steps), n))
            cotangents = torch.stack([v if path is None else path(one) for one in by_step], dim=1)  # (K, steps, N, C)
            gradients = vjp(logits, points, cotangents.flatten(1, 2)).unflatten(1, (len(steps), n))
            for position, s in enumerate(steps):
                gradient = gradients[:, position] if walk.factor is None else gradients[:, position] * walk.factor(s)
                total += walk.weights[s].to(total) * gradient
        return total


def smoothing(images: Tensor, samples: int, noise: float, seed: int, *, times_input: bool) -> Path:
    """Return the cloud of SmoothGrad (Smilkov et al. 2017): `samples` noisy copies of each image.

    The noise's standard deviation is `noise` times the image's own range (max - min). Its pattern is the same for every image, so
    that an explanation does not depend on the batch, and is drawn on the CPU, so that it does not depend on the device.

    Args:
        times_input: multiply each gradient by the noisy image (input x gradient).
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1 or not noise >= 0:
        raise WcxError(
            f"SmoothGrad with samples={samples!r}, noise={noise!r}: give samples >= 1 (an integer) and noise >= 0."
        )
    scale = noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))

    def point(s: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + s)
        pattern = torch.randn(images.shape[1:], generator=generator, dtype=torch.float64)
        return images + scale * pattern.to(images)

    return Path(
        samples, point, torch.full((samples,), 1 / samples, dtype=torch.float64), point if times_input else None
    )
