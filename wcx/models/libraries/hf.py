"""Hugging Face: any of its image classifiers, by hub name or folder, `model=hf model.name=google/vit-base-patch16-224`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from wcx.datasets import as_transform, imagenet
from wcx.errors import WcxError
from wcx.models.class_names import distinct
from wcx.models.factories import one_line
from wcx.models.libraries.base import Library, unavailable

log = logging.getLogger("wcx")
NEAR = 0.02  # of values in [0, 1]: two ways to round the resized sides and the cut are nearer


class HuggingFace(Library):
    """An image classifier of transformers; `model.mean`, `model.std` and `model.transform` replace what its folder says."""

    extra, own = "transformers", ("mean", "std", "transform")

    def describe(self) -> None:
        """See `Library.describe`."""
        self.require("transformers")
        from transformers import AutoConfig

        try:
            self.config = AutoConfig.from_pretrained(self.name)
        except (OSError, ValueError) as error:
            raise WcxError(
                f"no configuration of {self.name}: it is no folder with a config.json, and the download failed "
                f"({one_line(error)[:120]}); check model.name"
            ) from error
        stated = {key: self.options.get(key) for key in self.own}
        read = {} if all(stated.values()) else processing(self.name)
        self.mean, self.std, self.transform = (stated[key] or read[key] for key in self.own)
        heads = self.config.architectures or ["ForImageClassification"]
        if any("ForImageClassification" in head for head in heads):
            self.outputs = self.config.num_labels
            self.class_names = named(self.config.id2label)

    def build(self, num_classes: int | None, weights: str | None) -> nn.Module:
        """See `Library.build`."""
        from transformers import AutoModelForImageClassification

        config = type(self.config).from_dict({**self.config.to_dict(), **self.arguments})
        if num_classes is not None:
            config.num_labels = num_classes
        if weights is None:
            return AutoModelForImageClassification.from_config(config)
        try:
            is_new = num_classes is not None
            return whole(
                AutoModelForImageClassification,
                self.name,
                new_head=is_new,
                config=config,
                ignore_mismatched_sizes=is_new,
            )
        except OSError as error:
            raise unavailable(self, error) from error


def whole(kind: Any, name: str, *, new_head: bool = False, **options: Any) -> nn.Module:
    """Return transformers' pretrained network of a kind, with every parameter from the file, but for those of a new head.

    Raises:
        WcxError: the file lacks some, which transformers leaves random and only reports. Beside a new head a line says it:
            pretraining may have had no use for a pooler's norm.
    """
    net, report = kind.from_pretrained(name, output_loading_info=True, **options)
    lacking = sorted({key for key, _ in net.named_parameters()} & set(report["missing_keys"]))
    if new_head:
        lacking = [key for key in lacking if key.startswith(f"{net.base_model_prefix}.")]
    if lacking:
        line = f"the weights of {name} lack {len(lacking)} of the network's parameters ({lacking[0]}): transformers leaves them "
        if not new_head:
            raise WcxError(f"{line}random; give weights that have them, or model.weights=random")
        log.warning("%sas they begin", line)
    return net


def named(labels: Mapping[int, str]) -> list[str] | None:
    """Return the names of outputs; None where they are LABEL_0 and so on, ImageNet's list where they are its classes."""
    names = [labels[index] for index in sorted(labels)]
    if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        return None
    usual = imagenet.class_names()
    if len(names) == len(usual):
        same = sum(theirs.split(",")[0].lower() == ours.lower() for theirs, ours in zip(names, usual, strict=True))
        names = usual if same > len(usual) // 2 else names
    return distinct(names)


def processing(name: str) -> dict[str, Any]:
    """Return mean, std and transform, by what an image processor's file says and by what it makes of images.

    Raises:
        WcxError: there is none, or it does something else beside.
    """
    from PIL import Image
    from transformers import AutoImageProcessor

    instead = "give model.mean=[...], model.std=[...] and model.transform={kind:squash,size:224}"
    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise WcxError(f"{name} has no preprocessor_config.json; {instead}") from error
    try:
        transform = _stated(processor)
        ends = [processor(images=Image.new("RGB", (96, 96), c), return_tensors="pt") for c in ("black", "white")]
        black, white = (end["pixel_values"][0].double().mean((1, 2)) for end in ends)
        std = 1 / (white - black)
        ramps = Image.merge("RGB", [Image.linear_gradient("L").rotate(turn).resize((96, 64)) for turn in (0, 90, 180)])
        pixels = processor(images=ramps, return_tensors="pt")["pixel_values"][0]
        differ = float(
            ((pixels - black.view(-1, 1, 1)) * std.view(-1, 1, 1) - as_transform(transform)(ramps)).abs().mean()
        )
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, WcxError) as error:
        raise WcxError(f"what {name} makes of images is not told by its preprocessor_config.json; {instead}") from error
    if not differ < NEAR:
        raise WcxError(
            f"{name} does more to images than to resize, cut and normalise them (preprocessor_config.json); {instead}"
        )
    mean, std = ([round(float(x), 7) for x in values] for values in (-black * std, std))
    return {"mean": tuple(mean), "std": tuple(std), "transform": transform}


def _stated(processor: Any) -> dict[str, Any]:
    """Return the transform that an image processor's file states, fields of `datasets.as_transform`."""
    from PIL import Image

    size, crop = dict(processor.size or {}), dict(getattr(processor, "crop_size", None) or {})
    short = size.get("shortest_edge") or size.get("height")
    cropped, share = bool(crop) and getattr(processor, "do_center_crop", False), getattr(processor, "crop_pct", None)
    if share and cropped:  # PoolFormer's
        short = int(short / share)
    elif share and "shortest_edge" in size:  # ConvNeXt's: below 384 pixels
        crop, short, cropped = {"height": short}, int(short / share) if short < 384 else short, short < 384
    kind = "crop" if share or "shortest_edge" in size else "squash_crop"
    cut = {"kind": kind, "size": crop["height"], "resize": short} if cropped else {"kind": "squash", "size": short}
    mode = Image.Resampling(int(processor.resample)).name.lower()
    return cut | ({} if mode == "bilinear" else {"interpolation": mode})
