"""Explanations by plain autograd, one class and one image at a time; not a test itself.

Nothing of wcx is used. `function`, `trunk` and `head` are plain functions of a batch: with trunk then head the same network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

INPUT = ["gradient", "input_x_gradient", "integrated_gradients", "deeplift", "lrp"]
ACTIVATION = ["gradcam", "xgradcam", "linear_approximation"]
METHODS = [*INPUT, *ACTIVATION]


def gradient(function: Function, images: Tensor, v: Tensor) -> Tensor:
    """Return sum_s v_s dy_s/dx for images (N, channels, H, W) and v (N, C)."""
    rows = []
    for image, weights in zip(images, v, strict=True):
        total = torch.zeros_like(image)
        for s, weight in enumerate(weights.tolist()):
            leaf = image.detach()[None].clone().requires_grad_()
            total += weight * torch.autograd.grad(function(leaf + 0)[0, s], leaf)[0][0]
        rows.append(total)
    return torch.stack(rows)


def integrated(function: Function, images: Tensor, v: Tensor, start: Tensor, steps: int = 50) -> Tensor:
    """Return integrated gradients from `start` by the midpoint rule."""
    nodes = [(s + 0.5) / steps for s in range(steps)]
    return (images - start) * sum(gradient(function, start + a * (images - start), v) for a in nodes) / steps


def smoothed(function: Function, images: Tensor, v: Tensor, samples: int, noise: float = 0.15) -> Tensor:
    """Return SmoothGrad of seed 0: the mean gradient over noisy copies."""
    spread = images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)
    total = torch.zeros_like(images)
    for s in range(samples):
        pattern = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(s), dtype=torch.float64)
        total += gradient(function, images + noise * spread * pattern, v) / samples
    return total


def cams(trunk: Function, head: Function, images: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Return the maps (N, h, w) of the three activation methods by their formulas."""
    rows: dict[str, list[Tensor]] = {name: [] for name in ACTIVATION}
    for image, weights in zip(images, v, strict=True):
        with torch.no_grad():
            a = trunk(image[None].clone())
        g = gradient(head, a, weights[None])[0]
        a = a[0]
        rows["gradcam"].append((g.mean((1, 2))[:, None, None] * a).sum(0))
        rows["linear_approximation"].append((g * a).sum(0))
        rows["xgradcam"].append((((g * a).sum((1, 2)) / a.abs().sum((1, 2)))[:, None, None] * a).sum(0))
    return {name: torch.stack(maps) for name, maps in rows.items()}


def error(actual: Tensor, expected: Tensor) -> float:
    """Return the relative L2 error; infinite for another shape."""
    return float((actual - expected).norm() / expected.norm()) if actual.shape == expected.shape else float("inf")
