"""LRP for transformers against lxt 2.1, its authors' own (make test-extras): an environment of its own, with transformers < 5.

Of torchvision's ViT lxt has CP-LRP alone: attention's queries and keys are cut off, LayerNorm and GELU are AttnLRP's. AttnLRP is
compared function by function, with lxt's explicit rules and with the gradients that its efficient variant divides.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import wcx

pytest.importorskip("lxt", reason="lxt is not installed: make test-extras sets up .venv-lxt")
pytest.importorskip("transformers.models.bert", reason="lxt 2.1 wants transformers < 5")

from lxt.efficient import patches, rules
from lxt.efficient.models.vit_torch import cp_LRP
from lxt.explicit import functional as explicit

EPSILON = 1e-30  # no stabiliser to speak of; lxt's add it without a sign


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Flat(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x).flatten(1)


def relevance(function: Callable[[Tensor], Tensor], x: Tensor, seed: Tensor) -> Tensor:
    """Return what ours makes of the relevance `seed` of a function's values."""
    run = wcx.Explainer(Flat(function), "lrp", composite="attnlrp", epsilon=EPSILON)(x)
    return run.explain(seed.reshape(1, -1) / run.logits)


def by_lxt(function: Callable[[Tensor], Tensor], x: Tensor, seed: Tensor) -> Tensor:
    """Return what an explicit function of lxt makes of it: its gradient is the relevance."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, seed)[0]


WEIGHT, BIAS = numbers(4, seed=5), numbers(4, seed=6)
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "softmax": (lambda t: t.softmax(-1), lambda t: explicit.softmax(t, -1)),
    "matmul": (lambda t: t @ t.flip(1), lambda t: explicit.matmul(t, t.flip(1), False, EPSILON)),
    "mul": (lambda t: t * t.flip(1), lambda t: explicit.mul2(t, t.flip(1))),
    "layer_norm": (
        lambda t: F.layer_norm(t, [4], WEIGHT, BIAS, 1e-5),
        lambda t: explicit._layer_norm_slower(t, WEIGHT, BIAS, 1e-5),
    ),
    "rms_norm": (
        lambda t: F.rms_norm(t, [4], WEIGHT, 1e-5),
        lambda t: explicit.rms_norm_identity(t, WEIGHT, 1e-5),
    ),
    "normalize": (lambda t: F.normalize(t, dim=-1), lambda t: explicit.normalize(t, 2.0, -1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_rule_is_that_of_lxts_explicit_function(name: str) -> None:
    """1e-5: the stabilisers 1e-8 and 1e-6 that lxt's slow LayerNorm is built with; the others agree to 1e-9."""
    ours, theirs = FUNCTIONS[name]
    x, seed = numbers(1, 3, 4, 4), numbers(1, 3, 4, 4, seed=1)
    got, expected = relevance(ours, x, seed), by_lxt(theirs, x, seed)
    assert (got - expected).norm() <= (1e-4 if name == "layer_norm" else 1e-9) * expected.norm()


def test_fused_attention_is_lxts_with_divided_gradients() -> None:
    """Q and k by 4, v by 2, as input x gradient; heads of 4 tokens of 4 channels."""
    x, seed = numbers(1, 3, 4, 4), numbers(1, 1, 4, 4, seed=1)

    def attention(t: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*t.split(1, 1))

    wrapped = patches.wrap_attention_forward(lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v))
    leaf = x.clone().requires_grad_()
    value = wrapped(None, *leaf.split(1, 1))
    expected = x * torch.autograd.grad(value, leaf, seed / value.detach())[0]
    got = relevance(attention, x, seed)
    assert (got - expected).norm() <= 1e-9 * expected.norm()
    assert expected[:, 0].norm() > 0.01 * expected.norm()  # queries matter


def test_an_activation_is_lxts_identity_rule() -> None:
    x, seed = numbers(1, 3, 4, 4), numbers(1, 3, 4, 4, seed=1)
    leaf = x.clone().requires_grad_()
    value = rules.identity_rule_implicit(F.gelu, leaf)
    expected = x * torch.autograd.grad(value, leaf, seed / value.detach())[0]
    # 1e-6: lxt's stabiliser 1e-10, next to the smallest |x| here, 1e-3
    assert (relevance(F.gelu, x, seed) - expected).norm() <= 1e-6 * expected.norm()


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what patches torch's classes as lxt does for torchvision's ViT; undone after the test."""
    for module in cp_LRP:
        monkeypatch.setattr(module, "forward", module.forward)
        monkeypatch.setattr(module, "original_forward", module.forward, raising=False)

    def patch() -> None:
        for module, apply in cp_LRP.items():
            assert apply(module)

    return patch


def test_cp_lrp_of_vit_b_16_is_lxts_under_every_class(patched: Callable[[], None]) -> None:
    """At 64 x 64 pixels, in float64, of random weights and biases: lxt's map of a class is input x gradient of its logit."""
    torch.manual_seed(0)
    model = torchvision.models.vit_b_16(image_size=64, num_classes=5).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    images = numbers(2, 3, 64, 64)
    run = wcx.Explainer(model, "lrp", composite="cp_lrp", epsilon=EPSILON)(images)
    contrasts = ["original", "mean", "max", "weighted"]
    v = wcx.cotangent(run.logits, torch.tensor([0, 3]), contrasts)
    maps = run.explain(v)
    patched()
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    torch.testing.assert_close(logits.detach(), run.logits, rtol=1e-9, atol=1e-9)
    classes = [torch.autograd.grad(logits[:, s].sum(), leaf, retain_graph=True)[0] * images for s in range(5)]
    expected = torch.einsum("kns,snchw->knchw", v, torch.stack(classes))
    for got, phi, name in zip(maps, expected, contrasts, strict=True):
        # 1e-6: lxt's stabiliser in GELU, 1e-10, where a hidden value is near 0
        assert (got - phi).norm() <= 1e-6 * phi.norm(), (name, float((got - phi).norm() / phi.norm()))
