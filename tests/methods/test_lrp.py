"""LRP against input x gradient, zennit's own hooks and canonizers, and captum; what every method promises."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from captum.attr import LRP
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn
from zennit.attribution import Gradient
from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox, EpsilonPlus, LayerMapComposite, layer_map_base
from zennit.core import Composite, Stabilizer
from zennit.rules import Epsilon
from zennit.torchvision import ResNetCanonizer
from zennit.types import Convolution

import wcx
from tests import nets
from tests.methods import linear
from tests.methods.modules import mixed, torchvision_net
from wcx import contrasts
from wcx.errors import WcxError
from wcx.images import Normalized
from wcx.methods.lrp import COMPOSITES, _away_from_0

METHOD = "lrp"
BOX = {"low": -2.5, "high": 2.5}


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
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_stabiliser_is_zennits_to_the_bit(dtype: torch.dtype) -> None:
    z = torch.cat([torch.tensor([0.0, -0.0, 1e-30, -1e-30, torch.inf, -torch.inf]), torch.randn(1000)]).to(dtype)
    for epsilon in (1e-6, 0.25):
        assert torch.equal(_away_from_0(z, epsilon), Stabilizer(epsilon)(z))


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
    explained = partial(wcx.explain, model, images, target, METHOD, **options)
    linear.check(explained, phis, model(images), target, tolerance)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_model_comes_back_bit_for_bit(composite: str, fails: bool) -> None:
    model, images = nets.conv_batchnorm(), nets.images(2).requires_grad_()
    model.train()
    model[0][0].weight.requires_grad_(requires_grad=False)
    if fails:
        model.append(nn.Mish())
    own = model[1].register_forward_hook(lambda *_: None)
    state = {key: (value, value.clone()) for key, value in model.state_dict(keep_vars=True).items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    keys = [sorted(vars(module)) for module in model.modules()]
    if fails:
        with pytest.raises(WcxError, match="mish"):
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
        assert run.explain(wcx.cotangent(run.logits, 0, contrasts.names())).shape == (
            len(contrasts.names()),
            3,
            3,
            16,
            16,
        )
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


def test_bfloat16() -> None:
    model, images = nets.residual(), nets.images(2)
    expected = wcx.explain(model, images, 0, METHOD)
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
