"""Kind D: batch independence was assumed. A path's steps never share a batch of a network that mixes the images of one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wcx
from tests import nets
from tests.methods.brute_force import error
from wcx import models
from wcx.errors import WcxError
from wcx.images import Normalized
from wcx.methods import base

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLES, STEPS = 6, 7


class Mixing(nn.Module):
    """A small network with a function of the whole batch behind its convolution."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 6, 3, padding=1)
            self.head = nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
            self.last = nn.Linear(24, 5)
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.mix(self.stem(x))).tanh())


class AlwaysTraining(nn.BatchNorm2d):
    """Takes no notice of eval mode, as modules of some do that override train()."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=True)


def attention(x: Tensor) -> Tensor:
    rows = x.flatten(1)
    return ((rows @ rows.T / 20).softmax(1) @ rows).view_as(x)


def in_time(x: Tensor) -> Tensor:
    """An RNN that takes the batch for the time (batch_first forgotten)."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        rnn = nn.RNN(6, 6).to(x.dtype).requires_grad_(requires_grad=False)
    return x + rnn(x.mean((2, 3))[:, None])[0][:, 0, :, None, None]


def halves(x: Tensor) -> Tensor:
    """Mixes pairs, as TSM's shift of segments does, and an odd batch with itself."""
    return x + 0.5 * x.roll(len(x) // 2, 0)


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "BatchNorm without running statistics": nn.BatchNorm2d(6, track_running_stats=False).double(),
    "F.batch_norm(training=True)": lambda x: F.batch_norm(x, None, None, training=True),
    "a BatchNorm that is always in training": AlwaysTraining(6).double(),
    "x - x.mean(0)": lambda x: x - 0.9 * x.mean(0),
    "x / x.std()": lambda x: x / x.std(),
    "x / x.abs().max()": lambda x: x / x.abs().max(),
    "x - x.amin()": lambda x: x - x.amin(),
    "from the first on": lambda x: x.cumsum(0),
    "from the last on": lambda x: x.flip(0).cumsum(0).flip(0),
    "attention over the batch": attention,
    "an RNN over the batch": in_time,
    "halves": halves,
}


