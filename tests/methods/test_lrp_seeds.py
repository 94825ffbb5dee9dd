"""Relevance as the seed, and z+ in all layers: CLRP and SGLRP against their formulas, neuron by neuron, and against zennit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from zennit.attribution import Gradient
from zennit.composites import LayerMapComposite, layer_map_base
from zennit.rules import ZPlus
from zennit.types import Convolution

import wcx
from tests import nets
from wcx import methods
from wcx.errors import WcxError

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"composite": "z_plus", "seed": "relevance"}
TARGETS = torch.tensor([0, 4])
STABILISER = 1e-6  # zennit's


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(3)
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 6))
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(6, 5)).double()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def z_plus(layer: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
    """R_j = sum_i (x_j w_ij)^+ / (sum_j (x_j w_ij)^+ + b_i^+ + stabiliser) R_i, one output neuron i at a time."""
    with torch.no_grad():
        zero = layer(torch.zeros_like(x[None]))[0].flatten()
    units = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    with torch.no_grad():
        weights = layer(units).flatten(1).T - zero[:, None]  # (outputs, inputs)
    below = torch.zeros_like(x).flatten()
    for row, bias, r in zip(weights, zero, relevance.flatten(), strict=True):
        share = (row * x.flatten()).clamp(min=0)
        below += share / (share.sum() + bias.clamp(min=0) + STABILISER) * r
    return below.view_as(x)


def slowly(net: nn.Sequential, image: Tensor, relevance: Tensor) -> Tensor:
    """The relevance of one image (3, H, W) for relevance (C,) at the logits."""
    inputs = [image]
    with torch.no_grad():
        for layer in net[:-1]:
            inputs.append(layer(inputs[-1][None])[0])
    for layer, x in zip(net[::-1], inputs[::-1], strict=True):
        relevance = z_plus(layer, x, relevance) if isinstance(layer, nn.Conv2d | nn.Linear) else relevance.view_as(x)
    return relevance


def seeds(contrast: str, y: Tensor) -> Tensor:
    """The published relevance at the logits, class by class."""
    rows = []
    for logits, t in zip(y, TARGETS.tolist(), strict=True):
        p, others = logits.softmax(0), len(logits) - 1
        if contrast == "clrp":
            rows.append([float(logits[t]) * (1.0 if s == t else -1 / others) for s in range(len(logits))])
        else:
            rows.append([float(p[t] * (float(s == t) - p[s])) for s in range(len(logits))])
    return torch.tensor(rows, dtype=y.dtype)


@pytest.mark.parametrize("contrast", ["clrp", "probability"])
def test_clrp_and_sglrp_neuron_by_neuron(contrast: str, net: nn.Sequential, images: Tensor) -> None:
    relevance = seeds(contrast, net(images).detach())
    expected = torch.stack([slowly(net, *pair) for pair in zip(images, relevance, strict=True)])
    got = wcx.explain(net, images, TARGETS, "lrp", contrast, **OPTIONS)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)
    clipped = wcx.explain(net, images, TARGETS, "lrp", contrast, relu=True, **OPTIONS)
    assert torch.equal(clipped, got.clamp(min=0))
    assert bool((got < 0).any())


def test_the_usual_seed_is_v_times_y(net: nn.Sequential, images: Tensor) -> None:
    run = wcx.Explainer(net, "lrp", composite="z_plus")(images)
    v = wcx.cotangent(run.logits, TARGETS, "weighted")
    expected = torch.stack([slowly(net, *pair) for pair in zip(images, v * run.logits, strict=True)])
    torch.testing.assert_close(run.explain(v), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["conv_batchnorm", "bias_free"])
def test_against_zennit(name: str) -> None:
    """With eps = 0 in BatchNorm, as in test_lrp."""
    model, images = nets.ALL[name]().double(), nets.images(2).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    run = wcx.Explainer(model, "lrp", **OPTIONS)(images)
    relevance = wcx.cotangent(run.logits, 2, "probability")
    from zennit.canonizers import SequentialMergeBatchNorm

    rules = [*layer_map_base(1e-6), (Convolution, ZPlus()), (nn.Linear, ZPlus())]
    composite = LayerMapComposite(rules, canonizers=[SequentialMergeBatchNorm()])
    with Gradient(copy.deepcopy(model), composite) as attributor:
        expected = attributor(images.clone(), lambda _: relevance)[1]
    assert (run.explain(relevance) - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("composite", ["lrp_0", "epsilon", "epsilon_plus", "epsilon_gamma_box"])
def test_epsilon_in_the_classifier_is_refused_in_one_line(composite: str) -> None:
    with pytest.raises(
        WcxError, match=r"divides every class's relevance by its logit.*give composite=z_plus"
    ) as caught:
        methods.create("lrp", composite=composite, seed="relevance")
    assert "\n" not in str(caught.value)


def test_a_relevance_far_larger_than_its_logit_stays_bounded(net: nn.Sequential, images: Tensor) -> None:
    """What the refusal is for: a logit of 1e-9 with relevance 1 gives at most 1 in sum, where epsilon gave 1e6."""
    with torch.no_grad():
        net[-1].bias -= net(images[:1])[0] - 1e-9
    got = wcx.Explainer(net, "lrp", **OPTIONS)(images[:1]).explain(torch.eye(5, dtype=torch.float64)[:1])
    assert 0 < float(got.abs().sum()) <= 1


def test_only_without_a_relu_it_is_linear() -> None:
    assert methods.create("lrp").linear
    assert methods.create("lrp", **OPTIONS).linear
    assert not methods.create("lrp", relu=True).linear
