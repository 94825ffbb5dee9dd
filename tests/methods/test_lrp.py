"""LRP against input x gradient, zennit's own hooks and canonizers, captum, written-out rules, and conservation."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable

import pytest
import torch
import torchvision
from captum.attr import LRP
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn
from torch.nn import functional as F
from zennit.attribution import Gradient
from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox, EpsilonPlus, LayerMapComposite, layer_map_base
from zennit.core import Composite
from zennit.rules import Epsilon
from zennit.torchvision import ResNetCanonizer
from zennit.types import Convolution

import wcx
from tests import nets
from wcx import contrasts
from wcx.errors import WcxError
from wcx.methods.lrp import COMPOSITES
from wcx.models import Normalized

METHOD = "lrp"
BOX = {"low": -2.5, "high": 2.5}


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Mixed(nn.Module):
    """Piecewise linear, with all that torchvision's networks do outside modules."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)  # no convolution before it
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 1)
        self.late = nn.BatchNorm2d(16)  # after a concatenation, as in DenseNet
        self.up = nn.ConvTranspose2d(16, 6, 2, stride=2)
        self.up_bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 10, bias=False)
        self.fc_bn = nn.BatchNorm1d(10)
        self.head = nn.Linear(10, nets.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, i : i + 1] * (0.5 + i) - 0.1 * i for i in range(3)], 1)
        x = F.relu(self.bn(self.stem(self.norm(x))))
        y = self.branch(x)
        y += 2 * x
        y *= 1.5
        y.relu_()
        total = torch.full_like(y, 0.2)
        total += y
        y = self.late(torch.cat([total, torch.sub(x, self.branch(x), alpha=0.5).clamp(min=0)], 1))
        y = F.relu(self.up_bn(self.up(F.avg_pool2d(F.relu(y), 2))) / 3)
        y = F.max_pool2d(y, 3, 2).mean((2, 3)) + 0.3
        return self.head(F.leaky_relu(self.fc_bn(self.fc(y)), 1.0))


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give parameters and statistics random values; float64, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.double().eval().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 2, generator=generator)
            nn.init.normal_(module.bias, std=0.2, generator=generator)
    return model


def mixed() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return randomised(Mixed())


def torchvision_net(name: str, **options: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomised(torchvision.models.get_model(name, weights=None, num_classes=20, **options))


@pytest.mark.parametrize("contrast", ["original", "weighted"])
@pytest.mark.parametrize("net", [*nets.ALL, "mixed"])
def test_lrp_0_is_input_x_gradient_on_a_piecewise_linear_net(net: str, contrast: str) -> None:
    """Also with biases, which keep their share of the relevance."""
    model, images = (mixed() if net == "mixed" else nets.ALL[net]().double()), nets.images().double()
    got = wcx.explain(model, images, 1, METHOD, contrast, composite="lrp_0")
    expected = wcx.explain(model, images, 1, "input_x_gradient", contrast)
    assert (got - expected).norm() <= 1e-12 * expected.norm()


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "googlenet", "mnasnet0_5", "squeezenet1_1", "shufflenet_v2_x0_5"]
)
def test_lrp_0_is_input_x_gradient_on_torchvision_nets(name: str) -> None:
    options = {"aux_logits": False, "init_weights": False, "transform_input": True} if name == "googlenet" else {}
    model = Normalized(torchvision_net(name, **options))
    pixels = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    run = wcx.Explainer(model, METHOD, composite="lrp_0")(pixels)
    v = wcx.cotangent(run.logits, 3)
    expected = wcx.Explainer(model, "input_x_gradient")(pixels).explain(v)
    assert (run.explain(v) - expected).norm() <= 1e-11 * expected.norm()


