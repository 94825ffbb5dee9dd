"""recipe=head on networks of other libraries: a frozen backbone, features computed once, and the checkpoint opens again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import wcx
from wcx.cli import application, opening
from wcx.cli.commands import finetune
from wcx.errors import WcxError

timm = pytest.importorskip("timm", reason="make test-extras")
transformers = pytest.importorskip("transformers", reason="make test-extras")
pytestmark = pytest.mark.usefixtures("one_thread")

TIMM = {
    "vit_tiny_patch16_224": "head",
    "vit_small_patch14_reg4_dinov2": "head",  # has none by itself
    "convnext_atto": "head",
    "resnet18": "fc",
    "efficientnet_b0": "classifier",
}


def trained(tmp_path: Path, *arguments: str) -> tuple[nn.Module, nn.Module]:
    """Fine-tune by the command's own function; return the inner network before and after, as it is opened again."""
    base = [
        "dataset=parts",
        "dataset.train_per_class=2",
        "dataset.test_per_class=1",
        "recipe=head",
        "recipe.epochs=1",
        "num_workers=0",
    ]
    base += [f"paths.checkpoints_dir={tmp_path}", "model.weights=random", *arguments]
    cfg = application.compose(base, "finetune")
    train = opening.open_dataset(cfg, "train")
    before = opening.open_model(cfg, train)
    finetune.run(cfg)
    [checkpoint] = tmp_path.rglob("*.safetensors")
    cfg = application.compose([*base, f"model.checkpoint={checkpoint}"], "finetune")
    after = opening.open_model(cfg, train)
    assert after.class_names == train.class_names
    run = wcx.Explainer(after.model, "gradcam")(train[0][0][None])
    assert run.explain(wcx.cotangent(run.logits, 1)).isfinite().all()
    return before.net, after.net


@pytest.mark.parametrize("name", TIMM)
def test_a_head_on_timm(name: str, tmp_path: Path) -> None:
    size = ["+model.img_size=56"] if name.startswith("vit") else []
    before, after = trained(tmp_path, "model=timm", f"model.name={name}", "dataset.size=56", *size)
    states = before.state_dict(), after.state_dict()
    changed = {key.split(".")[0] for key, value in states[0].items() if not torch.equal(value, states[1][key])}
    assert changed == {TIMM[name]}


def test_a_head_on_hugging_face(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "hub" / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "hub" / "vit")
    before, after = trained(tmp_path / "out", "model=hf", f"model.name={tmp_path / 'hub' / 'vit'}")
    states = before.state_dict(), after.state_dict()
    changed = {key.split(".")[0] for key, value in states[0].items() if not torch.equal(value, states[1][key])}
    assert changed == {"classifier"}


def test_a_head_of_two_parts_is_one_line(tmp_path: Path) -> None:
    """DeiT's distilled one: the mean of two; the other would stay random."""
    with pytest.raises(WcxError, match="head_dist") as caught:
        trained(
            tmp_path,
            "model=timm",
            "model.name=deit_tiny_distilled_patch16_224",
            "+model.img_size=32",
            "dataset.size=32",
        )
    assert "\n" not in str(caught.value)
