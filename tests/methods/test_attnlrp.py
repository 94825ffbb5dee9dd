"""AttnLRP and CP-LRP: each rule against its formula, whole networks against gradients written out, the oracle over classes."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wcx
from tests import nets
from tests.methods import linear, transformers
from tests.methods.modules import Function
from wcx.errors import WcxError
from wcx.methods.base import say

METHOD = "lrp"
COMPOSITES = ["attnlrp", "cp_lrp"]
EXACT = {"epsilon": 1e-30}  # no stabiliser to speak of


def relevance(function: Callable[[Tensor], Tensor], x: Tensor, seed: Tensor, composite: str = "attnlrp") -> Tensor:
    """Return the relevance of x (1, 3, h, w) if `seed` is that of each of the function's values."""
    net = nn.Sequential(Function(function), nn.Flatten())
    run = wcx.Explainer(net, METHOD, composite=composite, **EXACT)(x)
    return run.explain(seed.reshape(1, -1) / run.logits)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_softmax_is_proposition_3_1() -> None:
    x, seed = numbers(1, 3, 4, 5), numbers(1, 3, 4, 5, seed=1)
    got = relevance(lambda t: t.softmax(-1), x, seed)
    for row, above, below in zip(x.view(12, 5), seed.view(12, 5), got.view(12, 5), strict=True):
        s = row.exp() / row.exp().sum()
        expected = [float(row[i] * (above[i] - s[i] * above.sum())) for i in range(5)]
        torch.testing.assert_close(below, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_masked_places_of_a_softmax_get_no_relevance() -> None:
    x, mask = numbers(1, 3, 4, 5), torch.zeros(5, dtype=torch.float64)
    mask[3] = -torch.inf
    values = numbers(5, 2, seed=3)
    got = relevance(lambda t: (t + mask).softmax(-1) @ values, x, numbers(1, 3, 4, 2))
    assert bool(got.isfinite().all())
    assert bool((got[..., 3] == 0).all())


@pytest.mark.parametrize("name", ["matmul", "mul", "einsum"])
def test_a_product_of_two_activations_is_proposition_3_3(name: str) -> None:
    """R_ji = sum_p A_ji O_ip R_jp / (2 sum_i A_ji O_ip), and likewise for O; a gate is one such product without a sum."""
    x, seed = numbers(1, 3, 4, 4), numbers(1, 3, 4, 4, seed=1)
    products = {
        "matmul": lambda t: t @ t.flip(1),
        "mul": lambda t: t * t.flip(1),
        "einsum": lambda t: torch.einsum("ncij,ncjp->ncip", t, t.flip(1)),
    }
    got, expected = relevance(products[name], x, seed), torch.zeros_like(x)
    for c in range(3):
        a, o, above = x[0, c], x[0, 2 - c], seed[0, c]
        for j in range(4):
            for p in range(4):
                if name == "mul":
                    expected[0, c, j, p] += above[j, p] / 2
                    expected[0, 2 - c, j, p] += above[j, p] / 2
                    continue
                terms = a[j] * o[:, p] * above[j, p] / (2 * (a[j] * o[:, p]).sum())
                expected[0, c, j] += terms
                expected[0, 2 - c, :, p] += terms
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_layer_norm_is_the_epsilon_rule_with_a_constant_deviation() -> None:
    norm = nn.LayerNorm(5).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, seed = numbers(1, 3, 2, 5), numbers(1, 3, 2, 5, seed=1)
    got = relevance(norm, x, seed)
    for row, above, below in zip(x.view(6, 5), seed.view(6, 5), got.view(6, 5), strict=True):
        deviation = (row.var(unbiased=False) + norm.eps).sqrt()
        matrix = (
            norm.weight[:, None].detach() * (torch.eye(5, dtype=torch.float64) - 1 / 5) / deviation
        )  # y = matrix x + bias
        y = matrix @ row + norm.bias.detach()
        torch.testing.assert_close(below, row * (matrix.T @ (above / y)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "norm",
    [
        lambda t: F.rms_norm(t, [5]),
        lambda t: F.normalize(t, dim=-1),
        lambda t: t / t.norm(dim=-1, keepdim=True),
        lambda t: t / torch.linalg.vector_norm(t, dim=-1, keepdim=True),
        lambda t: F.normalize(t, 1.0, -1, 1e-9) * 7.0,
    ],
)
def test_a_norm_without_a_mean_hands_relevance_on(norm: Callable[[Tensor], Tensor]) -> None:
    """Proposition 3.4: the identity rule, and conservation."""
    x, seed = numbers(1, 3, 2, 5), numbers(1, 3, 2, 5, seed=1)
    torch.testing.assert_close(relevance(norm, x, seed), seed, rtol=1e-9, atol=1e-12)


def test_group_norm_of_one_group_is_layer_norm() -> None:
    x, seed, scale = numbers(1, 3, 2, 5), numbers(1, 3, 2, 5, seed=1), numbers(3).add(2)
    by_group = relevance(lambda t: F.group_norm(t, 1, scale, scale), x, seed)
    column = scale[:, None, None].expand(3, 2, 5)
    by_layer = relevance(lambda t: F.layer_norm(t, [3, 2, 5], column, column), x, seed)
    torch.testing.assert_close(by_group, by_layer, rtol=1e-9, atol=1e-12)


class Detached:
    """The rules as gradients: input x gradient of a network whose functions were changed accordingly."""

    @staticmethod
    def divided(x: Tensor, by: float) -> Tensor:
        """Return x, with its gradient divided."""
        return x / by + (x - x / by).detach()

    @staticmethod
    def norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """LayerNorm with a constant deviation."""
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt().detach()
        return centred / deviation * norm.weight + norm.bias

    @staticmethod
    def activation(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """f(x) = x f(x) / x, with a constant quotient."""
        return x * (function(x) / x).detach()


def vit_as_gradients(net: nn.Module, x: Tensor, composite: str) -> Tensor:
    """Return the logits of torchvision's ViT, written out, whose input x gradient is the explanation."""
    x = net.conv_proj(x).flatten(2).transpose(1, 2)
    x = torch.cat([net.class_token.expand(len(x), -1, -1), x], 1) + net.encoder.pos_embedding
    for block in net.encoder.layers:
        attention = block.self_attention
        projected = F.linear(Detached.norm(x, block.ln_1), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = projected.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if composite == "cp_lrp":
            q, k = q.detach(), k.detach()
        else:
            q, k, v = Detached.divided(q, 4), Detached.divided(k, 4), Detached.divided(v, 2)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
        hidden = Detached.activation(block.mlp[0](Detached.norm(x, block.ln_2)), F.gelu)
        x = x + block.mlp[3](hidden)
    return net.heads(Detached.norm(x, net.encoder.ln)[:, 0])


@pytest.mark.parametrize("contrast", ["original", "weighted"])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_a_vit_is_explained_by_input_x_gradient_of_changed_functions(composite: str, contrast: str) -> None:
    """Q and k get a quarter, v half, as published; nn.MultiheadAttention is opened, and its fused function seen whole.

    The seed v_s y_s: input x gradient of sum_s v_s y_s.
    """
    net, images = transformers.made("vit"), nets.images(3, size=transformers.SIZE).double()
    run = wcx.Explainer(net, METHOD, composite=composite, **EXACT)(images)
    torch.testing.assert_close(run.logits, net(images).detach(), rtol=1e-12, atol=1e-12)
    v = wcx.cotangent(run.logits, torch.tensor([0, 5, 2]), contrast)
    leaf = images.clone().requires_grad_()
    logits = vit_as_gradients(net, leaf, composite)
    torch.testing.assert_close(logits, run.logits, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad((logits * v).sum(), leaf)
    expected = images * gradient
    assert (run.explain(v) - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("composite", COMPOSITES)
def test_attention_is_the_same_fused_or_not(composite: str) -> None:
    images = nets.images(2, size=transformers.SIZE).double()
    maps = [
        wcx.explain(transformers.made(name), images, 1, METHOD, composite=composite, **EXACT)
        for name in transformers.ATTENTIONS
    ]
    assert all((phi - maps[0]).norm() <= 1e-9 * maps[0].norm() for phi in maps)


@pytest.mark.parametrize("constant", ["q", "k", "v", "qk", "kv"])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_constant_queries_keys_or_values_get_no_share(composite: str, constant: str) -> None:
    """As in attention pooling, whose queries are parameters: fused and unfused agree, and nothing is lost."""

    def held(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            given = {"q": q, "k": k, "v": v} | {name: numbers(*q.shape, seed=ord(name)) for name in constant}
            return attend(given["q"], given["k"], given["v"])

        return attention

    images, maps = nets.images(2, size=transformers.SIZE).double(), []
    for name in ("fused", "unfused"):
        net = transformers.made(name)
        net.attend = held(net.attend)
        maps.append(wcx.explain(net, images, 1, METHOD, composite=composite, **EXACT))
    assert (maps[0] - maps[1]).norm() <= 1e-9 * maps[0].norm()


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("net", ["vit", "swin", "swin_v2", "maxvit", "unfused", "rms"])
def test_one_pass_is_the_sum_over_classes_on_transformers(net: str, composite: str) -> None:
    """Under every contrast, in float64, for an image a target."""
    model, images = transformers.made(net), nets.images(2, size=transformers.SIZE).double()
    run = wcx.Explainer(model, METHOD, composite=composite)(images)
    eye = torch.eye(nets.CLASSES, dtype=torch.float64)
    phis = torch.stack([run.explain(row.expand(2, -1)) for row in eye], 1)
    target = torch.tensor([0, 5])
    linear.check(lambda name: run.explain(wcx.cotangent(run.logits, target, name)), phis, run.logits, target)


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("net", ["vit", "swin", "maxvit", "rms"])
def test_relevance_that_leaves_the_rules_is_counted_image_by_image(net: str, composite: str) -> None:
    """Also inside nn.MultiheadAttention, where images stand side by side at each position."""
    model, images = transformers.made(net), nets.images(3, size=transformers.SIZE).double()
    run = wcx.Explainer(model, METHOD, composite=composite)(images)
    v = wcx.cotangent(run.logits, 0)
    maps = run.explain(v)
    torch.testing.assert_close(maps.sum((1, 2, 3)) + run.absorbed, (v * run.logits).sum(1), rtol=1e-9, atol=1e-9)
    assert bool((run.absorbed.abs() > 1e-3).all())  # biases, LayerNorm's among them, and the softmax keep their share
    alone = wcx.Explainer(model, METHOD, composite=composite)(images[1:2])
    alone.explain(v[1:2])
    torch.testing.assert_close(alone.absorbed, run.absorbed[1:2], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_cp_lrp_conserves_without_biases_and_means_and_attnlrp_does_not(composite: str) -> None:
    """RMSNorm and no biases: nothing but AttnLRP's softmax absorbs (its Taylor expansion has a constant)."""
    model, images = transformers.made("rms"), nets.images(2, size=transformers.SIZE).double()
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            nn.init.zeros_(parameter)
    run = wcx.Explainer(model, METHOD, composite=composite, **EXACT)(images)
    run.explain(run.logits.sign())  # seed |y_s|
    share = run.absorbed.abs() / run.logits.abs().sum(1)
    assert bool((share < 1e-9).all()) if composite == "cp_lrp" else bool((share > 1e-3).all())


def test_the_default_on_a_transformer_is_attnlrp_and_a_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model, images = transformers.made("vit"), nets.images(2, size=transformers.SIZE).double()
    say.cache_clear()
    with caplog.at_level(logging.WARNING, "wcx"):
        run = wcx.Explainer(model, METHOD)(images)
        wcx.Explainer(model, METHOD)(images)
    assert [record.message for record in caplog.records] == [
        "lrp: composite epsilon_plus has no rules for transformers; this one is explained by composite attnlrp."
    ]
    v = wcx.cotangent(run.logits, 0)
    assert run.composite == "attnlrp"
    assert torch.equal(run.explain(v), wcx.Explainer(model, METHOD, composite="attnlrp")(images).explain(v))
    assert wcx.Explainer(transformers.made("maxvit"), METHOD)(images).composite == "attnlrp"


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize(("kind", "expected"), [("maxvit", 1), ("vit", 0)])
def test_a_line_says_that_gates_make_large_maps(
    kind: str, expected: int, composite: str, caplog: pytest.LogCaptureFixture
) -> None:
    """MaxViT has squeeze and excitation: the layer before its sigmoid divides by what is near 0."""
    say.cache_clear()
    with caplog.at_level(logging.WARNING, "wcx"):
        wcx.Explainer(transformers.made(kind), METHOD, composite=composite)(
            nets.images(2, size=transformers.SIZE).double()
        )
    assert [record.message.startswith("lrp: a gate (sigmoid of a layer's output)") for record in caplog.records] == [
        True
    ] * expected


def test_nothing_changes_for_a_convolutional_network(caplog: pytest.LogCaptureFixture) -> None:
    """It keeps its composite, and one with gates its refusal."""
    with caplog.at_level(logging.WARNING, "wcx"):
        assert wcx.Explainer(nets.residual(), METHOD)(nets.images(1)).composite == "epsilon_plus"
        gated = nn.Sequential(
            Function(lambda t: t * t.mean((2, 3), keepdim=True).sigmoid()), nn.Flatten(), nn.Linear(768, 4)
        )
        with pytest.raises(
            WcxError, match=r"mul of two activations, for which there is no rule; use composite=attnlrp"
        ):
            wcx.Explainer(gated, METHOD)(nets.images(1))
    assert not caplog.records


@pytest.mark.parametrize("composite", ["lrp_0", "epsilon", "epsilon_gamma_box"])
def test_a_composite_that_was_named_is_not_replaced(composite: str) -> None:
    with pytest.raises(WcxError, match="layer_norm, for which there is no rule; use composite=attnlrp"):
        wcx.explain(transformers.made("vit").float(), nets.images(1, size=16), 0, METHOD, composite=composite)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda t: F.scaled_dot_product_attention(t, t, t, attn_mask=t @ t.mT), "scaled_dot_product_attention"),
        (lambda t: torch.einsum("ncij,ncij,ncij->nc", t, t, t), "einsum"),
        (lambda t: F.layer_norm(torch.ones(1, 3, 4, 4).double(), [4], weight=t[0, 0, 0]), "layer_norm"),
        (lambda t: t.cumprod(-1), "cumprod"),
    ],
)
def test_what_has_no_rule_is_named_under_attnlrp_too(function: Callable[[Tensor], Tensor], named: str) -> None:
    with pytest.raises(WcxError, match=f"{named}.*no rule; use deeplift or integrated_gradients"):
        relevance(function, numbers(1, 3, 4, 4), numbers(1, 3, 4, 4))


def test_multi_head_attention_in_its_variants() -> None:
    """Weights asked for, bias_k, zero attention, separate projections, tokens first: values are kept, relevance counted."""

    class Attending(nn.Module):
        def __init__(self, batch_first: bool, need_weights: bool, **options: object) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(3, 3, batch_first=batch_first, **options)
            self.need_weights, self.batch_first = need_weights, batch_first

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            tokens = tokens if self.batch_first else tokens.transpose(0, 1)
            y = self.attention(tokens, tokens * 2, tokens, need_weights=self.need_weights)[0]
            return (y if self.batch_first else y.transpose(0, 1)).flatten(1)

    images = nets.images(2, size=3).double()
    options = [{}, {"bias": False}, {"add_bias_kv": True, "add_zero_attn": True}, {"kdim": 3, "vdim": 3}]
    for batch_first in (True, False):
        for option in options:
            torch.manual_seed(0)
            net = Attending(batch_first, True, **option).double().eval()
            maps = []
            for net.need_weights in (True, False):
                run = wcx.Explainer(net, METHOD, composite="attnlrp", **EXACT)(images)
                torch.testing.assert_close(run.logits, net(images).detach(), rtol=1e-12, atol=1e-12)
                maps.append(run.explain(torch.ones_like(run.logits)))
            assert (maps[0] - maps[1]).norm() <= 1e-9 * maps[0].norm()


def test_the_models_attention_comes_back_as_it_was() -> None:
    """Also its fast path, which is off while LRP looks, since each function is to be seen."""
    model, images = transformers.made("vit").float(), nets.images(2, size=transformers.SIZE)
    with torch.no_grad():
        before = model(images)
    wcx.explain(model, images, 0, METHOD, composite="attnlrp")
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        assert torch.equal(model(images), before)


def test_half_precision_and_autocast_are_close() -> None:
    model, images = transformers.made("vit").float(), nets.images(2, size=transformers.SIZE)
    expected = wcx.explain(model, images, 0, METHOD, composite="cp_lrp")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = wcx.explain(model, images, 0, METHOD, composite="cp_lrp")
    assert bool(rough.isfinite().all())
    half = wcx.explain(model.bfloat16(), images.bfloat16(), 0, METHOD, composite="cp_lrp")
    assert half.dtype == torch.bfloat16
    cosine = nn.functional.cosine_similarity
    assert all(float(cosine(m.float().flatten(), expected.flatten(), dim=0)) > 0.9 for m in (rough, half))
