"""A library's network sees a photograph as the library itself shows it: sides, cut, interpolation, channels, normalisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wcx.datasets import as_transform
from wcx.errors import WcxError
from wcx.models import libraries
from wcx.models.libraries.hf import processing

timm = pytest.importorskip("timm", reason="make test-extras")
transformers = pytest.importorskip("transformers", reason="make test-extras")
pytestmark = pytest.mark.usefixtures("one_thread")
NEAR = 0.01  # of normalised values, in the mean: 8-bit steps and the last digit of an antialiased sum


@pytest.fixture
def photograph() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (9, 15, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((150, 90), Image.Resampling.BICUBIC)


def seen(facts: dict, image: Image.Image) -> Tensor:
    mean, std = (torch.tensor(facts[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (as_transform(facts["transform"])(image) - mean) / std


PROCESSORS = {
    "ViT": ("ViTImageProcessor", {"size": {"height": 64, "width": 64}}),
    "DeiT: whole, then cut": (
        "DeiTImageProcessor",
        {"size": {"height": 80, "width": 80}, "crop_size": {"height": 64, "width": 64}},
    ),
    "PoolFormer: a share is cut": (
        "PoolFormerImageProcessor",
        {"size": {"shortest_edge": 65}, "crop_size": {"height": 64, "width": 64}},
    ),
    "EfficientNet: normalised twice": ("EfficientNetImageProcessor", {"size": {"height": 64, "width": 64}}),
    "CLIP": ("CLIPImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}),
    "ConvNeXt of 384": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "not normalised": ("ViTImageProcessor", {"size": {"height": 64, "width": 64}, "do_normalize": False}),
}


@pytest.mark.parametrize("what", PROCESSORS)
def test_a_hugging_face_processor(what: str, photograph: Image.Image, tmp_path: Path) -> None:
    kind, options = PROCESSORS[what]
    processor = getattr(transformers, kind)(**options)
    processor.save_pretrained(tmp_path)
    theirs = processor(images=photograph, return_tensors="pt")["pixel_values"][0]
    ours = seen(processing(str(tmp_path)), photograph)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean() < NEAR


def test_means_are_as_stated(tmp_path: Path) -> None:
    transformers.CLIPImageProcessor().save_pretrained(tmp_path)
    facts = processing(str(tmp_path))
    assert facts["mean"] == pytest.approx((0.48145466, 0.4578275, 0.40821073), abs=1e-6)
    assert facts["std"] == pytest.approx((0.26862954, 0.26130258, 0.27577711), abs=1e-6)


REFUSED = {
    "MobileViT: blue first": (
        "MobileViTImageProcessor",
        {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}},
        "does more to images",
    ),
    "LeViT: a share without a name": (
        "LevitImageProcessor",
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
        "does more to images",
    ),
    "no square": ("ViTImageProcessor", {"size": {"height": 64, "width": 48}}, "is not told by"),
    "patches of any number": ("Siglip2ImageProcessor", {}, "is not told by"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_processor_of_another_kind_is_one_line(what: str, tmp_path: Path) -> None:
    kind, options, message = REFUSED[what]
    getattr(transformers, kind)(**options).save_pretrained(tmp_path)
    with pytest.raises(WcxError, match=rf"{message} .*; give model.mean=\[...\]") as caught:
        processing(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["dm_nfnet_f0.dm_in1k", "vit_tiny_patch16_224.augreg_in21k", "coat_lite_medium_384.in1k"]
)
def test_a_transform_of_timm(name: str, photograph: Image.Image) -> None:
    network = libraries.get("timm")(name, {})
    data = timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**data)(photograph)
    ours = seen({"mean": network.mean, "std": network.std, "transform": network.transform}, photograph)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean() < NEAR
