"""LRP, LeGrad and rollout on timm's and Hugging Face's transformers: every attention they have, fused or not (make test-extras)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wcx
from wcx import models
from wcx.errors import WcxError
from wcx.methods._blocks import Blocks

CLASSES = 5
# Fused and eager attention; distillation and register tokens, attention pooling; rotary positions and gated units; biases;
# windows; norms without attention; convolutions, gates and attention together.
TIMM: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 32},
    "deit_tiny_distilled_patch16_224": {"img_size": 32},
    "vit_small_patch14_reg4_dinov2": {"img_size": 28},
    "vit_base_patch16_siglip_224": {"img_size": 32},
    "eva02_tiny_patch14_224": {"img_size": 28},
    "beit_base_patch16_224": {"img_size": 32},
    "swin_tiny_patch4_window7_224": {"img_size": 32, "window_size": 4, "depths": (2, 2)},
    "mixer_s32_224": {"img_size": 64},
    "convnext_atto": {},
    "maxvit_rmlp_pico_rw_256": {"img_size": 32},
}
PLAIN = [*TIMM][:6]  # all tokens attend to each other


def of_timm(name: str) -> tuple[nn.Module, Tensor]:
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")
    options = {**TIMM[name], "num_classes": CLASSES}
    if name in PLAIN:
        options["depth"] = 2
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, **options).double().eval()
    for parameter in net.parameters():  # layer scales and biases that begin at 0, too
        parameter.data += 0.05 * torch.randn_like(parameter)
    side = options.get("img_size", 64)
    return net, torch.randn(2, 3, side, side, dtype=torch.float64)


class Logits(nn.Module):
    """A Hugging Face classifier that returns its logits alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(pixel_values=x).logits


def of_hugging_face(attention: str) -> tuple[nn.Module, Tensor]:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 32,
    }
    config = transformers.ViTConfig(**sizes, patch_size=8, num_labels=CLASSES, attn_implementation=attention)
    torch.manual_seed(0)
    net = transformers.ViTForImageClassification(config).double().eval()
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return Logits(net), torch.randn(2, 3, 32, 32, dtype=torch.float64)


def errors(net: nn.Module, images: Tensor, method: str, **options: Any) -> list[float]:
    """Return how far one pass is from the sum over classes, for each of 2 images under `weighted`."""
    run = wcx.Explainer(net, method, **options)(images)
    assert (run.logits - net(images).detach()).abs().max() <= 1e-9 * run.logits.abs().max()
    phis = torch.stack([run.explain(row.expand(2, -1)) for row in torch.eye(CLASSES, dtype=torch.float64)], 1)
    v = wcx.cotangent(run.logits, torch.tensor([0, 3]), "weighted")
    error = (run.explain(v) - torch.einsum("ns,ns...->n...", v, phis)).flatten(1).norm(dim=1)
    size = (v.abs() * phis.flatten(2).norm(dim=2)).sum(1)
    assert bool((size > 0).all())
    return (error / size).tolist()


@pytest.mark.parametrize("composite", ["attnlrp", "cp_lrp"])
@pytest.mark.parametrize("name", TIMM)
def test_lrp_is_the_sum_over_classes_on_timms_networks(name: str, composite: str) -> None:
    assert max(errors(*of_timm(name), "lrp", composite=composite)) <= 1e-9


@pytest.mark.parametrize("name", PLAIN)
def test_legrad_is_the_sum_over_classes_on_timms_transformers(name: str) -> None:
    assert max(errors(*of_timm(name), "legrad", relu=False)) <= 1e-9


@pytest.mark.parametrize("name", [name for name in TIMM if name not in PLAIN])
def test_legrad_is_refused_where_tokens_do_not_all_attend_to_each_other(name: str) -> None:
    with pytest.raises(WcxError, match="legrad needs"):
        wcx.explain(*of_timm(name), 0, "legrad")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lrp", {"composite": "attnlrp", "epsilon": 1e-30}),
        ("lrp", {"composite": "cp_lrp", "epsilon": 1e-30}),
        ("legrad", {}),
    ],
)
def test_fused_and_eager_attention_of_hugging_face_have_the_same_maps(method: str, options: dict[str, Any]) -> None:
    maps = []
    for attention in ("sdpa", "eager"):
        net, images = of_hugging_face(attention)
        maps.append(wcx.explain(net, images, 0, method, ["original", "weighted"], **options))
    # 1e-6: the eager softmax is in float32
    assert (maps[0] - maps[1]).norm() <= 1e-6 * maps[0].norm()


def test_fused_and_eager_attention_of_timm_have_the_same_maps() -> None:
    net, images = of_timm("vit_tiny_patch16_224")
    for method, options in (
        ("lrp", {"composite": "attnlrp", "epsilon": 1e-30}),
        ("legrad", {}),
        ("attention_rollout", {}),
    ):
        maps = []
        for fused in (True, False):
            for block in net.blocks:
                block.attn.fused_attn = fused
            maps.append(wcx.explain(net, images, 0, method, **options))
        assert (maps[0] - maps[1]).norm() <= 1e-8 * maps[0].norm(), method


def test_fused_attention_shows_hooks_nothing_and_is_left_fused() -> None:
    """Trap 2: a hook behind the softmax never runs; the probabilities are those that it sees where attention is eager."""
    net, images = of_timm("vit_tiny_patch16_224")
    seen: list[Tensor] = []
    for block in net.blocks:
        block.attn.attn_drop.register_forward_hook(lambda _module, _arguments, output: seen.append(output.detach()))
    found = Blocks.of(net, images, "legrad")
    blocks, _ = found.run(net, images, alone=False)
    wcx.explain(net, images, 0, "legrad")
    assert not seen
    assert all(block.attn.fused_attn for block in net.blocks)
    for block in net.blocks:
        block.attn.fused_attn = False
    net(images)
    assert len(seen) == len(blocks) == 2
    for block, expected in zip(blocks, seen, strict=True):  # in the order in which they run
        torch.testing.assert_close(block.probabilities[0].detach(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hugging_faces_attention_stays_the_one_that_was_chosen(attention: str) -> None:
    net, images = of_hugging_face(attention)
    before = net(images).detach()
    for method in ("legrad", "attention_rollout", "lrp"):
        wcx.explain(net, images, 0, method)
    assert net.net.config._attn_implementation == attention
    assert torch.equal(net(images).detach(), before)


def test_two_sentences_are_contrasted_on_clip(tmp_path: Path) -> None:
    """Cosines of embeddings, whose norms LRP holds constant, times a scale; LeGrad ends each block by its projection."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: pip install open_clip_torch")
    vision = {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8, "head_width": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    (tmp_path / "tiny-clip.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    prompts = ["a red bird", "a black bird", "no bird", "a cat", "a dog"]
    loaded = models.load("tiny-clip", library="clip", weights="random", prompts=prompts)
    net, images = loaded.model.double(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    for method, options in (
        ("lrp", {"composite": "attnlrp"}),
        ("lrp", {"composite": "cp_lrp"}),
        ("legrad", {"relu": False}),
    ):
        assert max(errors(net, images, method, **options)) <= 1e-9, (method, options)
