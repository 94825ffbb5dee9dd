"""Kind B: the caller's tensor was handed to foreign code. Networks, contrasts and callers that write into what they have."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wcx
from tests import nets
from tests.methods import brute_force
from tests.methods.brute_force import METHODS, error
from wcx.errors import WcxError
from wcx.methods.activation import ActivationMethod

pytestmark = pytest.mark.usefixtures("one_thread")

MEAN = torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64).view(-1, 1, 1)


def write_rows(x: Tensor) -> Tensor:
    for i in range(len(x)):
        x[i].sub_(MEAN).div_(0.25)
    return x


def write_channel(x: Tensor) -> Tensor:
    x[:, 0] = 0.5 * x[:, 0]
    x[:, 1:].mul_(2)
    return x


def write_data(x: Tensor) -> Tensor:
    x.data.mul_(2)
    return x


# Each writes into its input; beside it the same function, out of place.
WRITERS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sub_ and div_": (lambda x: x.sub_(MEAN).div_(0.25), lambda x: (x - MEAN) / 0.25),
    "-= and /=": (lambda x: x.__isub__(MEAN).__itruediv__(0.25), lambda x: (x - MEAN) / 0.25),
    "image by image": (write_rows, lambda x: (x - MEAN) / 0.25),
    "channels": (write_channel, lambda x: torch.cat([x[:, :1] / 2, 2 * x[:, 1:]], 1)),
    "relu": (lambda x: F.relu(x.sub_(0.5), inplace=True), lambda x: F.relu(x - 0.5)),
    "clamp_": (lambda x: x.clamp_(0.1, 0.9), lambda x: x.clamp(0.1, 0.9)),
    "a transposed view": (lambda x: x.transpose(2, 3).mul_(3).transpose(2, 3), lambda x: 3 * x),
}


class Writing(nn.Module):
    """A network behind a function of the pixels."""

    def __init__(self, first: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.net = first, nets.conv_batchnorm().double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.first(x))


def photos(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def expected(model: Writing, images: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Return what all methods but DeepLIFT and LRP have to give, for the function out of place and the layer "net.2"."""
    slope = brute_force.gradient(model, images, v)
    return {
        "gradient": slope,
        "input_x_gradient": images * slope,
        "integrated_gradients": brute_force.integrated(model, images, v, torch.zeros_like(images), steps=4),
        **brute_force.cams(lambda x: model.net[:3](model.first(x)), model.net[3:], images, v),
    }


@pytest.mark.parametrize("name", WRITERS)
def test_a_network_that_writes_into_its_input_is_explained_as_the_same_function_out_of_place(name: str) -> None:
    """Every method, layers named and found, to rounding in float64. DeepLIFT and LRP against their own maps of that function."""
    writing, plain = (Writing(first) for first in WRITERS[name])
    clean = photos()
    v = wcx.cotangent(plain(clean).detach(), 1)
    by_hand = expected(plain, clean, v)
    for method in METHODS if name != "image by image" else [m for m in METHODS if m != "lrp"]:  # which counts by image
        options = {"steps": 4} if method == "integrated_gradients" else {}
        for layer in ("net.2", None) if method in brute_force.ACTIVATION else (None,):
            images = clean.clone()
            maps = wcx.explain(writing, images, 1, method, layer=layer, **options)
            right = by_hand[method] if method in by_hand else wcx.explain(plain, clean, 1, method)
            assert error(maps, right) < 1e-10, (method, layer)
            assert torch.equal(images, clean), (method, layer)


@pytest.mark.parametrize("method", METHODS)
def test_writing_past_autograd_leaves_the_callers_images_alone(method: str) -> None:
    images = photos()
    with pytest.raises(WcxError, match="out of sight") if method == "deeplift" else nullcontext():
        wcx.explain(Writing(write_data), images, 1, method)
    assert torch.equal(images, photos())


@pytest.mark.parametrize("layout", ["requires grad", "channels last", "one image expanded", "a slice", "inference"])
@pytest.mark.parametrize("method", METHODS)
def test_images_of_any_kind_may_be_written_into(method: str, layout: str) -> None:
    clean = photos()[:1].expand(2, -1, -1, -1)
    images = {
        "requires grad": clean.clone().requires_grad_(),
        "channels last": clean.clone(memory_format=torch.channels_last),
        "one image expanded": photos()[:1].expand(2, -1, -1, -1),
        "a slice": torch.cat([clean, clean])[1:3],
    }
    if layout == "inference":
        with torch.inference_mode():
            images[layout] = clean.clone()
    writing, plain = (Writing(first) for first in WRITERS["sub_ and div_"])
    maps = wcx.explain(writing, images[layout], 1, method)
    assert not maps.requires_grad
    assert error(maps, wcx.explain(plain, clean.clone(), 1, method)) < 1e-10
    assert torch.equal(images[layout], clean)
    assert images[layout].grad is None