def by_zennit(model: nn.Module, images: Tensor, seed: Tensor, composite: str, canonizer: Canonizer) -> Tensor:
    """Zennit's own way: hooks on modules and canonised parameters, on a copy."""
    model = copy.deepcopy(model)
    composites: dict[str, Callable[..., Composite]] = {
        "epsilon": lambda canonizers: LayerMapComposite(
            [*layer_map_base(1e-6), (Convolution, Epsilon()), (nn.Linear, Epsilon())], canonizers=canonizers
        ),
        "epsilon_plus": EpsilonPlus,
        "epsilon_gamma_box": lambda canonizers: EpsilonGammaBox(
            torch.full((1, 3, 1, 1), BOX["low"]), torch.full((1, 3, 1, 1), BOX["high"]), canonizers=canonizers
        ),
    }
    with Gradient(model, composites[composite](canonizers=[canonizer])) as attributor:
        return attributor(images.clone(), lambda output: seed * output.detach())[1]


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "epsilon_gamma_box"])
@pytest.mark.parametrize("net", ["conv_batchnorm", "bias_free", "resnet18"])
def test_against_zennits_hooks_and_canonizers(net: str, composite: str) -> None:
    """With eps = 0 in BatchNorm: zennit leaves the eps of a merged one standing, which changes its logits in the sixth digit."""
    model = torchvision_net("resnet18") if net == "resnet18" else nets.ALL[net]().double()
    images = nets.images(2, size=32 if net == "resnet18" else 16).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    run = wcx.Explainer(model, METHOD, composite=composite, **BOX)(images)
    v = wcx.cotangent(run.logits, 2)
    canonizer = ResNetCanonizer() if net == "resnet18" else SequentialMergeBatchNorm()
    expected = by_zennit(model, images, v, composite, canonizer)
    assert (run.explain(v) - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not:UserWarning")
def test_against_captum_class_by_class() -> None:
    """Captum's epsilon is 1e-9 for every layer. Wrapping (x, v) -> (model(x) * v).sum(1) would not do: the seed is v_s y_s."""
    model, images = nets.conv_batchnorm().double(), nets.images(2).double()
    plain = copy.deepcopy(model)

    def by_captum(target: int) -> Tensor:
        for module in plain.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
            elif isinstance(module, nn.Flatten):
                module.rule = EpsilonRule()  # captum has none for it, and forgets this one after each call
        return LRP(plain).attribute(images, target=target).detach()

    classes = [by_captum(s) for s in range(nets.CLASSES)]
    for contrast in ("original", "mean", "max", "weighted", "finer"):
        run = wcx.Explainer(model, METHOD, composite="epsilon", epsilon=1e-9)(images)
        v = wcx.cotangent(run.logits, torch.tensor([0, 4]), contrast)
        expected = torch.einsum("ns,sn...->n...", v, torch.stack(classes))
        assert (run.explain(v) - expected).norm() <= 1e-6 * expected.norm(), contrast


@pytest.mark.parametrize("rule", ["epsilon_plus", "epsilon_gamma_box"])
def test_rules_written_out_for_one_convolution_with_batchnorm(rule: str) -> None:
    """Relevance y of y = s (w x + b - mu) + beta at each place, through z+ or the box."""
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten()), seed=3)
    images = nets.images(1, size=1).double()
    conv, bn = model[0], model[1]
    with torch.no_grad():
        scale = bn.weight / (bn.running_var + bn.eps).sqrt()
        w, b = conv.weight[:, :, 0, 0] * scale[:, None], (conv.bias - bn.running_mean) * scale + bn.bias
        x, y = images[0, :, 0, 0], model(images)[0]
        if rule == "epsilon_plus":
            z = (w * x).clamp(min=0)
            expected = (z / (z.sum(1) + b.clamp(min=0) + 1e-6)[:, None] * y[:, None]).sum(0)
        else:
            # Zennit takes the box's share of the bias, too: what is left of it cancels.
            z = w * x - w.clamp(min=0) * BOX["low"] - w.clamp(max=0) * BOX["high"]
            total = z.sum(1)
            expected = (z / (total + total.sign() * 1e-6)[:, None] * y[:, None]).sum(0)
    got = wcx.Explainer(model, METHOD, composite=rule, **BOX)(images).explain(torch.ones(1, 4, dtype=torch.float64))
    torch.testing.assert_close(got[0, :, 0, 0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("net", nets.ALL)
def test_one_pass_is_the_sum_over_classes(net: str, composite: str, dtype: torch.dtype, tolerance: float) -> None:
    model, images = nets.ALL[net]().to(dtype), nets.images().to(dtype)
    options = {"composite": composite, **BOX}
    # The classes one at a time, the images together: in float32, what is left of an activation near zero depends on the batch.
    alone = [wcx.explain(model, images, s, METHOD, "original", **options) for s in range(nets.CLASSES)]
    phis = torch.stack(alone, dim=1)
    target = torch.tensor([0, 5, 2])
    for name in contrasts.names():
        v = wcx.cotangent(model(images), target, name)
        size = (v.abs() * phis.flatten(2).norm(dim=2)).sum(1)
        error = wcx.explain(model, images, target, METHOD, name, **options) - torch.einsum("ns,ns...->n...", v, phis)
        assert bool((error.flatten(1).norm(dim=1) <= tolerance * size).all()), name


@pytest.mark.parametrize("composite", COMPOSITES)
def test_relevance_is_conserved_up_to_what_is_absorbed(composite: str) -> None:
    model, images = mixed(), nets.images(2).double()
    run = wcx.Explainer(model, METHOD, composite=composite)(images)
    v = wcx.cotangent(run.logits, 0, ["original", "weighted"])
    maps = run.explain(v)
    assert run.absorbed.shape == run.residual.shape == (2, 2)
    torch.testing.assert_close(maps.sum((2, 3, 4)) + run.absorbed, (v * run.logits).sum(2), rtol=1e-10, atol=1e-12)
    run.explain(v[0])
    assert run.absorbed.shape == (2,)
    free = wcx.Explainer(nets.bias_free().double(), METHOD, composite=composite, epsilon=1e-12)(images)
    free.explain(wcx.cotangent(free.logits, 0))
    assert free.absorbed.abs().max() < (1e-9 if composite in ("lrp_0", "epsilon") else 1e-3)


def test_absorbed_is_the_share_of_the_biases() -> None:
    """Of lrp_0: sum over biases of bias x gradient, since the net is linear in inputs and biases together."""
    model, images = nets.residual().double(), nets.images(2).double()
    run = wcx.Explainer(model, METHOD, composite="lrp_0")(images)
    v = wcx.cotangent(run.logits, 1)
    run.explain(v)
    biases = [model.stem.bias, model.conv.bias, model.fc.bias]
    shares = [
        sum(
            float((g * b.detach()).sum())
            for g, b in zip(torch.autograd.grad((model(x[None])[0] * w).sum(), biases), biases, strict=True)
        )
        for x, w in zip(images, v, strict=True)
    ]
    torch.testing.assert_close(run.absorbed, torch.tensor(shares, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_zero_over_zero_is_zero() -> None:
    model, images = nets.conv_batchnorm(), nets.images(2)
    images[0] = 0
    model[0][0].bias.data.zero_()
    maps = wcx.explain(model, images, 1, METHOD, composite="lrp_0")
    assert bool(maps.isfinite().all())
    assert maps[0].abs().max() == 0


def test_box_is_that_of_black_and_white_pixels_in_either_space() -> None:
    net = nets.conv_batchnorm().double()
    wrapped = Normalized(net).double()
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    option = {"composite": "epsilon_gamma_box"}
    of_pixels = wcx.explain(wrapped, pixels, 0, METHOD, **option)
    torch.testing.assert_close(of_pixels, wcx.explain(wrapped, pixels, 0, METHOD, low=0.0, high=[1, 1, 1], **option))
    # Relevance passes the normalisation unchanged; Normalized holds mean and std in float32.
    of_normalised = wcx.explain(net, wrapped.normalise(pixels), 0, METHOD, **option)
    torch.testing.assert_close(of_pixels, of_normalised, rtol=1e-4, atol=1e-7)
    wider = wcx.explain(wrapped, pixels, 0, METHOD, low=-1 * torch.ones(3, 16, 16), high=2.0, **option)
    assert (wider - of_pixels).norm() > 0.01 * of_pixels.norm()


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), "mul of two activations"),
        (lambda x: F.layer_norm(x, x.shape[1:]), "layer_norm"),
        (lambda x: x.softmax(1), "softmax"),
        (F.mish, "mish"),
        (lambda x: x**2, "pow__"),
        (lambda x: x / x.mean(), "div of two activations"),
        (lambda x: F.batch_norm(x, None, None, training=True), "batch_norm"),
        (lambda x: F.conv2d(x, x[:, :, :2, :2]), "conv2d of two activations"),
    ],
)
def test_a_function_without_a_rule_is_named(function: Callable[[Tensor], Tensor], named: str) -> None:
    model = nn.Sequential(Function(function), nn.Flatten(), Function(lambda x: x[:, :4]))
    with pytest.raises(WcxError, match=rf"lrp: the network calls torch\S*{named}, for which there is no rule"):
        wcx.explain(model, nets.images(2), 0, METHOD)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_what_runs_out_of_sight_is_caught_by_conservation() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), torch.jit.script(nn.Linear(4 * 196, 5)))
    with pytest.raises(WcxError, match="not conserved"):
        wcx.explain(model, nets.images(2), 0, METHOD)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_model_comes_back_bit_for_bit(composite: str, fails: bool) -> None:
    model, images = nets.conv_batchnorm(), nets.images(2).requires_grad_()
    model.train()
    model[0][0].weight.requires_grad_(requires_grad=False)
    if fails:
        model.append(nn.LayerNorm(nets.CLASSES))
    own = model[1].register_forward_hook(lambda *_: None)
    state = {key: (value, value.clone()) for key, value in model.state_dict(keep_vars=True).items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    keys = [sorted(vars(module)) for module in model.modules()]
    if fails:
        with pytest.raises(WcxError, match="layer_norm"):
            wcx.explain(model, images, 0, METHOD, composite=composite)
    else:
        wcx.explain(model, images, 0, METHOD, composite=composite)
    for key, value in model.state_dict(keep_vars=True).items():
        assert value is state[key][0]
        assert torch.equal(value, state[key][1])
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [sorted(vars(module)) for module in model.modules()] == keys
    assert all(module.training for module in model.modules())
    assert list(model[1]._forward_hooks) == [own.id]
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in model.modules() if module is not model[1]
    )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_forward_pass_and_any_number_of_cotangents() -> None:
    model, images = nets.conv_batchnorm(), nets.images(3)
    calls: list[int] = []
    model.register_forward_hook(lambda _module, _args, output: calls.append(len(output)))
    run = wcx.Explainer(model, METHOD)(images)
    with torch.no_grad():
        torch.testing.assert_close(run.logits, model(images), rtol=0, atol=0)
    calls.clear()
    for _ in range(2):
        assert run.explain(wcx.cotangent(run.logits, 0, contrasts.names())).shape == (6, 3, 3, 16, 16)
    assert calls == []
    wcx.Explainer(model, METHOD)(images)
    assert calls == [3]


