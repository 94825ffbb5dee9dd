"""CLIP: images and sentences side by side; the logits are similarities: "why this sentence and not that one?".

`model=clip model.prompts=['a red bird','a black bird']`: of open_clip by its names (ViT-B-32), or a hub's name or folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wcx.errors import WcxError, choose
from wcx.models.class_names import read_classes
from wcx.models.factories import one_line
from wcx.models.libraries.base import Library, unavailable
from wcx.models.libraries.hf import processing, whole

_OTHERS = "open_clip has SigLIP and others by name: model.name=ViT-B-16-SigLIP"


class Similarities(nn.Module):
    """Logits s <image, sentence> of unit vectors, for sentences that are encoded once.

    Args:
        visual: images -> vectors (N, D).
        vectors: of the sentences, (C, D), of any length.
        scale: s.
    """

    def __init__(self, visual: nn.Module, vectors: Tensor, scale: float) -> None:
        super().__init__()
        self.visual = visual
        self.classifier = nn.Linear(*reversed(vectors.shape), bias=False)
        self.classifier.weight = nn.Parameter(scale * F.normalize(vectors.detach().float(), dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, C)."""
        return self.classifier(F.normalize(self.visual(images), dim=1))


class Projected(nn.Module):
    """The image half of transformers' CLIP."""

    def __init__(self, vision_model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.vision_model, self.projection = vision_model, projection

    def forward(self, images: Tensor) -> Tensor:
        """Return vectors (N, D)."""
        return self.projection(self.vision_model(pixel_values=images).pooler_output)


class Clip(Library):
    """A CLIP and its sentences.

    Options: `prompts`, a list or a file with one a line; None: a dataset's class names in `template`.
    """

    extra, own = "clip", ("prompts", "template")

    def describe(self) -> None:
        """See `Library.describe`."""
        self.is_hub = "/" in self.name or Path(self.name).is_dir()
        self.require("transformers" if self.is_hub else "open_clip")
        prompts = self.options.get("prompts")
        if prompts is None and self.classes is None:
            raise WcxError(
                "model=clip needs sentences: model.prompts=['a red bird','a black bird'], or a file with one a line."
            )
        if prompts is None:
            self.class_names = list(self.classes or [])
            self.sentences = self._filled(self.class_names)
        else:
            self.sentences = self.class_names = read_classes(prompts, "model.prompts", repeated=False)
        self.outputs = len(self.sentences)
        self.instead = "" if prompts is None else "; or let the sentences be the classes: class_map=none"
        if self.is_hub:
            facts = processing(self.name)
        else:
            import open_clip

            if (config := open_clip.get_model_config(self.name)) is None:
                choose("model of open_clip", self.name, open_clip.list_models())
            self._quick = bool(config.get("quick_gelu"))
            facts = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
            facts |= self._pretrained(self._tag(self.weights))
            size = config["vision_cfg"]["image_size"]
            kind = "squash" if facts.get("resize_mode") == "squash" else "crop"
            facts["transform"] = {"kind": kind, "size": size, "resize": size}
            if (mode := facts.get("interpolation", "bicubic")) != "bilinear":
                facts["transform"]["interpolation"] = mode
        self.mean, self.std, self.transform = facts["mean"], facts["std"], facts["transform"]

    def _filled(self, names: Sequence[str]) -> list[str]:
        """Return the template's sentence of each class.

        Raises:
            WcxError: a template without a place for the name, which would make one sentence of all classes, or with another.
        """
        template = self.options.get("template")
        template = "{}" if template is None else str(template)
        if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
            raise WcxError(
                f"model.template={template!r}: give a sentence with {{}} once, where a class's name stands: 'a photo of a {{}}'."
            )
        return [template.replace("{}", name) for name in names]

    def tags(self) -> list[str]:
        """See `Library.tags`: open_clip's; the first is the usual."""
        if self.is_hub:
            return ["auto"]
        import open_clip

        return ["auto", *open_clip.list_pretrained_tags_by_model(self.name)]

    def _pretrained(self, tag: str | None) -> dict[str, Any]:
        """Return what open_clip states of its weights: how they take images, and with which activation function."""
        import open_clip

        return dict(open_clip.get_pretrained_cfg(self.name, tag) or {}) if tag else {}

    def _tag(self, weights: str | Path | None) -> str | None:
        """Return the weights that are asked for if open_clip has them, or else the first of the network's activation function."""
        tags = self.tags()[1:]
        fitting = [tag for tag in tags if self._quick or not self._pretrained(tag).get("quick_gelu")]
        return str(weights) if weights in tags else next(iter([*fitting, *tags]), None)

    def build(self, num_classes: int | None, weights: str | None) -> nn.Module:
        """See `Library.build`. With a number of classes, the similarities make way for a linear layer."""
        try:
            visual, text, scale = self._hub(weights) if self.is_hub else self._open_clip(weights)
        except (OSError, RuntimeError) as error:
            if weights is None:
                raise
            raise unavailable(self, error) from error
        with torch.no_grad():
            vectors = text(self.sentences)
        net = Similarities(visual, vectors, scale)
        if num_classes is not None and num_classes != len(self.sentences):
            net.classifier = nn.Linear(vectors.shape[1], num_classes)
        return net

    def _open_clip(self, weights: str | None) -> tuple[nn.Module, Callable[[list[str]], Tensor], float]:
        import open_clip

        tag = None if weights is None else self._tag(weights)
        if (
            self._pretrained(tag).get("quick_gelu") and not self._quick
        ):  # else open_clip computes with another one, and warns
            raise WcxError(
                f"weights {tag} of {self.name} are made for QuickGELU: give model.name={self.name}-quickgelu."
            )
        model = open_clip.create_model(self.name, pretrained=tag, **self.arguments).float().eval()
        tokenizer = open_clip.get_tokenizer(self.name)
        return (
            model.visual,
            lambda sentences: model.encode_text(tokenizer(sentences)),
            float(model.logit_scale.detach().exp()),
        )

    def _hub(self, weights: str | None) -> tuple[nn.Module, Callable[[list[str]], Tensor], float]:
        from transformers import AutoConfig, AutoTokenizer, CLIPModel

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.name)
        except (OSError, ValueError) as error:
            raise WcxError(f"{self.name} has no tokenizer: {one_line(error)[:120]}") from error
        config = AutoConfig.from_pretrained(self.name)
        if config.model_type != CLIPModel.config_class.model_type:  # transformers only warns
            raise WcxError(f"{self.name} is a {config.model_type}, and transformers' CLIPs alone are read; {_OTHERS}")
        model = (CLIPModel(config) if weights is None else whole(CLIPModel, self.name)).float().eval()

        def text(sentences: list[str]) -> Tensor:
            tokens = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
            return model.text_projection(model.text_model(**tokens).pooler_output)

        return Projected(model.vision_model, model.visual_projection), text, float(model.logit_scale.detach().exp())
