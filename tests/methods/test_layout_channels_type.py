"""Kind C: layout, channels and type were assumed. Images of any number of channels, and images that do not fit the network."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wcx
from tests.methods import brute_force
from tests.methods.brute_force import ACTIVATION, METHODS, error
from wcx.errors import WcxError
from wcx.images import Normalized

pytestmark = pytest.mark.usefixtures("one_thread")

WAYS: dict[str, dict[str, object]] = {  # every method, and those options that have passes of their own
    **{name: {"method": name} for name in METHODS},
    "box": {"method": "lrp", "composite": "epsilon_gamma_box"},
    "smoothgrad": {"method": "gradient", "samples": 3},
    "ig from black": {"method": "integrated_gradients", "space": "pixel"},
    "deeplift from black": {"method": "deeplift", "space": "pixel"},
}


def net(channels: int = 3, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(channels)
        return nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 5),
        ).to(dtype)


def pixels(channels: int = 3, n: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    images = torch.rand(n, channels, 9, 8, generator=torch.Generator().manual_seed(channels), dtype=torch.float64)
    return images.to(dtype)


# --- channels -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "Normalized"])
@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_channels_are_the_networks(channels: int, wrapped: bool) -> None:
    """Every method against plain autograd; DeepLIFT and LRP against integrated gradients' sum and their own residuals."""
    inner, images = net(channels, torch.float64).eval(), pixels(channels, dtype=torch.float64)
    mean, std = ([0.13, 0.2, 0.3, 0.4] * 3)[:channels], ([0.31, 0.2, 0.25, 0.3] * 3)[:channels]
    model = Normalized(inner, mean, std).double() if wrapped else inner
    v = wcx.cotangent(model(images).detach(), 1)
    slope = brute_force.gradient(model, images, v)
    start = (model.mean if wrapped else torch.zeros(1, dtype=torch.float64)).expand_as(images)
    right = {
        "gradient": slope,
        "input_x_gradient": images * slope,
        "integrated_gradients": brute_force.integrated(model, images, v, start, steps=6),
        **brute_force.cams(lambda x: inner[:4](model.normalise(x) if wrapped else x), inner[4:], images, v),
    }
    for method in METHODS:
        run = wcx.Explainer(model, method, **({"steps": 6} if method == "integrated_gradients" else {}))(images)
        maps = run.explain(v)
        assert maps.shape == right.get(method, slope).shape
        assert error(maps, right[method]) < 1e-10 if method in right else float(run.residual.abs().max()) < 1e-12


@pytest.mark.parametrize("channels", [1, 4])
def test_black_and_white_of_a_normalized_network_are_known_for_any_number_of_channels(channels: int) -> None:
    """Against the inner network, which gets the same colours as tensors of normalised values."""
    inner, images = net(channels, torch.float64), pixels(channels, dtype=torch.float64)
    model = Normalized(inner, [0.13] * channels, [0.31] * channels).double()
    black, white = ((torch.full((channels, 1, 1), colour) - model.mean) / model.std for colour in (0.0, 1.0))
    normalised = model.normalise(images)
    for method in ("integrated_gradients", "deeplift"):
        maps = wcx.explain(model, images, 1, method, space="pixel")
        assert error(maps, wcx.explain(inner, normalised, 1, method, baseline=black)) < 1e-10, method
    # In float64 but for the float32 mean and std of `Normalized`, cast; the box rule leaves relevance with its pixel.
    maps = wcx.explain(model, images, 1, "lrp", composite="epsilon_gamma_box")
    right = wcx.explain(inner, normalised, 1, "lrp", composite="epsilon_gamma_box", low=black, high=white)
    assert error(maps, right) < 1e-10


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_black_is_not_known_for_a_bare_network_of_other_channels_and_one_line_names_the_way_out(channels: int) -> None:
    model, images = net(channels), pixels(channels)
    plural = "channel:" if channels == 1 else "channels:"
    lines = {"baseline=<a tensor>": ("ig from black", "deeplift from black"), "low and high": ("box",)}
    for instead, ways in lines.items():
        for way in ways:
            with pytest.raises(WcxError) as caught:
                wcx.explain(model, images, 1, **WAYS[way])
            words = str(caught.value)
            assert words.startswith(f"images of {channels} {plural}")
            assert "wcx.models.Normalized(model, mean=[...], std=[...])" in words
            assert words.endswith(f"or give {instead}.")
            assert "of shape" not in words  # no blame for a `low` that nobody gave
    with pytest.raises(WcxError, match="low and high"):
        wcx.explain(model, images, 1, **WAYS["box"], low=0.0)