def test_nothing_outlives_the_run() -> None:
    model, seen = mixed(), []
    for module in model.modules():
        module.register_forward_hook(lambda _module, _args, output: seen.append(weakref.ref(output)))
    run = wcx.Explainer(model, METHOD)(nets.images(2).double())
    run.explain(wcx.cotangent(run.logits, 0))
    assert any(one() is not None for one in seen)
    del run
    assert all(one() is None for one in seen)


def test_no_grad_inference_mode_autocast_and_compile() -> None:
    model, images = nets.residual(), nets.images(2)
    expected = wcx.explain(model, images, 0, METHOD)
    with torch.no_grad():
        torch.testing.assert_close(wcx.explain(model, images, 0, METHOD), expected)
    with torch.inference_mode():
        torch.testing.assert_close(wcx.explain(model, images.clone(), 0, METHOD), expected)
    compiled = torch.compile(model, backend="eager")
    compiled(images)
    torch.testing.assert_close(wcx.explain(compiled, images, 0, METHOD), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = wcx.explain(model, images, 0, METHOD)
    assert (rough - expected).norm() < 0.1 * expected.norm()
    half = wcx.explain(model.bfloat16(), images.bfloat16(), 0, METHOD)
    assert half.dtype == torch.bfloat16
    assert (half - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"composite": "epsilon-plus"}, "Did you mean 'epsilon_plus'"),
        ({"epsilon": 0.0}, "epsilon > 0"),
        ({"composite": "epsilon_gamma_box", "low": [0.0, 1.0]}, r"\(2, 1, 1\) does not fit"),
        ({"steps": 3}, "no option 'steps'"),
    ],
)
def test_errors_name_the_fix(options: dict[str, object], words: str) -> None:
    with pytest.raises(WcxError, match=words):
        wcx.explain(nets.bias_free(), nets.images(1), 0, METHOD, **options)


def test_box_without_a_convolution_is_an_error() -> None:
    with pytest.raises(WcxError, match="needs a convolution"):
        wcx.explain(
            nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), nets.images(1), 0, METHOD, composite="epsilon_gamma_box"
        )
