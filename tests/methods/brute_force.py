"""Explanations by plain autograd, one class and one image at a time; not a test itself.

Nothing of wcx is used. `function`, `trunk` and `head` are plain functions of a batch: with trunk then head the same network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

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
        for name, map in _cams(a[0], gradient(head, a, weights[None])[0]).items():
            rows[name].append(map)
    return {name: torch.stack(maps) for name, maps in rows.items()}


def cams_at(module: nn.Module, network: Function, images: Tensor, v: Tensor, read: Function) -> dict[str, Tensor]:
    """Return the maps (N, h, w) of the three activation methods at what a module of a network returns.

    Args:
        module: returns a tensor, or a tuple whose first item it is.
        network: the network, as a function of images that returns logits.
        images: (N, channels, H, W).
        v: (N, C).
        read: what the module returns for one image -> a map (channels, h, w).
    """
    outputs: list[Tensor] = []
    hook = module.register_forward_hook(
        lambda _module, _inputs, y: outputs.append(y if isinstance(y, Tensor) else y[0])
    )
    rows: dict[str, list[Tensor]] = {name: [] for name in ACTIVATION}
    for image, weights in zip(images, v, strict=True):
        logits = network(image.clone()[None].requires_grad_())
        a, total = outputs.pop(), torch.zeros(())
        for s in weights.nonzero().flatten().tolist():
            total = total + weights[s] * torch.autograd.grad(logits[0, s], a, retain_graph=True)[0]
        for name, map in _cams(read(a.detach()), read(total)).items():
            rows[name].append(map)
    hook.remove()
    return {name: torch.stack(maps) for name, maps in rows.items()}


def _cams(a: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Return the maps (h, w) of the three methods for activation and gradient (channels, h, w), by their formulas."""
    return {
        "gradcam": (g.mean((1, 2))[:, None, None] * a).sum(0),
        "linear_approximation": (g * a).sum(0),
        "xgradcam": (((g * a).sum((1, 2)) / a.abs().sum((1, 2))).nan_to_num()[:, None, None] * a).sum(
            0
        ),  # 0 / 0: a dead one
    }


def error(actual: Tensor, expected: Tensor) -> float:
    """Return the relative L2 error; infinite for another shape."""
    return float((actual - expected).norm() / expected.norm()) if actual.shape == expected.shape else float("inf")