@pytest.mark.parametrize("channels", [1, 4])
def test_the_ways_out_work(channels: int) -> None:
    model, images = net(channels), pixels(channels)
    for way in ("ig from black", "deeplift from black"):
        for baseline in (torch.zeros(channels, 1, 1), "mean", "blur"):  # the names but "zeros" need no black
            assert bool(wcx.explain(model, images, 1, **WAYS[way], baseline=baseline).isfinite().all())
    for low, high in ((0.0, 1.0), ([0.0] * channels, torch.ones(channels)), (torch.zeros(channels, 9, 8), 1.0)):
        assert bool(wcx.explain(model, images, 1, **WAYS["box"], low=low, high=high).isfinite().all())


def test_a_low_that_does_not_fit_is_still_named() -> None:
    with pytest.raises(WcxError, match=r"low or high of shape \(3, 1, 1\) does not fit images \(2, 1, 9, 8\)"):
        wcx.explain(net(1), pixels(1), 1, **WAYS["box"], low=[0.0, 0.0, 0.0], high=1.0)


def test_a_mean_of_three_channels_is_no_zero_for_grey_images() -> None:
    """`Normalized` turns one channel into three, so that the network runs; a mean colour is not one grey."""
    model, images = Normalized(net()), pixels(1)
    assert wcx.explain(model, images, 1, "gradient").shape == images.shape
    for method in ("integrated_gradients", "deeplift"):
        with pytest.raises(WcxError, match=r"images of 1 channel for a model whose mean has 3 channels; .* baseline="):
            wcx.explain(model, images, 1, method)
        assert wcx.explain(model, images, 1, method, baseline="mean").shape == images.shape


# --- images that do not fit -------------------------------------------------------------------------------------------------


class Functional(nn.Module):
    """No module but parameters: nothing to look channels up at."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, self.weight)).mean((2, 3))


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 72, 5))


NETS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": net,
    "Normalized": lambda: Normalized(net()),
    "functions": Functional,
    "linear": flat,
}
UNFIT: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "float64": (Tensor.double, "float64 images (2, 3, 9, 8)", "images.to(torch.float32)"),
    "float16": (Tensor.half, "float16 images (2, 3, 9, 8)", "images.to(torch.float32)"),
    "bfloat16": (Tensor.bfloat16, "bfloat16 images (2, 3, 9, 8)", "images.to(torch.float32)"),
    "channels last": (
        lambda x: x.permute(0, 2, 3, 1),
        "float32 images (2, 9, 8, 3)",
        "images.permute(0, 3, 1, 2)",
    ),
    "as numpy reads them": (
        lambda x: torch.from_numpy(np.ascontiguousarray(x.permute(0, 2, 3, 1).double().numpy())),
        "float64 images (2, 9, 8, 3)",
        "images.permute(0, 3, 1, 2).to(torch.float32)",
    ),
    "transparency": (lambda x: torch.cat([x, x[:, :1]], 1), "float32 images (2, 4, 9, 8)", "images[:, :3]"),
    "two channels": (lambda x: x[:, :2], "float32 images (2, 2, 9, 8)", "images with 3 channels"),
    "grey": (lambda x: x[:, :1], "float32 images (2, 1, 9, 8)", "images.expand(-1, 3, -1, -1)"),
}


FITTING = {  # what a network takes, and so is no mistake
    *(
        ("Normalized", kind) for kind in ("grey", "float16", "bfloat16")
    ),  # its means make three channels and float32 of them
    ("linear", "channels last"),  # numbers in a row have no layout
}
LAYERED = (*ACTIVATION, "box")  # the ways that need a convolution
CASES = [
    (kind, network, way)
    for kind in UNFIT
    for network in NETS
    for way in WAYS
    if (network, kind) not in FITTING and not (network in ("functions", "linear") and way in LAYERED)
]


@pytest.mark.parametrize(("kind", "network", "way"), CASES)
def test_images_that_do_not_fit_are_one_line_that_names_both_sides_and_the_fix(
    kind: str, network: str, way: str
) -> None:
    change, got, fix = UNFIT[kind]
    model, images = NETS[network](), change(pixels())
    with pytest.raises(WcxError) as caught:
        wcx.explain(model, images, 1, **WAYS[way])
    words = str(caught.value)
    assert re.fullmatch(r"the model takes torch\.float32 images \([12], 3, 9, 8\), got torch\..*; give .*\.", words), (
        words
    )
    assert got.replace("(2", "(1") in words.replace("(2", "(1")  # the box rule sends colours, one at a time
    assert words.endswith(f"; give {fix}.")
    assert isinstance(caught.value.__cause__, (RuntimeError, ValueError))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_networks_of_another_dtype_than_float32_images(dtype: torch.dtype, way: str) -> None:
    model = net(dtype=dtype).eval()
    with pytest.raises(WcxError, match=rf"takes {dtype} images .* got torch.float32 .*give images.to\({dtype}\)"):
        wcx.explain(model, pixels(), 1, **WAYS[way])
    assert bool(wcx.explain(model, pixels().to(dtype), 1, **WAYS[way]).isfinite().all())


@pytest.mark.parametrize("way", WAYS)
def test_colour_for_a_network_of_one_channel(way: str) -> None:
    with pytest.raises(
        WcxError, match=r"takes .* \([12], 1, 9, 8\), got .* \([12], 3, 9, 8\); give images.mean\(1, keep"
    ):
        wcx.explain(net(1), pixels(), 1, **WAYS[way])


class Casting(nn.Module):
    """Turns whatever it gets into float32."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.float())


