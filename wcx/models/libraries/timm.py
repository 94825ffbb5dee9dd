"""PyTorch Image Models: any of its classifiers, `model=timm model.name=vit_base_patch16_224.augreg_in1k`."""

from __future__ import annotations

from torch import nn

from wcx.datasets import imagenet
from wcx.errors import WcxError, choose
from wcx.models.class_names import distinct
from wcx.models.factories import one_line
from wcx.models.libraries.base import Library, unavailable


class Timm(Library):
    """A network of timm."""

    extra = "timm"

    def describe(self) -> None:
        """See `Library.describe`."""
        self.require("timm")
        import timm
        from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config

        if not timm.is_model(self.name):
            choose("model of timm", self.name, timm.list_models())
        architecture, _, tag = self.name.partition(".")
        if tag:
            choose(f"weights of {architecture}", self.name, timm.list_pretrained(f"{architecture}.*"))
        facts = timm.get_pretrained_cfg(self.name).to_dict()
        size = self.arguments.get("img_size")
        taken = resolve_data_config({} if size is None else {"img_size": size}, pretrained_cfg=facts)
        side = taken["input_size"][-1]
        whole = taken["crop_pct"] >= 1
        kind = ("squash" if whole else "squash_crop") if taken["crop_mode"] == "squash" else "crop"
        self.mean, self.std, self.outputs = taken["mean"], taken["std"], facts.get("num_classes", 0)
        self.transform = {"kind": kind, "size": side, "resize": max(side, int(side / taken["crop_pct"]))}
        if taken["interpolation"] != "bilinear":
            self.transform["interpolation"] = taken["interpolation"]
        if subset := infer_imagenet_subset(facts):
            names = imagenet.class_names() if subset == "imagenet-1k" else ImageNetInfo(subset).label_descriptions()
            self.class_names = distinct(names)

    def build(self, num_classes: int | None, weights: str | None) -> nn.Module:
        """See `Library.build`."""
        import timm

        arguments = {**self.arguments, **({} if num_classes is None else {"num_classes": num_classes})}
        try:
            return timm.create_model(self.name, pretrained=weights is not None, **arguments)
        except (TypeError, ValueError) as error:
            raise WcxError(f"model {self.name} cannot be built with {arguments}: {one_line(error)}") from error
        except (OSError, RuntimeError) as error:
            if weights is None:
                raise
            raise unavailable(self, error) from error
