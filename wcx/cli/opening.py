"""From a composed configuration to the plain arguments of wcx: datasets, models, settings, jobs."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from wcx import contrasts, datasets, experiments, methods, models, pipeline
from wcx.cli import allocator
from wcx.cli.user_errors import SkipError
from wcx.contrasts import Confused
from wcx.datasets import imagenet
from wcx.errors import WcxError, choose, construct
from wcx.experiments import Cell, images
from wcx.experiments.base import check_method
from wcx.models import custom, libraries
from wcx.models.class_names import NAMES, NONE
from wcx.models.devices import as_device
from wcx.models.weights import located
from wcx.pipeline import Job

# No options of a network's constructor.
_OF_LOADING = {"library", "name", "layer", "weights", "pinned", "checkpoint", "recipe", "choice", "class_map"}
_OF_JOBS = ("limit", "seed", "batch_size", "chunk_size", "num_workers", "on_error", "save_maps", "evaluation")


def plain(cfg: Any) -> Any:
    """Return a configuration node as plain Python values, interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


def options(cfg: DictConfig) -> dict[str, Any]:
    """Return the options of a method or contrast: all but its name."""
    return {key: value for key, value in plain(cfg).items() if key != "name"}


def settings(cfg: DictConfig, kind: type) -> Any:
    """Return the dataclass `kind` filled from the configuration's keys of the same names; lists become tuples."""
    values = {f.name: plain(cfg[f.name]) for f in dataclasses.fields(kind)}
    return construct(
        "", kind, {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )


def device(cfg: DictConfig) -> torch.device:
    """Return the device asked for; `auto` is a GPU where there is one.

    Raises:
        WcxError: a device that is not there.
    """
    return as_device(str(cfg.device))


def open_dataset(cfg: DictConfig, split: str) -> datasets.ImageDataset:
    """Open one split of the dataset in the configuration."""
    arguments = plain(cfg.dataset)
    name, folder = arguments.pop("name"), arguments.pop("folder", None)
    root = arguments.pop("root", None) or Path(cfg.paths.data_dir) / (folder or name)
    for key in ("label", "labels"):
        arguments.pop(key, None)
    if isinstance(arguments.get("transform"), str):
        choose("transform", arguments["transform"], ["own"])
        network, stated = foreign(cfg), plain(cfg.model.get("transform"))
        own = network.transform if network else stated
        arguments["transform"] = own or models.own_transform(cfg.model.name, cfg.model.get("pinned"))
    elif (network := foreign(cfg)) is not None:
        stated, own = arguments.get("transform", {}), network.transform
        arguments["transform"] = {**own, "kind": "squash"} if stated.get("kind") == "squash" else own
    channels = custom.channels(plain(cfg.model.mean), plain(cfg.model.std)) if "factory" in cfg.model else 3
    return datasets.load(name, Path(root), split, channels=channels, **arguments)


def foreign(cfg: DictConfig, classes: Sequence[str] | None = None) -> libraries.Library | None:
    """Return the network of another library that the configuration names, not built yet; None if it is none.

    Args:
        classes: of the dataset, for a network that is made for any; None: no images are labelled yet.
    """
    arguments = plain(cfg.model)
    if "library" not in arguments:
        return None
    options = {key: value for key, value in arguments.items() if key not in _OF_LOADING}
    return libraries.get(arguments["library"])(
        arguments["name"], options, classes or ["a class"], arguments.get("weights", "auto")
    )


def knows(cfg: DictConfig, classes: Sequence[str]) -> bool:
    """Return whether a library's network has outputs for all of a dataset's classes, so that none is to be trained."""
    network = foreign(cfg, classes)
    return network is not None and set(models.distinct(classes)) <= set(network.class_names or [])


def test_images(cfg: DictConfig) -> datasets.ImageDataset:
    """Open the test split that an experiment computes on; with cache=true, decoded once for all networks."""
    dataset = open_dataset(cfg, "test")
    if not cfg.cache or cfg.plan:
        return dataset
    cached = datasets.cached(dataset, cfg.paths.cache_dir)
    if cfg.get("limit_selected") is None:  # else it shows on the way how many it takes
        cached.fill(images.order(len(cached), cfg.limit, cfg.seed), cfg.num_workers)
    return cached


def open_model(cfg: DictConfig, dataset: datasets.ImageDataset | None) -> models.LoadedModel:
    """Load the model in the configuration for a dataset: ImageNet's weights for imagenet or None, else its checkpoint.

    With class_map=none or a file it keeps the weights' own outputs (ImageNet's), whatever the dataset.
    `model.weights=random` (or null) is a network of random weights, labelled so, for trying a road out.

    Raises:
        WcxError: no checkpoint; ImageNet weights asked for on another dataset; one's own network that cannot be had.
    """
    class_map, call = _class_map(cfg), loading(cfg, dataset)
    loaded: models.LoadedModel = call()
    if call.func is custom.load and dataset is not None:
        custom.check_side(loaded, cfg.model.factory, dataset.transform.size)
    is_own = call.func is custom.load or call.keywords.get("checkpoint") or "library" in call.keywords
    if class_map != NAMES and not is_own:  # ImageNet's outputs, whatever the dataset
        loaded.class_names = models.distinct(imagenet.class_names())
    loaded.class_map = class_map
    return loaded.to_channels_last() if cfg.channels_last else loaded


def loading(cfg: DictConfig, dataset: datasets.ImageDataset | None) -> partial[models.LoadedModel]:
    """Return the call, of `models.load` or `custom.load`, that loads the model in the configuration for a dataset.

    Raises:
        WcxError: ImageNet weights asked for on another dataset.
    """
    arguments = plain(cfg.model)
    arguments.pop("class_map", None)
    if "factory" in arguments:
        return partial(custom.load, **arguments, weights_dir=cfg.paths.weights_dir, device=device(cfg), seed=cfg.seed)
    checkpoint, weights, name = arguments.pop("checkpoint", None), arguments.get("weights", "auto"), arguments["name"]
    num_classes = None
    labelled = None if dataset is None or dataset.name == "imagenet" or _class_map(cfg) != NAMES else dataset
    if labelled is not None and checkpoint is None and not knows(cfg, labelled.class_names):
        num_classes = len(labelled.class_names)
        if weights == "auto":
            checkpoint = checkpoint_path(cfg, labelled.name, labelled.class_names)
            arguments["recipe"] = cfg.checkpoint_recipe or arguments.get("recipe", "quick")
        elif weights not in (None, "random"):
            command = models.finetune_command(
                labelled.name, arguments.get("choice", name), arguments.get("recipe", "quick")
            )
            raise WcxError(
                f"model.weights={weights} knows no classes of {labelled.name}; fine-tune it: {command} "
                f"{shlex.quote(f'model.weights={weights}')}"
            )
    return partial(
        models.load,
        **arguments,
        checkpoint=checkpoint,
        weights_dir=cfg.paths.weights_dir,
        device=device(cfg),
        seed=cfg.seed,
        dataset=dataset.name if dataset else None,
        num_classes=None if checkpoint else num_classes,
        classes=dataset.class_names if dataset else None,
    )


def checkpoint_path(cfg: DictConfig, dataset: str, class_names: Sequence[str]) -> Path:
    """Return where the checkpoint of the network is for a dataset, or would be: by the recipe asked for, or the only one there is.

    Raises:
        WcxError: several, and none was asked for.
    """
    place = cfg.paths.checkpoints_dir, dataset, cfg.model.name, class_names, cfg.seed
    usual = cfg.model.get("recipe", "quick")
    path = models.checkpoint_path(*place, cfg.checkpoint_recipe, usual)
    return path if path.is_file() else models.checkpoint_path(*place, cfg.checkpoint_recipe or usual, usual)


def _class_map(cfg: DictConfig) -> str:
    """Return how a dataset's classes are told among the outputs, see `LoadedModel.class_map`."""
    class_map = cfg.class_map or cfg.model.get("class_map", NAMES)
    return class_map if class_map in (NAMES, NONE) else str(located(class_map, cfg.paths.weights_dir))


def confusion(cfg: DictConfig, loaded: models.LoadedModel) -> Tensor | None:
    """Return the network's confusion on the dataset's training images where foils=confused:k asks for it, else None.

    A plan computes none: it knows the one that is kept, by which it finds finished records.

    Raises:
        WcxError: another text than confused:k; no training images.
    """
    if Confused.count(plain(cfg.get("foils"))) is None:
        return None
    from wcx import training  # slow to import

    train, folder = open_dataset(cfg, "train"), Path(cfg.paths.checkpoints_dir)
    return training.kept_confusion(loaded, train, folder, cfg.batch_size, cfg.num_workers, computes=not cfg.plan)


def check(cfgs: Sequence[DictConfig]) -> None:
    """Check of one (dataset, model) what can be known before its network is trained or loaded.

    Raises:
        SkipError: a method that the experiment does not take.
        WcxError: a dataset, an option or a setting that does not fit.
    """
    experiment, cfg = _experiment(cfgs), cfgs[0]
    for cell in cfgs:
        methods.create(cell.method.name, **options(cell.method))
        contrasts.split_options([cell.contrast.name], options(cell.contrast))
    settings(cfg, experiment.protocol)
    Confused.count(plain(cfg.get("foils")))
    names = [cell.method.name for cell in cfgs]
    pipeline.check(experiment, open_dataset(cfg, "test"), names, cfg.get("limit_selected"), save_maps=cfg.save_maps)


def _experiment(cfgs: Sequence[DictConfig]) -> type[experiments.Experiment]:
    """Return the experiment of cells, whose methods it takes."""
    experiment = experiments.get(cfgs[0].experiment)
    for cell in cfgs:
        try:
            check_method(experiment, cell.method.name)
        except WcxError as error:
            raise SkipError(str(error)) from error
    return experiment


def job(cfgs: Sequence[DictConfig]) -> Job:
    """Return the job of one (dataset, model) whose cells are the method and contrast of each configuration.

    Raises:
        SkipError: a method that the experiment does not take.
        WcxError: a dataset, model or setting that does not fit.
    """
    cfg = cfgs[0]
    if cfg.executor == "ray":  # the workers open it where they are; this process needs what identifies it alone
        cfg = cfg.copy()
        cfg.device = "cpu"
    experiment = _experiment(cfgs)
    protocol = settings(cfg, experiment.protocol)
    dataset = test_images(cfg)
    loaded = open_model(cfg, dataset)
    cells = [Cell(cell.method.name, cell.contrast.name) for cell in cfgs]
    method_options = {cell.method.name: options(cell.method) for cell in cfgs}
    contrast_options = {cell.contrast.name: options(cell.contrast) for cell in cfgs}
    opened = Job(
        experiment=experiment,
        dataset=dataset,
        loaded=loaded,
        cells=cells,
        settings=protocol,
        method_options=method_options,
        contrast_options=contrast_options,
        results_dir=Path(cfg.paths.results_dir),
        dataset_label=cfg.dataset.get("label") or cfg.dataset.name,
        limit_selected=cfg.get("limit_selected"),
        confusion=confusion(cfg, loaded),
        **{key: cfg[key] for key in _OF_JOBS},
    )
    if cfg.executor != "ray":
        return opened
    settled = {"executor": "local", "evaluation": opened.evaluator.kind}  # what all workers and this process agree on
    opener = partial(_at_worker, [OmegaConf.create({**plain(c), **settled}) for c in cfgs])
    return dataclasses.replace(opened, opener=opener)


def _at_worker(cfgs: Sequence[DictConfig]) -> Job:
    """Return a job in a process that an executor started."""
    allocator.keep_freed_memory()
    return job(cfgs)
