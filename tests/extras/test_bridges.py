"""A wcx contrast inside captum, pytorch-grad-cam, torch-cam, zennit and Quantus: the same maps as wcx's own, to 1e-5."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wcx
from wcx import bridges
from wcx.errors import WcxError

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}  # float32, other orders of summation
FOILS = [0, 3]


class Net(nn.Module):
    """What captum's LRP has rules for: no Flatten, each module once."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Linear(32, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(images)).flatten(1))


@pytest.fixture
def network() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([1, 2, 4])


def _v(network: Net, images: Tensor) -> Tensor:
    return bridges.frozen(network, images, TARGETS, "weighted", FOILS)


@pytest.mark.parametrize(("peer", "method"), [("Saliency", "gradient"), ("InputXGradient", "input_x_gradient")])
def test_captum_explains_the_contrast(network: Net, images: Tensor, peer: str, method: str) -> None:
    attr = pytest.importorskip("captum.attr")
    forward = bridges.Contrasted(network, _v(network, images))
    options = {"abs": False} if peer == "Saliency" else {}
    explained = getattr(attr, peer)(forward).attribute(images.clone().requires_grad_(), **options)
    torch.testing.assert_close(explained, wcx.explain(network, images, TARGETS, method, "weighted", FOILS), **TOLERANCE)


def test_captums_integrated_gradients_repeat_the_contrast_with_the_batch(network: Net, images: Tensor) -> None:
    attr = pytest.importorskip("captum.attr")
    forward = bridges.Contrasted(network, _v(network, images))
    explained = attr.IntegratedGradients(forward).attribute(images, n_steps=8, method="riemann_middle")
    expected = wcx.explain(network, images, TARGETS, "integrated_gradients", "weighted", FOILS, steps=8)
    torch.testing.assert_close(explained, expected, **TOLERANCE)


def test_captums_lrp_takes_the_contrast_as_a_last_layer(network: Net, images: Tensor) -> None:
    attr = pytest.importorskip("captum.attr")
    network, images = network.double(), images.double()  # and captum's epsilon: its quotients are of small sums
    v = _v(network, images)
    expected = wcx.explain(network, images, TARGETS, "lrp", "weighted", FOILS, composite="epsilon", epsilon=1e-9)
    for i in range(len(images)):
        explained = attr.LRP(bridges.last_layer(network, v[i : i + 1])).attribute(
            images[i : i + 1].clone().requires_grad_()
        )
        torch.testing.assert_close(explained, expected[i : i + 1], **TOLERANCE)


def test_grad_cam_takes_the_contrast_as_targets(network: Net, images: Tensor) -> None:
    peer = pytest.importorskip("pytorch_grad_cam")
    scale = pytest.importorskip("pytorch_grad_cam.utils.image").scale_cam_image
    with peer.GradCAM(network, [network.features[4]]) as cam:
        explained = cam(images, targets=bridges.targets(_v(network, images)))
    maps = wcx.explain(network, images, TARGETS, "gradcam", "weighted", FOILS, layer="features.4").clamp(min=0).numpy()
    expected = scale(np.maximum(scale(maps, (16, 16)), 0))  # the peer's own ReLU and scaling
    np.testing.assert_allclose(explained, expected, **TOLERANCE)


def test_torch_cam_takes_the_contrast_as_targets(network: Net, images: Tensor) -> None:
    peer = pytest.importorskip("torchcam.methods")
    v = _v(network, images)
    with peer.GradCAM(network, target_layer="features.4") as cam:
        scores = network(images.requires_grad_())
        [explained] = cam(scores=scores, targets=bridges.targets(v), normalized=False)
    expected = wcx.explain(network, images.detach(), TARGETS, "gradcam", "weighted", FOILS, layer="features.4").clamp(
        min=0
    )
    torch.testing.assert_close(explained.detach(), expected, **TOLERANCE)


@pytest.mark.parametrize("lrp", [False, True])
def test_zennit_starts_with_the_contrast(network: Net, images: Tensor, lrp: bool) -> None:
    attribution = pytest.importorskip("zennit.attribution")
    composite = pytest.importorskip("zennit.composites").EpsilonPlus(epsilon=1e-6) if lrp else None
    seed = bridges.attr_output(TARGETS, "weighted", FOILS, relevance=lrp)
    with attribution.Gradient(network, composite) as attributor:
        _, explained = attributor(images.clone().requires_grad_(), seed)
    method, options = ("lrp", {"composite": "epsilon_plus"}) if lrp else ("gradient", {})
    expected = wcx.explain(network, images, TARGETS, method, "weighted", FOILS, **options)
    torch.testing.assert_close(explained, expected, **TOLERANCE)


def test_quantus_takes_the_explanation_and_the_value_function(network: Net, images: Tensor) -> None:
    quantus = pytest.importorskip("quantus")
    explained = bridges.explain_func("input_x_gradient", "weighted", FOILS)
    metric = quantus.FaithfulnessCorrelation(nr_runs=4, subset_size=32, return_aggregate=False, disable_warnings=True)
    scores = metric(
        model=bridges.LogOdds(network, FOILS),
        x_batch=images.numpy(),
        y_batch=TARGETS.numpy(),
        a_batch=None,
        explain_func=lambda model, inputs, targets, **_: explained(model.model, inputs, targets),
        softmax=False,
        device="cpu",
    )
    assert len(scores) == len(images)
    assert np.isfinite(scores).all()
    maps = explained(network, images.numpy(), TARGETS.numpy())
    expected = wcx.explain(network, images, TARGETS, "input_x_gradient", "weighted", FOILS).sum(1)
    np.testing.assert_allclose(maps[:, 0], expected.numpy(), **TOLERANCE)


def test_the_gradient_of_the_log_odds_is_the_weighted_contrast(network: Net, images: Tensor) -> None:
    images = images.clone().requires_grad_()
    values = bridges.LogOdds(network, FOILS)(images).gather(1, TARGETS[:, None]).sum()
    (gradient,) = torch.autograd.grad(values, images)
    expected = wcx.explain(network, images.detach(), TARGETS, "gradient", "weighted", FOILS)
    torch.testing.assert_close(gradient, expected, **TOLERANCE)


def test_what_does_not_fit_is_one_line(network: Net, images: Tensor) -> None:
    v = _v(network, images)
    with pytest.raises(WcxError, match="3 rows and there are 2 images"):
        bridges.Contrasted(network, v)(images[:2])
    with pytest.raises(WcxError, match="contrast of one image"):
        bridges.last_layer(network, v)
    with pytest.raises(WcxError, match="wieghted"):
        bridges.frozen(network, images, TARGETS, "wieghted")


def test_a_contrast_or_a_foil_that_does_not_fit_is_one_line(network: Net, images: Tensor) -> None:
    """v of one image (C,) was taken for C images, and the foil -1 for the last class; others ended in torch's error."""
    v = _v(network, images)
    with pytest.raises(WcxError, match=r"v is \(\d+,\), expected \(N, C\)"):
        bridges.targets(v[0])
    for wrong in (v[:, :-1], v[0]):
        with pytest.raises(WcxError, match=rf"and the model has {v.shape[1]} classes"):
            bridges.Contrasted(network, wrong)(images)
    for foil in (-1, v.shape[1]):
        with pytest.raises(WcxError, match=rf"foil {foil} is out of range: the model has {v.shape[1]} classes"):
            bridges.LogOdds(network, [foil])(images)