def photos(n: int) -> Tensor:
    return torch.rand(n, 3, 10, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def step(model: nn.Module, points: Tensor, v: Tensor) -> Tensor:
    """Return the gradient at one step: one class of one image at a time, the N images in one batch, as the caller has them."""
    total = torch.zeros_like(points)
    for i in range(len(points)):
        for s, weight in enumerate(v[i].tolist()):
            leaf = points.clone().requires_grad_()
            total += weight * torch.autograd.grad(model(leaf + 0)[i, s], leaf)[0]
    return total


def by_hand(model: nn.Module, images: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Return integrated gradients from 0, SmoothGrad and its input x gradient, step by step."""
    spread = images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)
    noise = [
        torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(s), dtype=torch.float64)
        for s in range(SAMPLES)
    ]
    cloud = [images + 0.15 * spread * pattern for pattern in noise]
    path = [(s + 0.5) / STEPS * images for s in range(STEPS)]
    slopes = [step(model, points, v) for points in cloud]
    return {
        "integrated_gradients": images * sum(step(model, points, v) for points in path) / STEPS,
        "gradient": sum(slopes) / SAMPLES,
        "input_x_gradient": sum(a * b for a, b in zip(cloud, slopes, strict=True)) / SAMPLES,
    }


def options(method: str) -> dict[str, int]:
    return {"steps": STEPS} if method == "integrated_gradients" else {"samples": SAMPLES}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", MIXING)
def test_a_network_that_mixes_its_batch_is_walked_step_by_step(name: str, n: int) -> None:
    """Rounding in float64 is the tolerance; on the way, the default batch size, a small one and one step at a time."""
    model, images = Mixing(MIXING[name]).double().eval(), photos(n)
    v = wcx.cotangent(model(images).detach(), 1)
    for method, right in by_hand(model, images, v).items():
        for size in ({}, {"batch_size": 4}, {"batch_size": 1}):
            maps = wcx.explain(model, images, 1, method, **options(method), **size)
            assert error(maps, right) < 1e-9, (method, size)


@pytest.mark.parametrize("n", [1, 3])
def test_the_mixing_is_seen_behind_a_wrapper_and_from_any_baseline(n: int) -> None:
    model = Normalized(Mixing(MIXING["BatchNorm without running statistics"]).double(), [0.4] * 3, [0.3] * 3)
    model, images = model.double().eval(), photos(n)
    for baseline in ("zeros", "mean", "blur", torch.tensor(1.0)):
        together, alone = (
            wcx.explain(model, images, 1, "integrated_gradients", baseline=baseline, steps=STEPS, batch_size=size)
            for size in (100, 1)
        )
        assert error(together, alone) < 1e-12, baseline


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_mixing_is_seen_in_every_precision(dtype: torch.dtype) -> None:
    model, images = Mixing(MIXING["x - x.mean(0)"]).to(dtype).eval(), photos(1).to(dtype)
    for method in ("integrated_gradients", "gradient"):
        together, alone = (
            wcx.explain(model, images, 1, method, batch_size=size, **options(method)) for size in (100, 1)
        )
        assert torch.equal(together, alone)


def test_completeness_holds_for_one_image() -> None:
    """The issue's figures: mixed steps summed to -0.009 where the output changes by -0.257.

    Half way to a black image the statistics turn with the image, which 400 steps miss by 2 %.
    """
    model, images = Mixing(MIXING["BatchNorm without running statistics"]).double().eval(), photos(1)
    run = wcx.Explainer(model, "integrated_gradients", steps=400)(images)
    maps = run.explain(wcx.cotangent(run.logits, 1))
    assert abs(float(run.residual)) < 0.05 * abs(float(maps.sum() - run.residual))


class OneSize(nn.Module):
    """A network exported for batches of n."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.net, self.n = nets.conv_batchnorm().double(), n

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.reshape(self.n, 3, 16, 16))


@pytest.mark.parametrize("n", [1, 2])
def test_a_network_for_batches_of_one_size_is_walked_step_by_step(n: int) -> None:
    images = nets.images(n).double()
    for method in ("integrated_gradients", "gradient"):
        maps = wcx.explain(OneSize(n).eval(), images, 1, method, **options(method))
        assert error(maps, wcx.explain(nets.conv_batchnorm().double(), images, 1, method, **options(method))) < 1e-10


class Sizes(nn.Module):
    """Keeps the sizes of the batches that came by."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.seen = Mixing(mix).double().eval(), []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.net(x)


@pytest.mark.parametrize(
    ("size", "n", "expected"), [(8, 1, [1, 3, 3, 7]), (4, 1, [1, 3, 3, 4, 3]), (4, 2, [2, 3, 3, 4, 4, 4, 2])]
)
def test_two_passes_of_three_images_are_what_it_costs_a_network_that_keeps_them_apart(
    size: int, n: int, expected: list[int]
) -> None:
    model = Sizes(lambda x: x)
    wcx.explain(model, photos(n), 1, "integrated_gradients", steps=7, batch_size=size)
    assert model.seen == expected


@pytest.mark.parametrize(("n", "batch_size", "steps"), [(3, 5, 7), (1, 1, 7), (2, 32, 1)])
def test_it_costs_nothing_where_steps_go_alone_anyway(n: int, batch_size: int, steps: int) -> None:
    model = Sizes(lambda x: x)
    wcx.explain(model, photos(n), 1, "integrated_gradients", steps=steps, batch_size=batch_size)
    assert model.seen == [n] + steps * [n]


def test_a_network_that_mixes_goes_step_by_step_for_every_cotangent() -> None:
    model = Sizes(MIXING["x - x.mean(0)"])
    run = wcx.Explainer(model, "integrated_gradients", steps=4)(photos(1))
    for contrast in ("weighted", "original"):
        run.explain(wcx.cotangent(run.logits, 1, contrast))
    assert model.seen == [1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1]


def test_out_of_memory_of_that_pass_is_not_taken_for_a_network_of_one_size() -> None:
    class Full(Sizes):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 3:
                raise torch.OutOfMemoryError
            return super().forward(x)

    with pytest.raises(torch.OutOfMemoryError):
        wcx.explain(Full(lambda x: x), photos(1), 1, "integrated_gradients")


def test_the_box_of_lrp_is_that_of_black_and_of_white_each_alone() -> None:
    """Preprocessing that subtracts the batch's mean would see grey between black and white: a box of another width."""

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nets.bias_free().double()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x - 0.5 * x.mean(0))

    seen: list[Tensor] = []
    model = Centred()
    model.net[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0].detach().clone()))
    images = nets.images(1).double()
    wcx.explain(model, images, 1, "lrp", composite="epsilon_gamma_box", low=-2.0, high=2.0)
    low, high = seen[1:3]  # behind the images
    assert bool((low == -1).all())
    assert bool((high == 1).all())


