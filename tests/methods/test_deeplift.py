"""DeepLIFT against captum and summation to delta, and what every method promises."""

from __future__ import annotations

import copy
import weakref
from functools import partial

import pytest
import torch
import torchvision
from captum.attr import DeepLift as Captum
from torch import Tensor, nn
from torch.nn import functional as F

import wcx
from tests import nets
from tests.methods import linear
from tests.methods.modules import Function, net_of
from wcx import contrasts
from wcx.errors import WcxError
from wcx.images import Normalized

METHOD = "deeplift"
captum_warns = pytest.mark.filterwarnings(r"ignore:\s*(Setting forward|Input Tensor 0 did not):UserWarning")


class Weighed(nn.Module):
    """(x, v) -> sum_s v_s y_s: a contrast for captum."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        return (self.model(x) * v).sum(1, keepdim=True)


def separated(model: nn.Module) -> nn.Module:
    """Put a copy before each max pooling: captum 0.9 drops its rule where the input is the very output of a ReLU."""
    for name, child in model.named_children():
        if isinstance(child, nn.MaxPool2d):
            setattr(model, name, nn.Sequential(Function(torch.clone), child))
        else:
            separated(child)
    return model


@captum_warns
@pytest.mark.parametrize("contrast", ["original", "mean", "max", "weighted", "finer"])
@pytest.mark.parametrize("net", ["conv_batchnorm", "bias_free", "smooth"])
def test_against_captum(net: str, contrast: str) -> None:
    if net == "smooth":
        kinds = [nn.Sigmoid(), nn.Tanh(), nn.ELU(), nn.Softplus(), nn.LeakyReLU(0.1)]
        model = net_of(nn.Flatten(), nn.Linear(768, 9), *(m for k in kinds for m in (k, nn.Linear(9, 9))))
    else:
        model = nets.ALL[net]().double()
    images = nets.images().double()
    start = nets.images(seed=7).double()  # no constant: captum breaks ties in the reference in another way
    run = wcx.Explainer(model, METHOD, baseline=start)(images)
    v = wcx.cotangent(run.logits, torch.tensor([0, 3, 5]), contrast)
    expected = Captum(Weighed(separated(copy.deepcopy(model)))).attribute(images, start, additional_forward_args=v)
    error = (run.explain(v) - expected).flatten(1).norm(dim=1)
    assert bool((error <= 1e-12 * expected.flatten(1).norm(dim=1)).all())


@captum_warns
def test_reused_functional_and_in_place_relus_are_captums_on_separate_modules() -> None:
    model, images = nets.residual().double(), nets.images(2).double()

    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.first, self.second = model, nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(self.net.stem(x))
            return self.net.fc(self.second(self.net.conv(x) + x).mean((2, 3)))

    expected = Captum(Unrolled()).attribute(images, target=2)

    def functional(x: Tensor) -> Tensor:
        x = F.relu(model.stem(x))
        return model.fc(torch.relu(model.conv(x) + x).mean((2, 3)))

    def in_place(x: Tensor) -> Tensor:
        x = model.stem(x)
        F.relu(x, inplace=True)  # the result is looked for in x itself
        y = model.conv(x)
        y += x
        y.relu_()
        return model.fc(y.mean((2, 3)))

    for variant in (model, Function(functional), Function(in_place)):
        got = wcx.explain(variant, images, 2, METHOD, "original")
        torch.testing.assert_close(got, expected.detach(), rtol=1e-10, atol=1e-14)


def test_homogeneous_net_is_input_x_gradient() -> None:
    """Section 4: without biases and from zeros every multiplier is the derivative."""
    model, images = nets.bias_free().double(), nets.images().double()
    for contrast in ("original", "weighted"):
        got = wcx.explain(model, images, 1, METHOD, contrast)
        expected = wcx.explain(model, images, 1, "input_x_gradient", contrast)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("net", nets.ALL)
def test_one_pass_is_the_sum_over_classes(net: str, dtype: torch.dtype, tolerance: float) -> None:
    model, images = nets.ALL[net]().to(dtype), nets.images().to(dtype)
    phis = torch.stack(
        [
            torch.cat([wcx.explain(model, image[None], s, METHOD, "original") for image in images])
            for s in range(nets.CLASSES)
        ],
        dim=1,
    )
    target = torch.tensor([0, 5, 2])
    linear.check(partial(wcx.explain, model, images, target, METHOD), phis, model(images), target, tolerance)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "googlenet"])
def test_torchvision_sums_to_delta(name: str) -> None:
    options = {"aux_logits": False, "init_weights": False, "transform_input": True} if name == "googlenet" else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, **options).double()
    images = nets.images(2, size=64).double()
    run = wcx.Explainer(Normalized(model), METHOD, space="pixel")(images)
    maps = run.explain(wcx.cotangent(run.logits, 1, ["original", "weighted"]))
    assert bool((run.residual.abs() <= 1e-12 * maps.abs().sum((2, 3, 4))).all())


@pytest.mark.parametrize("fails", [False, True])
def test_model_comes_back_as_it_was(fails: bool) -> None:
    model, images = nets.conv_batchnorm(), nets.images(2).requires_grad_()
    model.train()
    model[0][0].weight.requires_grad_(requires_grad=False)
    if fails:
        model.append(nn.LayerNorm(nets.CLASSES))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    if fails:
        with pytest.raises(WcxError, match="layer_norm"):
            wcx.explain(model, images, 0, METHOD)
    else:
        wcx.explain(model, images, 0, METHOD)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert images.grad is None
    assert torch.relu(torch.tensor(-1.0)) == 0  # no mode is left on


def test_two_forward_passes_and_any_number_of_cotangents() -> None:
    model, images = nets.conv_batchnorm(), nets.images(3)
    calls: list[int] = []
    model.register_forward_hook(lambda _module, _args, output: calls.append(len(output)))
    run = wcx.Explainer(model, METHOD)(images)
    for _ in range(2):
        assert run.explain(wcx.cotangent(run.logits, 0, contrasts.names())).shape == (
            len(contrasts.names()),
            3,
            3,
            16,
            16,
        )
        assert run.residual.shape == (len(contrasts.names()), 3)
    assert calls == [3, 3]


def test_nothing_outlives_the_run() -> None:
    def gated(x: Tensor) -> Tensor:
        x = x.relu_() * 2
        x *= x.mean((2, 3), keepdim=True)
        return x

    model, seen = net_of(nn.Conv2d(3, 4, 3), Function(gated), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(196, 5)), []
    for module in model.modules():
        module.register_forward_hook(lambda _module, _args, output: seen.append(weakref.ref(output)))
    run = wcx.Explainer(model, METHOD)(nets.images(2).double())
    run.explain(wcx.cotangent(run.logits, 0))
    del run
    assert all(one() is None for one in seen)


def test_an_image_alone_and_in_a_batch() -> None:
    model, images = nets.conv_batchnorm().double(), nets.images(3).double()
    for baseline in ("zeros", "blur", "mean"):
        together = wcx.explain(model, images, 1, METHOD, baseline=baseline)
        alone = torch.cat([wcx.explain(model, image[None], 1, METHOD, baseline=baseline) for image in images])
        torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-14)


def test_an_image_equal_to_its_reference_is_explained_by_zero() -> None:
    model, images = nets.conv_batchnorm(), nets.images(2)
    assert wcx.explain(model, images, 1, METHOD, baseline=images).abs().max() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [({"baseline": "zero"}, "Did you mean 'zeros'"), ({"space": "rgb"}, "unknown space"), ({"steps": 3}, "no option")],
)
def test_errors_name_the_fix(options: dict[str, object], words: str) -> None:
    with pytest.raises(WcxError, match=words):
        wcx.explain(nets.bias_free(), nets.images(1), 0, METHOD, **options)
