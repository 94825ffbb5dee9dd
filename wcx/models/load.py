"""Models: any torchvision classifier (and small_cnn) with its weights, ready for [0, 1] pixels.

Their weights are ImageNet's (wcx/models/weights.py says where those are looked for) or a checkpoint's (wcx/models/checkpoints.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wcx.errors import WcxError, choose
from wcx.images import IMAGENET_MEAN, IMAGENET_STD, Normalized, Preset, Transform
from wcx.models.checkpoints import others, read_checkpoint
from wcx.models.class_names import NAMES, NONE, label_map, read_map, read_names
from wcx.models.devices import as_device
from wcx.models.state_dicts import fill, read_weights, weights_hash
from wcx.models.weights import RANDOM, Weights, resolve, torchvision_entries

log = logging.getLogger("wcx")

IMAGENET_TRANSFORM = {"kind": "crop", "resize": 256, "size": 224}  # the paper's (Fig. 3), for all networks
_RENORMALISING = ("googlenet", "inception_v3")  # torchvision's weights of these expect transform_input=True


@dataclass
class LoadedModel:
    """A classifier with its weights, in eval mode, and what is known of it.

    Attributes:
        net: normalised input (N, channels, H, W) -> logits (N, C), or what `logits_of` finds them in.
        model: the same for [0, 1] pixels, `Normalized(net)`.
        name: torchvision's name, or "small_cnn".
        layer: the activation layer inside `net`, or None (not given).
        class_names: of the outputs, if a checkpoint says so, else None.
        weights: the label for tables: "IMAGENET1K_V1", "stand-in: mobilenet_v2.pth", "random", "cub checkpoint (...)".
        stand_in: the weights, or those that the fine-tuning began with, stand in for torchvision's.
        weights_hash: sha256 over the state dict, hex.
        transform: the input transform of training, fields of `datasets.base.Transform`.
        options: the constructor's options.
        meta: a checkpoint's metadata, else {}.
        channels_last: whether the convolutions' weights, and so all activations, lie channels last in memory.
        class_map: how a dataset's classes are told among the outputs: by "name", "none", or a file, see `outputs`.
    """

    net: nn.Module
    model: Normalized
    name: str
    layer: str | None
    class_names: list[str] | None
    weights: str
    stand_in: bool
    weights_hash: str
    transform: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    channels_last: bool = False
    class_map: str = NAMES

    def outputs(self, classes: Sequence[str]) -> list[int | None] | None:
        """Return the output of each of a dataset's classes; None if they are the outputs, as the network names none.

        With class_map none all are -1: images without labels, and no accuracy. In a file a class may have no output, None: its
        images are left out.

        Raises:
            WcxError: a class that is not among the outputs' names or not in the file; see `class_names.read_map`.
        """
        if self.class_map == NONE:
            return [-1] * len(classes)
        if self.class_map != NAMES:
            return read_map(self.class_map, classes, self.class_names)
        return None if self.class_names is None else label_map(classes, self.class_names).tolist()

    def named(self, classes: Sequence[str]) -> dict[str, int]:
        """Return all outputs by the names of the classes that they are: as a file's own, whichever are `classes`, the dataset's.

        Raises:
            WcxError: see `class_names.read_names`.
        """
        if self.class_map == NONE:
            return {}
        if self.class_map != NAMES:
            named = read_names(self.class_map, self.class_names)
            return {name: output for name, output in named.items() if output is not None}
        return {name: output for output, name in enumerate(self.class_names or classes)}

    def to_channels_last(self) -> LoadedModel:
        """Return this with weights laid out channels last, about twice as fast; as it is if it has 3-d convolutions."""
        if any(parameter.ndim == 5 for parameter in self.net.parameters()):
            return self
        self.net.to(memory_format=torch.channels_last)
        return replace(self, channels_last=True)


def names() -> list[str]:
    """Return the names of all architectures: torchvision's classifiers and small_cnn."""
    import torchvision  # here and in `build`: it takes as long to import as torch, and small_cnn needs none of it

    return ["small_cnn", *torchvision.models.list_models(module=torchvision.models)]