@pytest.mark.parametrize("method", ["deeplift", "lrp"])
def test_deeplift_and_lrp_know_no_rule_for_the_statistics_of_a_batch(method: str) -> None:
    for name in ("BatchNorm without running statistics", "F.batch_norm(training=True)"):
        with pytest.raises(WcxError, match=r"batch_norm.*no (rescale )?rule"):
            wcx.explain(Mixing(MIXING[name]).double().eval(), photos(2), 1, method)


def test_versions_say_whose_numbers_moved() -> None:
    moved = {"integrated_gradients": {}, "gradient": {"samples": 3}, "input_x_gradient": {"samples": 3}}
    for name in wcx.methods.names(transformers=False):
        version = 2 if name in ("integrated_gradients", "occlusion", "rise") else 1
        version = 3 if name == "lrp" or wcx.methods.get(name).space == "activation" else version
        assert wcx.methods.create(name).version == version
        assert wcx.methods.create(name, **moved.get(name, {})).version == (2 if name in moved else version)


class Stem(nn.Module):
    """Convolution, BatchNorm, tokens, LayerNorm: the stem of XCiT and of hybrids."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.norm = nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6), nn.LayerNorm(6)
        self.head = nn.Linear(6, 5)
        nn.init.normal_(self.bn.weight)
        nn.init.uniform_(self.bn.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.head(self.norm(self.bn(self.conv(x)).flatten(2).transpose(1, 2)))
        return (tokens * torch.arange(tokens.shape[1])[:, None]).mean(1)


@pytest.mark.parametrize(
    ("method", "layer"), [("gradient", None), ("gradcam", "conv"), ("linear_approximation", "conv"), ("lrp", None)]
)
def test_an_image_alone_has_the_map_that_it_has_beside_another(method: str, layer: str | None) -> None:
    """PyTorch's BatchNorm has the wrong gradient for one image whose gradient is laid out as tokens (1.4 of its norm wrong)."""
    torch.manual_seed(0)
    net, images = Stem().double().eval(), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    v = torch.randn(2, 5, dtype=torch.float64)
    both, alone = (wcx.Explainer(net, method, layer=layer)(x).explain(v[: len(x)]) for x in (images, images[:1]))
    assert error(alone, both[:1]) <= 1e-12


def test_the_gradient_of_an_image_alone_is_the_change_of_the_logits() -> None:
    """By central differences, which know no layout; 1e-6: of their rounding."""
    torch.manual_seed(0)
    net, image = Stem().double().eval(), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    direction, step = torch.randn_like(image), 1e-5
    with torch.no_grad():
        expected = (net(image + step * direction) - net(image - step * direction))[0, 1] / (2 * step)
    [[map]] = wcx.explain(net, image, 1, "gradient", ["original"])
    assert abs(float((map * direction).sum() - expected)) <= 1e-6 * abs(float(expected))


def moved(name: str, side: int, method: str) -> float:
    """Return how far the mend of BatchNorm's gradient moves a map of one image alone, of its norm; in channels last."""
    loaded = models.load(name, weights="random", num_classes=5).to_channels_last()
    for module in loaded.net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.3, generator=torch.Generator().manual_seed(0))
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    mended = wcx.explain(loaded.model, image, 1, method)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_laid_out", lambda _model: nullcontext())
        before = wcx.explain(loaded.model, image, 1, method)
    return error(mended, before)


@pytest.mark.parametrize("name", ["small_cnn", "mobilenet_v2", "mobilenet_v3_small", "mnasnet1_0", "resnet18"])
def test_networks_of_the_zoo_did_not_move_by_a_bit(name: str) -> None:
    """Nor did, when measured, vgg16_bn, googlenet, densenet161, efficientnet_b1 and mobilenet_v3_large: no version rose."""
    assert not base.has_both_layouts(models.load(name, weights="random", num_classes=5).net)
    assert moved(name, 64, "gradient") == moved(name, 64, "gradcam") == 0


def test_hybrids_of_batchnorm_and_tokens_moved_and_their_records_have_another_fingerprint() -> None:
    assert moved("maxvit_t", 224, "gradient") > 1e-3
    assert base.has_both_layouts(models.load("maxvit_t", weights="random", num_classes=5).net)
    assert base.has_both_layouts(Stem())
    assert not base.has_both_layouts(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm(4)))