@pytest.mark.parametrize("way", WAYS)
def test_a_network_that_casts_its_input_itself_takes_what_it_likes(way: str) -> None:
    model, images = Casting(), pixels()
    # From a float32 value and back: the same image; SmoothGrad's noise and a path's points are rounded, 1e-7 of their size.
    assert error(wcx.explain(model, images.double(), 1, **WAYS[way]), wcx.explain(model, images, 1, **WAYS[way])) < 1e-4
    assert wcx.explain(model, images.half(), 1, **WAYS[way]).isfinite().all()


@pytest.mark.parametrize("way", WAYS)
def test_autocast_still_casts(way: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert wcx.explain(net().eval(), pixels().bfloat16(), 1, **WAYS[way]).isfinite().all()


class Broken(nn.Module):
    """Fails whatever the images are."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.net, self.error, self.calls = net(), error, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.net(x.float())
        raise self.error


@pytest.mark.parametrize("images", [pixels(), pixels().double()], ids=["fitting", "of another dtype"])
@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("key"), NotImplementedError()], ids=repr)
@pytest.mark.parametrize("way", WAYS)
def test_errors_of_the_network_itself_stay_what_they_are(way: str, error: Exception, images: Tensor) -> None:
    model = Broken(error)
    if way == "box":  # which stops at the first convolution, the mistake behind it
        with pytest.raises(type(error)):
            wcx.explain(model, images, 1, **WAYS[way])
        return
    with pytest.raises(type(error)) as caught:
        wcx.explain(model, images, 1, **WAYS[way])
    assert caught.value is error
    assert model.calls == 1 or images.dtype == torch.float64  # nothing is tried where nothing could be changed


def test_out_of_memory_stays_so_and_nothing_is_tried() -> None:
    """The perturbation experiment halves its batch then."""
    model = Broken(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        wcx.explain(model, pixels().double(), 1, "gradient")
    assert model.calls == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("model", "name"),
    [("resnet18", "str"), (None, "NoneType"), (net, "function"), (nn.Conv2d, "type"), ({"weight": 1}, "dict")],
    ids=lambda value: str(value)[:12],
)
def test_what_is_no_module_is_one_line(model: object, name: str, way: str) -> None:
    line = f"the model is a {name}; expected an nn.Module"
    with pytest.raises(WcxError, match=line):
        wcx.explain(model, pixels(), 1, **WAYS[way])
    with pytest.raises(WcxError, match=line):  # seen when it is made, before there are images
        wcx.Explainer(model, **WAYS[way])


def test_what_the_network_refuses_by_a_hook_is_found_behind_the_mismatch() -> None:
    """Two mistakes at once: the images first, then the layer."""
    with pytest.raises(WcxError, match=r"give images\.to"):
        wcx.explain(net(), pixels().double(), 1, layer="7")
    with pytest.raises(WcxError, match="expected a map"):
        wcx.explain(net(), pixels(), 1, layer="7")
