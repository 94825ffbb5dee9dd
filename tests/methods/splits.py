"""An oracle for methods that stop at a layer: the network split by hand, one class and one image at a time; not a test itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import wcx

TOLERANCE = 1e-9  # relative L2 in float64: rounding alone
RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": lambda a, g: (g.mean((-2, -1), keepdim=True) * a).sum(-3),
    "linear_approximation": lambda a, g: (g * a).sum(-3),
}


@dataclass
class Split:
    """A network, and the same function as head(trunk(images)), written without in-place functions or second references.

    Attributes:
        layer: the name of the module that returns the trunk's activation (N, channels, h, w).
        search: the layer that is found where none is given; None: whichever.
    """

    model: nn.Module
    trunk: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]
    layer: str
    search: str | None = None


def explanation(split: Split, images: Tensor, v: Tensor, method: str) -> Tensor:
    """Return sum_s v_s phi^s (N, h, w) by brute force."""
    maps = []
    for image, weights in zip(images, v, strict=True):
        with torch.no_grad():
            activation = split.trunk(image[None]).clone()
        total = torch.zeros(())
        for s, weight in enumerate(weights):
            leaf = activation.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(split.head(leaf)[0, s], leaf)
            total = total + weight * RULES[method](activation, gradient)[0]
        maps.append(total)
    return torch.stack(maps)


def error(got: Tensor, expected: Tensor) -> float:
    """Return the relative L2 difference."""
    assert got.shape == expected.shape
    return float((got - expected).norm() / expected.norm())


def check(split: Split, images: Tensor, layer: str | None) -> None:
    """Compare both calls of an Explainer, of which the second names the layer, with the oracle."""
    logits = split.head(split.trunk(images)).detach()
    for method in RULES:
        explainer = wcx.Explainer(split.model, method, layer)
        for call in ("first", "second"):
            given = images.clone()
            run = explainer(given)
            assert error(run.logits, logits) < TOLERANCE, "the network is another function"
            assert torch.equal(given, images)
            v = wcx.cotangent(run.logits, 1, "weighted")
            assert error(run.explain(v), explanation(split, images, v, method)) < TOLERANCE, (method, call)
        if layer is None and split.search is not None:
            assert run.layer == split.search
