"""Gradient, input x gradient, integrated gradients, SmoothGrad and DeepLIFT on transformers; where section 4 of the paper ends."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wcx
from tests import nets
from tests.methods import linear, transformers
from wcx.errors import WcxError

NETS = ["vit", "swin", "rms"]
CONTRASTS = ["original", "mean", "max", "weighted"]


def photos() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_autograds(name: str) -> None:
    net, images, target = transformers.made(name), photos(), torch.tensor([0, 5])
    leaf = images.clone().requires_grad_()
    logits = net(leaf)
    classes = [torch.autograd.grad(logits[:, s].sum(), leaf, retain_graph=True)[0] for s in range(nets.CLASSES)]
    for contrast in CONTRASTS:
        v = wcx.cotangent(logits, target, contrast)
        expected = torch.einsum("ns,snchw->nchw", v, torch.stack(classes))
        gradient = wcx.explain(net, images, target, "gradient", contrast)
        product = wcx.explain(net, images, target, "input_x_gradient", contrast)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(product, images * expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "options"),
    [("integrated_gradients", {"steps": 4}), ("gradient", {"samples": 3}), ("input_x_gradient", {"samples": 3})],
)
@pytest.mark.parametrize("name", NETS)
def test_paths_and_samples_are_the_sum_over_classes(name: str, method: str, options: dict[str, Any]) -> None:
    net, images, target = transformers.made(name), photos(), torch.tensor([0, 5])
    phis = torch.stack([wcx.explain(net, images, s, method, "original", **options) for s in range(nets.CLASSES)], 1)
    explained = partial(wcx.explain, net, images, target, method, **options)
    linear.check(explained, phis, net(images), target, names=CONTRASTS)


def test_integrated_gradients_are_complete() -> None:
    """To 1e-3 of logits of size 1, in 200 steps of a smooth network."""
    net, images = transformers.made("vit"), photos()
    maps = wcx.explain(net, images, 1, "integrated_gradients", "weighted", steps=200)
    v = wcx.cotangent(net(images), 1, "weighted")
    change = (v * (net(images) - net(torch.zeros_like(images)))).sum(1).detach()
    torch.testing.assert_close(maps.sum((1, 2, 3)), change, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_deeplift_has_no_rule_for_layer_norm_and_says_so(name: str) -> None:
    with pytest.raises(WcxError, match=r"layer_norm, for which there is no rescale rule; use integrated_gradients\.$"):
        wcx.explain(transformers.made(name), photos(), 0, "deeplift")


def test_section_4_ends_at_gelu_and_layer_norm() -> None:
    """Without biases a ReLU network is homogeneous, and its methods are one; a ViT is not, and they are three.

    0.1 of the larger map: the methods agree to 1e-9 where the theorem holds (tests/test_theory.py).
    """
    net, images = transformers.made("vit"), photos()
    for key, parameter in net.named_parameters():
        if "bias" in key or key in ("class_token", "encoder.pos_embedding"):
            nn.init.zeros_(parameter)
    with torch.no_grad():
        doubled, alone = net(2 * images), net(images)
    assert (doubled - 2 * alone).norm() > 0.1 * alone.norm()
    options = {"input_x_gradient": {}, "integrated_gradients": {"steps": 32}, "lrp": {"composite": "attnlrp"}}
    maps = [wcx.explain(net, images, 1, method, "weighted", **chosen) for method, chosen in options.items()]
    for first, second in combinations(maps, 2):
        assert (first - second).norm() > 0.1 * max(first.norm(), second.norm())
