"""An oracle for methods that stop at a layer: the network split by hand, one class and one image at a time; not a test itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import wcx
from wcx.errors import WcxError

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


def product(split: Split, images: Tensor, v: Tensor) -> Tensor:
    """Return activation times the gradient of v.y, (N, channels, h, w)."""
    activation = split.trunk(images).detach().requires_grad_()
    (gradient,) = torch.autograd.grad((split.head(activation) * v).sum(), activation)
    return gradient * activation.detach()


def error(got: Tensor, expected: Tensor) -> float:
    """Return the relative L2 difference."""
    assert got.shape == expected.shape
    return float((got - expected).norm() / expected.norm())


def cancels(product: Tensor) -> bool:
    """Whether activation times gradient (N, channels, h, w) sums to 0 but for a LayerNorm's epsilon, 1e-5 of a variance.

    A norm behind the layer does not see how long its vectors are.
    """
    return float(product.sum(1).norm()) < 1e-3 * float(product.abs().sum(1).norm())


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
            expected = explanation(split, images, v, method)
            if method == "linear_approximation" and cancels(product(split, images, v)):
                with pytest.raises(WcxError, match="channels cancel in the norm behind it"):
                    run.explain(v)
                continue
            assert error(run.explain(v), expected) < TOLERANCE, (method, call)
        if layer is None and split.search is not None:
            assert run.layer == split.search