def load(
    name: str,
    *,
    num_classes: int | None = None,
    weights: str | Path | None = "auto",
    checkpoint: str | Path | None = None,
    weights_dir: str | Path | None = None,
    layer: str | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
    pinned: str | None = "IMAGENET1K_V1",
    dataset: str | None = None,
    recipe: str = "quick",
    choice: str | None = None,
    library: str | None = None,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> LoadedModel:
    """Build a classifier and load its weights.

    Args:
        name: one of `names()`, or as `library` knows it.
        num_classes: start of a fine-tuning: a network with so many outputs, whose last layer is fresh where that of
            the weights has another shape, and whose whole classifier is fresh where the file has none. None: the
            weights as they are.
        weights: "auto", a torchvision entry, a file, or None or "random"; see `wcx.models.weights.resolve`. Unused with a
            checkpoint.
        checkpoint: a file made by `wcx finetune`.
        weights_dir: folder with weight files.
        layer: kept in the result; methods look for it and check it.
        device: where the result lives.
        seed: of the random initialisation (fresh layers); the global generators are left alone.
        pinned: torchvision's entry that "auto" means.
        dataset, recipe, choice: only for the command in the message about a missing checkpoint: the dataset's name
            (default: the checkpoint's folder), the recipe, and what follows `model=` (default: `name`).
        library: that the network is from, one of `libraries.names()`; None: torchvision or here.
        classes: of the dataset, for a library's network that is made for any (CLIP).
        **options: for the architecture's constructor.

    Raises:
        WcxError: an unknown name or option; weights or a checkpoint that are missing, damaged or do not fit.
    """
    if num_classes is not None and not (isinstance(num_classes, int) and num_classes >= 1):
        raise WcxError(f"num_classes = {num_classes!r}: give a whole number of at least 1, or None (the weights').")
    device = as_device(device)
    if library is not None:
        from wcx.models import libraries

        return libraries.load(
            libraries.get(library)(name, options, classes, weights),
            num_classes=num_classes,
            weights=weights,
            checkpoint=checkpoint,
            weights_dir=weights_dir,
            layer=layer,
            device=device,
            seed=seed,
            dataset=dataset,
            recipe=recipe,
            choice=choice,
        )
    if name != "small_cnn":
        choose("model", name, names())
    if checkpoint is not None:
        path = Path(checkpoint)
        if not path.exists():
            command = finetune_command(dataset or path.parent.name, choice or name, recipe)
            raise WcxError(f"no checkpoint of {name} at {path}{others(path, name)}; make it with: {command}")
        return from_checkpoint(
            name, path, layer, device, options, lambda count, stated: build(name, count, 0, stated, init_weights=False)
        )

    source = resolve(name, weights, weights_dir, pinned)
    if source is RANDOM and str(weights) == "auto" and num_classes is None:
        raise WcxError(f"model {name} has no pretrained weights: give model.checkpoint=<file>, or model.weights=random")
    options = dict(options)
    if source.entry and name in _RENORMALISING:
        options.setdefault("transform_input", True)
    net = build(name, num_classes, seed, options, init_weights=source.path is None)
    if source.path:
        fill(net, read_weights(source.path), source.label, fine_tuning=num_classes is not None)
    if source.stand_in:
        log.warning("%s: stand-in weights %s (not torchvision's own)", name, source.path)
    mean, std = _normalisation(name, source)
    return LoadedModel(
        net=net.to(device),
        model=Normalized(net, mean, std).to(device).eval(),
        name=name,
        layer=layer,
        class_names=None,
        weights=source.label,
        stand_in=source.stand_in,
        weights_hash=weights_hash(net.state_dict()),
        transform=dict(IMAGENET_TRANSFORM),
        options=options,
    )


def finetune_command(dataset: str, model: str, recipe: str) -> str:
    """Return the command that makes a checkpoint."""
    return f"wcx finetune dataset={dataset} model={model} recipe={recipe}"


def build(
    name: str, num_classes: int | None = None, seed: int = 0, options: Mapping[str, Any] = {}, init_weights: bool = True
) -> nn.Module:
    """Return the architecture in eval mode, randomly initialised from `seed`.

    Args:
        name: one of `names()`.
        num_classes: None means ImageNet's 1000.
        seed: the global generators are left alone.
        options: for the constructor.
        init_weights: False spares the slow initialisation of GoogLeNet and Inception, where weights follow.

    Raises:
        WcxError: an option that the architecture does not have.
    """
    arguments = {**options, "num_classes": num_classes or 1000}
    if name in _RENORMALISING:  # the auxiliary heads serve training from scratch only; torchvision drops them, too
        arguments = {"aux_logits": False, "init_weights": init_weights, **arguments}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if name == "small_cnn":
                from wcx.models.small_cnn import small_cnn

                return small_cnn(**arguments).eval()
            import torchvision

            return torchvision.models.get_model(name, weights=None, **arguments).eval()
    except (TypeError, ValueError) as error:
        raise WcxError(
            f"model {name} cannot be built with {arguments}: {error}; check the options under model"
        ) from error


def own_transform(name: str, entry: str | None = None) -> Transform:
    """Return the transform that torchvision states for its weights `entry` (default: its first) of a classifier.

    Raises:
        WcxError: a network that is not torchvision's, or has no such weights.
    """
    entries = torchvision_entries(choose("model of torchvision", name, [key for key in names() if key != "small_cnn"]))
    preset = entries[choose(f"weights of {name}", entry or next(iter(entries)), entries)].transforms()
    sizes = {"kind": "crop", "size": preset.crop_size[0], "resize": preset.resize_size[0]}
    mode = preset.interpolation.value
    return Transform(**sizes) if mode == "bilinear" else Preset(**sizes, interpolation=mode)


def from_checkpoint(
    name: str,
    path: Path,
    layer: str | None,
    device: str | torch.device,
    options: dict[str, Any],
    build: Callable[[int, dict[str, Any]], nn.Module],
) -> LoadedModel:
    """Return a fine-tuned network; `build` makes it of the number of classes and the constructor's options.

    Raises:
        WcxError: a checkpoint that is damaged, of another network, or does not fit.
    """
    state, meta = read_checkpoint(path)
    if meta["model"] != name:
        raise WcxError(f"checkpoint {path} is of {meta['model']}, not of {name}; check model.checkpoint")
    options = {**meta["options"], **options}
    net = build(len(meta["class_names"]), options).eval()
    fill(net, state, f"checkpoint {path}")
    recipe, accuracy = meta["recipe"]["name"], f"{meta['accuracy']:.3f}"
    begun = f", begun with {meta['weights']}" if meta["stand_in"] else ""
    return LoadedModel(
        net=net.to(device),
        model=Normalized(net, meta["mean"], meta["std"]).to(device).eval(),
        name=name,
        layer=layer,
        class_names=list(meta["class_names"]),
        weights=f"{meta['dataset']} checkpoint ({name}, recipe {recipe}, accuracy {accuracy}{begun})",
        stand_in=meta["stand_in"],
        weights_hash=weights_hash(state),
        transform=dict(meta["transform"]),
        options=options,
        meta=meta,
    )


def _normalisation(name: str, source: Weights) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std that the weights were trained with: the entry's own, else ImageNet's."""
    if source is RANDOM or source.entry is None:
        return IMAGENET_MEAN, IMAGENET_STD
    preset = torchvision_entries(name)[source.entry].transforms()
    return tuple(preset.mean), tuple(preset.std)