@pytest.mark.parametrize("method", METHODS)
def test_a_cotangent_function_that_writes_into_the_logits_spoils_nothing(method: str) -> None:
    model, images = nets.conv_batchnorm().double(), nets.images().double()

    def greedy(logits: Tensor) -> Tensor:
        return logits.softmax(1) - logits.zero_().add_(0.1)

    options = {"steps": 4} if method == "integrated_gradients" else {}
    run = wcx.Explainer(model, method, **options)(images)
    logits = model(images).detach()
    for _ in range(2):
        maps = run.explain(greedy)
        assert torch.equal(run.logits, logits)
    calm = wcx.Explainer(model, method, **options)(images).explain(lambda logits: logits.softmax(1) - 0.1)
    assert error(maps, calm) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_what_the_caller_writes_into_later_plays_no_part(method: str) -> None:
    """Images, baseline and logits overwritten between run and explain, v between explain and residual."""
    model, images, baseline = (
        nets.conv_batchnorm().double(),
        nets.images().double(),
        torch.full((3, 1, 1), 0.2).double(),
    )
    options = {
        "integrated_gradients": {"steps": 4, "baseline": baseline},
        "deeplift": {"baseline": baseline},
        "gradient": {"samples": 3},
        "input_x_gradient": {"samples": 3},
    }.get(method, {})
    run = wcx.Explainer(model, method, **options)(images.clone())
    v = wcx.cotangent(run.logits, 1)
    right, residual = run.explain(v), getattr(run, "residual", None)

    written = images.clone()
    run = wcx.Explainer(model, method, **options)(written)
    written.fill_(7)
    baseline.fill_(7)
    later = v.clone()
    maps = run.explain(later)
    later.fill_(7)
    assert error(maps, right) < 1e-12
    if residual is not None:
        torch.testing.assert_close(run.residual, residual, rtol=1e-6, atol=1e-13)


def test_input_x_gradient_multiplies_by_the_image_of_the_forward_pass() -> None:
    model, images = nets.conv_batchnorm().double(), nets.images().double()
    right = wcx.explain(model, images, 1, "input_x_gradient")
    run = wcx.Explainer(model, "input_x_gradient")(images)
    v = wcx.cotangent(run.logits, 1)
    images.mul_(3)
    assert error(run.explain(v), right) < 1e-12


@pytest.mark.parametrize("name", ["sub_ and div_", "clamp_", "channels"])
def test_the_callers_baseline_low_and_high_are_left_alone(name: str) -> None:
    writing, plain = (Writing(first) for first in WRITERS[name])
    images = photos()
    baseline, low, high = (torch.full((3, 16, 16), value, dtype=torch.float64) for value in (0.3, 0.0, 1.0))
    box = {"composite": "epsilon_gamma_box", "low": low, "high": high}
    path = {"steps": 4, "baseline": baseline}
    for method, options in {"integrated_gradients": path, "deeplift": {"baseline": baseline}, "lrp": box}.items():
        maps = wcx.explain(writing, images, 1, method, **options)
        assert error(maps, wcx.explain(plain, images, 1, method, **options)) < 1e-10, method
    for tensor, value in ((baseline, 0.3), (low, 0.0), (high, 1.0)):
        assert bool((tensor == value).all())
    assert torch.equal(images, photos())


def test_several_methods_share_a_run_of_such_a_network() -> None:
    """`explain_each`, as the masking experiment calls it."""
    writing, plain = (Writing(first) for first in WRITERS["sub_ and div_"])
    images = photos()
    rules: dict[str, ActivationMethod] = {name: wcx.methods.create(name) for name in brute_force.ACTIVATION}
    run = wcx.Explainer(writing, layer="net.2")(images)
    v = wcx.cotangent(run.logits, 1, ["original", "weighted"])
    right = [brute_force.cams(lambda x: plain.net[:3](plain.first(x)), plain.net[3:], photos(), one) for one in v]
    for name, maps in run.explain_each(rules, v).items():
        assert error(maps, torch.stack([each[name] for each in right])) < 1e-10
    assert torch.equal(images, photos())
