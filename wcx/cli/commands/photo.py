"""One's own photographs: what `image=...` means to run.py; `wcx photo image=...` is the same.

wcx image=photo.jpg model=resnet18
wcx image=[a.jpg,b.jpg] dataset=cub model=alexnet target="Laysan Albatross" foils=["Sooty Albatross"]
wcx image=holiday/ model=custom model.factory=mine.nets:make model.weights=mine.pth model.classes=labels.txt
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor

from wcx import contrasts, datasets, methods, models
from wcx.cli import opening
from wcx.datasets import Transform, as_transform, imagenet
from wcx.datasets.base import decode
from wcx.errors import DataError, WcxError, choose, construct
from wcx.experiments import Subject, photo
from wcx.experiments.base import FoilSetting
from wcx.manifest import manifest
from wcx.methods.activation import ActivationMethod
from wcx.paths import native, visible


def complete(arguments: Sequence[str]) -> list[str]:
    """Return run.py's command line with what image=... implies.

    Raises:
        WcxError: image=... beside another experiment.
    """
    value = dict(argument.partition("=")[::2] for argument in arguments)
    if "image" not in value:
        return list(arguments)
    if value.get("experiment", "photo") != "photo":
        raise WcxError(f"image=... is an experiment of its own: leave experiment={value['experiment']} out.")
    implied = [] if "dataset" in value else ["dataset=imagenet"]
    implied += [] if "experiment" in value else ["experiment=photo"]
    return [*arguments, *implied, *pair_layer(value)]


def pair_layer(value: Mapping[str, str]) -> list[str]:
    """Return the setting of `pair_layer` that a `model.layer` on the command line implies."""
    is_implied = "model.layer" in value and "pair_layer" not in value
    return [f"pair_layer={value['model.layer']}"] if is_implied else []


def run(cfg: DictConfig) -> None:
    """Explain each photograph, or print what would be done."""
    if cfg.get("image") in (None, "", []):
        raise WcxError("experiment photo needs an image: image=photo.jpg, image=[a.jpg,b.jpg] or image=folder.")
    files = photo.image_files(_list(cfg.image))
    names = tuple(dict.fromkeys(("original", cfg.contrast.name)))
    if cfg.plan:
        maps = sum(4 if contrasts.get(name).uses_foils else 2 for name in names)  # of both classes
        print(f"images: {len(files)}\nforward_passes: {len(files) * (1 + maps)}\nbackward_passes: {len(files) * maps}")
        return
    loaded = opening.open_model(cfg, labelled(cfg))
    classes, transform = outputs(cfg, loaded), input_transform(cfg, loaded)
    asked = {key: cfg[key] for key in ("blur_sigma", "blur_kernel", "align_corners", "strongest")}
    asked |= {"target": None if cfg.target is None else photo.class_id(cfg.target, classes), "contrasts": names}
    question = construct("", photo.Question, asked | {"foils": _foils(cfg.foils, classes)})
    method = methods.create(cfg.method.name, **opening.options(cfg.method))
    contrast_options = {cfg.contrast.name: opening.options(cfg.contrast)}
    subject = Subject(
        loaded.model,
        cfg.pair_layer,
        {cfg.method.name: method},
        contrast_options,
        confusion=opening.confusion(cfg, loaded) if _is_confused(cfg.foils) else None,
    )
    facts = {"stand_in": loaded.stand_in, "weights_hash": loaded.weights_hash, "transform": asdict(transform)}
    facts |= {"manifest": manifest(opening.device(cfg)), "remarks": remarks(cfg)}

    from wcx.report.pictures import photo as report  # matplotlib: not needed to find a mistake in the above
    from wcx.report.pictures.plate import SCALES, probability
    from wcx.report.pictures.sentences import Photograph

    choose("scale", cfg.scale, SCALES)
    skipped = 0
    for file in files:
        try:
            pixels = transform(decode(file))
        except DataError as error:
            if cfg.on_error != "skip":
                remedy = " Or leave it out with on_error=skip." if len(files) > 1 else ""
                raise DataError(f"{error}{remedy}") from error
            print(f"skipped: {error}", file=sys.stderr)
            skipped += 1
            continue
        answer = Photograph(
            image=file,
            picture=photo.answer(subject, pixels, classes, question),
            model=loaded.name,
            weights=loaded.weights,
            layer=subject.layer if isinstance(method, ActivationMethod) else None,
            name=native(report.file_name(visible(file.stem), loaded.name, *_differing(cfg, question))),
            facts=facts | {"options": _options(cfg, subject, pixels)},
            strongest=question.strongest,
            scale=cfg.scale,
            style=cfg.style,
        )
        path = report.write_photograph(answer, Path(cfg.paths.results_dir) / "images", opening.plain(cfg.formats))
        print(f"{visible(file)}: {', '.join(f'{name} {probability(p)}' for _, name, p in answer.predictions())}")
        print(
            answer.question, *answer.sentences(), *remarks(cfg), f"figure, .npz and .json beside it: {path}", sep="\n"
        )
    if skipped == len(files):
        raise DataError(f"none of the {skipped} images could be read.")


def remarks(cfg: DictConfig) -> list[str]:
    """Return the sentence that is due where no comparison speaks for the default method and layer on this network, or none."""
    name, compared = cfg.model.name, opening.plain(cfg.pair_methods)
    is_default = OmegaConf.is_interpolation(cfg, "pair_layer")
    better = compared.get(name)
    if cfg.method.name != "linear_approximation" or not is_default or better == cfg.method.name:
        return []
    if better:
        return [
            f"On {name} {better} was measured better at this layer than {cfg.method.name} (docs/results.md): method={better}."
        ]
    networks = ", ".join(network for network, method in compared.items() if method == cfg.method.name)
    if name in cfg.pair_layers:
        return [f"This method and layer are chosen by analogy: they were compared on {networks}, not on {name}."]
    return [
        f"This method is chosen by analogy, at the last layer, since no stage before it is known here (model.layer=... names one): "
        f"it was compared on {networks}, not on {name}."
    ]


def _options(cfg: DictConfig, subject: Subject, pixels: Tensor) -> dict[str, object]:
    """Return the method's options that are not at their defaults, as the network takes them."""
    name, images = cfg.method.name, pixels[None].to(subject.device)
    return methods.differing(name, methods.settled(name, opening.options(cfg.method), subject.model, images))


