"""LeGrad and attention rollout against their formulas, written slowly; fused attention; the order of layers; what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wcx
from tests import nets
from tests.methods import linear, transformers
from wcx import contrasts
from wcx.errors import WcxError
from wcx.methods.base import say


def photos(n: int = 2, shape: tuple[int, int] = (16, 16)) -> Tensor:
    return torch.randn(n, 3, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def attention(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the attention probabilities (heads, tokens, tokens) of torchvision's block for tokens x (tokens, 8), and v's."""
    inner = block.self_attention
    projected = F.linear(block.ln_1(x), inner.in_proj_weight, inner.in_proj_bias)
    q, k, v = projected.unflatten(1, (3, inner.num_heads, -1)).permute(1, 2, 0, 3)
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1), v


def behind(block: nn.Module, x: Tensor, weights: Tensor, v: Tensor) -> Tensor:
    """Return the block's output for its tokens, with these probabilities."""
    x = x + block.self_attention.out_proj((weights @ v).transpose(0, 1).flatten(1))
    return x + block.mlp(block.ln_2(x))


def by_formula(net: nn.Module, image: Tensor, v: Tensor, *, relu: bool) -> list[Tensor]:
    """Return LeGrad's map (4, 4) of each block of torchvision's ViT, for one image (3, 16, 16) and cotangent (C,)."""
    x = net.conv_proj(image[None])[0].flatten(1).T
    x = (torch.cat([net.class_token[0], x]) + net.encoder.pos_embedding[0]).detach()
    maps = []
    for block in net.encoder.layers:
        weights, values = (part.detach() for part in attention(block, x))
        weights.requires_grad_()
        following = behind(block, x, weights, values)
        score = (net.heads(net.encoder.ln(following)[0]) * v).sum()
        (gradient,) = torch.autograd.grad(score, weights)
        heads, tokens, _ = gradient.shape
        total = torch.zeros(tokens, dtype=torch.float64)
        for head in range(heads):
            for query in range(tokens):
                total += gradient[head, query].clamp(min=0) if relu else gradient[head, query]
        maps.append((total / (heads * tokens))[1:].view(4, 4))
        x = following.detach()
    return maps


@pytest.mark.parametrize("relu", [True, False])
def test_legrad_is_its_formula_on_a_vit(relu: bool) -> None:
    """Every block's gradient meets its own attention (vit-explain #6 pairs the first with the last); of all or the last blocks."""
    net, images = transformers.made("vit"), photos()
    run = wcx.Explainer(net, "legrad", relu=relu)(images)
    torch.testing.assert_close(run.logits, net(images).detach(), rtol=1e-12, atol=1e-12)
    v = wcx.cotangent(run.logits, torch.tensor([1, 4]), ["original", "weighted"])
    maps = run.explain(v)
    assert maps.shape == (2, 2, 4, 4)
    last = wcx.Explainer(net, "legrad", relu=relu, blocks=1)(images).explain(v)
    for k in range(2):
        for n in range(2):
            blocks = by_formula(net, images[n], v[k, n], relu=relu)
            torch.testing.assert_close(maps[k, n], torch.stack(blocks).mean(0), rtol=1e-9, atol=1e-14)
            torch.testing.assert_close(last[k, n], blocks[-1], rtol=1e-9, atol=1e-14)
            assert (blocks[0] - blocks[1]).norm() > 0.1 * blocks[0].norm()