def labelled(cfg: DictConfig) -> datasets.ImageDataset | None:
    """Return the dataset that says which checkpoint a network is loaded from; None where none is needed."""
    needed = cfg.dataset.name != "imagenet" and "factory" not in cfg.model and cfg.model.checkpoint is None
    return opening.open_dataset(cfg, "test") if needed else None


def outputs(cfg: DictConfig, loaded: models.LoadedModel) -> list[str]:
    """Return the names of a network's outputs."""
    dataset = None if loaded.class_names else labelled(cfg)
    return models.distinct(loaded.class_names or (dataset.class_names if dataset else _unnamed(cfg)))


def input_transform(cfg: DictConfig, loaded: models.LoadedModel) -> Transform:
    """Return the transform of the network's training; for ImageNet's weights, the one that the configuration states."""
    known = loaded.class_names or opening.foreign(cfg)
    value = loaded.transform if known else opening.plain(cfg.dataset.transform)
    return models.own_transform(loaded.name, cfg.model.get("pinned")) if value == "own" else as_transform(value)


def _unnamed(cfg: DictConfig) -> list[str]:
    """Return the names of outputs that nothing names: ImageNet's, or numbers where the network is of another library."""
    network = opening.foreign(cfg)
    return imagenet.class_names() if network is None else [f"class {index}" for index in range(network.outputs)]


def _differing(cfg: DictConfig, question: photo.Question) -> list[str]:
    """Return the parts of the files' names that tell questions about one photograph apart."""
    parts = ["" if cfg.dataset.name == "imagenet" or "factory" in cfg.model else cfg.dataset.name]
    parts += ["" if cfg.method.name == "linear_approximation" else cfg.method.name]
    parts += ["" if cfg.contrast.name == "weighted" else cfg.contrast.name]
    parts += ["" if question.target is None else f"why{question.target}"]
    foils = question.foils
    named = f"top{foils}" if isinstance(foils, int) else foils or ""
    parts += [str(named).replace(":", "") if not isinstance(named, tuple) else "not" + "_".join(map(str, named))]
    return [part[:40] for part in parts]


def _is_confused(foils: object) -> bool:
    return isinstance(foils, str) and foils.startswith("confused:")  # all other texts are names of classes


def _foils(value: object, classes: Sequence[str]) -> FoilSetting:
    """Return foils as class ids: None, a number k and confused:k stay, names and lists become a tuple."""
    if value is None or _is_confused(value) or (isinstance(value, int) and not isinstance(value, bool)):
        return value  # type: ignore[return-value]
    return tuple(photo.class_id(item, classes) for item in _list(value))


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (ListConfig, list, tuple)) else [value]