@pytest.mark.parametrize("count", [1, 2])
def test_of_three_blocks_the_last_count_and_not_the_first(count: int) -> None:
    """Trap 3: gradients come in backward order and attentions in forward order; the last block's map is not the first's."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = transformers.vit(num_layers=3).double().eval()
        nn.init.normal_(net.heads[0].weight)
    images, v = photos(), torch.eye(nets.CLASSES, dtype=torch.float64)[[1, 4]]
    maps = wcx.Explainer(net, "legrad", blocks=count)(images).explain(v)
    for n in range(2):
        blocks = by_formula(net, images[n], v[n], relu=True)
        expected, reverse = torch.stack(blocks[-count:]).mean(0), torch.stack(blocks[:count]).mean(0)
        torch.testing.assert_close(maps[n], expected, rtol=1e-9, atol=1e-14)
        assert (reverse - expected).norm() > 0.1 * expected.norm()


def test_a_block_whose_attention_does_nothing_has_no_map() -> None:
    """Layers in their order: the last of three is muted, so that `blocks=1` finds nothing, and `blocks=2` half of the middle."""
    net, images = transformers.made("repeated, fused"), photos()
    nn.init.zeros_(net.blocks[2].out.weight)
    v = torch.eye(nets.CLASSES, dtype=torch.float64)[:1].expand(2, -1)
    maps = [wcx.Explainer(net, "legrad", blocks=count)(images).explain(v) for count in (1, 2, 3)]
    assert bool((maps[0] == 0).all())
    assert bool((maps[1].amax((1, 2)) > 0).all())
    net.blocks = net.blocks[:2]
    shorter = wcx.Explainer(net, "legrad", blocks=1)(images).explain(v)
    torch.testing.assert_close(maps[1], shorter / 2, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["vit", "repeated, fused"])
def test_legrad_without_its_relu_is_the_sum_over_classes(name: str) -> None:
    net, images, target = transformers.made(name), photos(), torch.tensor([0, 5])
    method = partial(wcx.explain, net, images, method="legrad", relu=False)
    phis = torch.stack([method(target=s, contrast="original") for s in range(nets.CLASSES)], 1)
    with torch.no_grad():
        logits = net(images)
    linear.check(lambda contrast: method(target=target, contrast=contrast), phis, logits, target)


def test_legrad_as_published_is_not_linear_and_says_so() -> None:
    assert not wcx.methods.create("legrad").linear
    assert wcx.methods.create("legrad", relu=False).linear
    net, images = transformers.made("vit"), photos()
    plus, minus = (wcx.Explainer(net, "legrad")(images).explain(sign * torch.ones(2, 6).double()) for sign in (1, -1))
    assert bool((plus >= 0).all())
    assert bool((minus >= 0).all())
    assert (plus + minus).norm() > 0.1 * plus.norm()


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, **options: object) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask, **options)


def shared_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)


ROOM = torch.rand(12, 12, generator=torch.Generator().manual_seed(5)).double()
FUSED: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "plain": (masked, transformers.unfused),
    "by einsum": (masked, transformers.by_einsum),
    "scale": (partial(masked, scale=0.3), lambda q, k, v: (q @ k.mT * 0.3).softmax(-1) @ v),
    "bias": (partial(masked, mask=ROOM), lambda q, k, v: (q @ k.mT / 2 + ROOM).softmax(-1) @ v),
    "mask": (
        partial(masked, mask=ROOM > 0.3),
        lambda q, k, v: (q @ k.mT / 2).masked_fill(ROOM <= 0.3, -torch.inf).softmax(-1) @ v,
    ),
    "causal": (
        partial(masked, is_causal=True),
        lambda q, k, v: (q @ k.mT / 2 + torch.full((12, 12), -torch.inf).triu(1)).softmax(-1) @ v,
    ),
    "shared heads": (shared_heads, lambda q, k, v: transformers.unfused(q, k[:, [0, 0]], v[:, [0, 0]])),
}


@pytest.mark.parametrize("method", ["legrad", "attention_rollout"])
@pytest.mark.parametrize("name", FUSED)
def test_fused_attention_is_computed_in_its_parts(name: str, method: str) -> None:
    """On images that are not square; the logits stay the network's."""
    images, maps = photos(shape=(16, 12)), []
    for attend in FUSED[name]:
        net = transformers.made("repeated, fused")
        for block in net.blocks:
            block.attend = attend
        run = wcx.Explainer(net, method)(images)
        torch.testing.assert_close(run.logits, net(images).detach(), rtol=1e-12, atol=1e-12)
        maps.append(run.explain(wcx.cotangent(run.logits, 0)))
    assert maps[0].shape == (2, 4, 3)
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-9, atol=1e-14)


def test_rollout_is_the_product_of_the_layers_in_their_order() -> None:
    net, images = transformers.made("vit", seed=2), photos()
    got = wcx.explain(net, images, 0, "attention_rollout")
    for n in range(2):
        x = net.conv_proj(images[n : n + 1])[0].flatten(1).T
        x = torch.cat([net.class_token[0], x]) + net.encoder.pos_embedding[0]
        steps = []
        for block in net.encoder.layers:
            weights, values = attention(block, x)
            steps.append((weights.mean(0) + torch.eye(17)) / 2)
            x = behind(block, x, weights, values)
        expected = (steps[1] @ steps[0])[0, 1:].view(4, 4).detach()
        reverse = (steps[0] @ steps[1])[0, 1:].view(4, 4).detach()
        torch.testing.assert_close(got[n], expected, rtol=1e-9, atol=1e-12)
        assert (reverse - expected).norm() > 0.01 * expected.norm()


@pytest.mark.parametrize("method", ["legrad", "attention_rollout"])
def test_a_layer_that_plays_no_part_is_told(method: str, caplog: pytest.LogCaptureFixture) -> None:
    net = transformers.made("vit")
    say.cache_clear()
    wcx.Explainer(net, method)
    assert "plays no part" not in caplog.text
    wcx.Explainer(net, method, layer="encoder.layers.encoder_layer_0")
    assert f"{method} reads the attention of all blocks: the layer that is named plays no part." in caplog.text


def test_rollout_is_the_same_under_every_contrast_and_a_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    net, images = transformers.made("vit"), photos()
    say.cache_clear()
    with caplog.at_level(logging.WARNING, "wcx"):
        maps = wcx.explain(net, images, 0, "attention_rollout", contrasts.names())
    assert all(torch.equal(phi, maps[0]) for phi in maps)
    assert [record.message for record in caplog.records] == [
        "attention_rollout knows no classes: its map is the same under every contrast; it is a control."
    ]


@pytest.mark.parametrize("method", ["legrad", "attention_rollout"])
@pytest.mark.parametrize(
    ("net", "words"),
    [("residual", "no block of the network calls attention"), ("swin", "in windows"), ("maxvit", "in windows")],
)
def test_what_is_no_plain_transformer_is_refused(net: str, words: str, method: str) -> None:
    model = nets.residual().double() if net == "residual" else transformers.made(net)
    with pytest.raises(WcxError, match=rf"{method} needs .*{words}"):
        wcx.explain(model, photos(), 0, method)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_as_it_was(fails: bool) -> None:
    net, images = transformers.made("repeated, fused"), photos()
    calls: list[int] = []

    def hook(_module: nn.Module, _arguments: object, output: Tensor) -> None:
        calls.append(len(output))
        if fails and len(calls) == 3:  # the last pass, in which no block runs
            raise RuntimeError("mine")

    net.head.register_forward_hook(hook)
    net.train()
    keys = [sorted(vars(module)) for module in net.modules()]
    if fails:
        with pytest.raises(RuntimeError, match="mine"):
            wcx.explain(net, images, 0, "legrad")
    else:
        wcx.explain(net, images, 0, "legrad")
    assert calls == [1, 2, 6]  # where the blocks are, all of them, and all blocks' tokens through the head
    assert [sorted(vars(module)) for module in net.modules()] == keys
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.blocks.modules())


@pytest.mark.parametrize("blocks", [0, 1.5, "all", True])
def test_an_option_that_is_none_is_refused(blocks: object) -> None:
    with pytest.raises(WcxError, match=r"blocks = .*whole number"):
        wcx.methods.create("legrad", blocks=blocks)
