"""What run.py and the runners share: Hydra's configuration on one side, plain arguments on the other."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from scripts import allocator, mistakes, quoting, sweeps
from scripts.quoting import CONF
from wcx import custom, datasets, models
from wcx.errors import WcxError, choose
from wcx.experiments import items
from wcx.paths import home


class SkipError(WcxError):
    """A cell of a sweep that makes no sense (an input method in masking): skipped and reported, no failure."""


def main(
    function: Callable[[DictConfig], Any],
    config_name: str = "config",
    complete: Callable[[Sequence[str]], list[str]] = list,
) -> None:
    """Run `function` with the composed configuration; a user's mistake is one line on stderr and exit code 2.

    `complete` may add to the command line first. In a sweep (-m) the other jobs go on; what was skipped or failed is
    listed at the end; a failure makes exit code 1.
    """
    sweep = any(argument in ("-m", "--multirun") for argument in sys.argv[1:])

    def job(cfg: DictConfig) -> None:
        prepare_process()  # here: a launcher may have put the job into a process of its own
        with noted(cfg) if sweep else mistakes.one_line_each():
            check_values(_at_home(cfg))
            function(cfg)

    prepare_process()
    run = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)
    with mistakes.one_line_each():
        sys.argv[1:] = complete(sys.argv[1:])
        check_overrides(sys.argv[1:])
        sys.argv[1:] = quoting.quoted(flags_first(sys.argv[1:]), sweep)
        paths = [
            argument for argument in sys.argv[1:] if argument.startswith("paths.") and not quoting.is_sweep(argument)
        ]
        folder = Path(compose(paths).paths.results_dir) / "sweeps" if sweep else None
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print in several lines
        with sweeps.reported(folder) if folder else nullcontext():
            run()


def prepare_process() -> None:
    r"""Let this process keep freed memory, and show letters that the terminal's encoding lacks as \xf6 and the like."""
    allocator.keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def compose(overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """Return the configuration with `overrides` as a user types them, outside of a Hydra application."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(config_name, quoting.quoted(overrides))
    check_values(_at_home(cfg))
    return cfg


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return a command line as Hydra's parser wants it: it takes no flag between settings."""
    return sorted(arguments, key=lambda argument: "=" in argument and not argument.startswith("-"))


def split_lists(
    arguments: Sequence[str], defaults: Mapping[str, Sequence[str]]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the lists among a runner's arguments (datasets=[cub,cars] or datasets=cub,cars), and the other overrides.

    dataset=cub is datasets=[cub] to a runner that takes several; so with model, method and contrast.

    Raises:
        WcxError: an empty list, or an argument that is no override.
    """
    lists, rest = {key: list(values) for key, values in defaults.items()}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise WcxError(f"cannot read {argument!r}; give key=value, e.g. {next(iter(defaults))}=[a,b] limit=100.")
        if key in ("dataset", "model", "method", "contrast") and defaults.get(f"{key}s"):
            key += "s"
        if key in lists:
            lists[key] = quoting.texts(value)
            if key != "ids":  # of images, whose names may hold blanks
                lists[key] = [name for text in lists[key] for name in text.split()]
            if not lists[key]:
                raise WcxError(f"{key} is empty; give at least one name: {key}=[...].")
        else:
            rest.append(argument)
    return lists, rest


def guarded(function: Callable[[], Any]) -> None:
    """Run a runner, or print what it says of itself (--help); a user's mistake is one line on stderr and exit code 2."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(sys.modules[function.__module__].__doc__)
        return
    prepare_process()
    with mistakes.one_line_each():
        function()


@contextmanager
def noted(cfg: DictConfig) -> Iterator[None]:
    """Note the failure of a sweep's job, so that the others go on."""
    try:
        yield
    except Exception as error:
        kind = "skipped" if isinstance(error, SkipError) else "failed"
        if not sweeps.note(kind, job_name(cfg), mistakes.told(error)):
            raise


def check_values(cfg: DictConfig) -> None:
    """Check the settings that every experiment shares.

    Raises:
        WcxError: a value that is none.
    """
    lowest = dict.fromkeys(("limit", "limit_selected", "batch_size", "chunk_size"), 1)
    lowest |= dict.fromkeys(("num_workers", "figure", "seed"), 0)
    for key, least in lowest.items():
        value = cfg.get(key)
        optional = key in ("limit", "limit_selected")
        if (value is None and (optional or key not in cfg)) or (type(value) is int and value >= least):
            continue
        raise WcxError(f"{key} = {value!r}: give a whole number of at least {least}{', or null' * optional}.")
    choose("on_error", cfg.on_error, ["stop", "skip"])
    for key, value in cfg.paths.items():
        if not isinstance(value, str):
            raise WcxError(f"paths.{key} = {value!r}: give a folder.")


def check_overrides(arguments: list[str]) -> None:
    """Check the names on the command line before Hydra does, to say in one line what was meant.

    Raises:
        WcxError: a key or a choice that there is not.
    """
    groups = quoting.groups()
    keys = {*groups, *(name.partition(".")[0] for name in quoting.defaults())}
    has_folder = any(re.match("--config-dir|-cd", argument) for argument in arguments)  # with choices of its own
    for argument in arguments:
        key, equals, value = argument.partition("=")
        name = re.split(r"[./@]", key.lstrip("-"))[0]
        if not equals or key[0:1] in ("+", "~") or (key[0:1] == "-" and name not in keys):
            continue  # to Hydra
        if key[0:1] == "-":
            raise WcxError(f"{argument}: settings have no dashes before them; give {argument.lstrip('-')}")
        choose("setting", name, keys)
        if key in groups and not has_folder:
            for choice in quoting.choices(value):
                choose(key, choice, groups[key])


def job_name(cfg: DictConfig) -> str:
    """Return "dataset model method contrast" of a cell."""
    return " ".join(str(OmegaConf.select(cfg, f"{group}.name")) for group in ("dataset", "model", "method", "contrast"))


def figure_title(name: str, count: int, threshold: float) -> str:
    """Return the title of the figure of selected images."""
    return (
        f"{name}: the first {count} images with p_t2 > {threshold}\n"
        "red speaks for the class, blue against it; t_1 and t_2 of an image share one scale (each contrast its own)"
    )


def _at_home(cfg: DictConfig) -> DictConfig:
    """Put the home folder for `~` into paths.*: their environment variables have met no shell that would."""
    for key, value in cfg.paths.items():
        if isinstance(value, str) and value.startswith("~"):
            cfg.paths[key] = str(home(value))
    return cfg


def plain(cfg: Any) -> Any:
    """Return a configuration node as plain Python values, interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


def options(cfg: DictConfig) -> dict[str, Any]:
    """Return the options of a method or contrast: all but its name."""
    return {key: value for key, value in plain(cfg).items() if key != "name"}


def settings(cfg: DictConfig, kind: type) -> Any:
    """Return the dataclass `kind` filled from the configuration's keys of the same names; lists become tuples."""
    values = {f.name: plain(cfg[f.name]) for f in dataclasses.fields(kind)}
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def device(cfg: DictConfig) -> torch.device:
    """Return the device asked for; `auto` is a GPU where there is one.

    Raises:
        WcxError: a device that is not there.
    """
    name = str(cfg.device)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    name = f"cuda:{name}" if name.isdigit() else name
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise WcxError(f"unknown device {name!r}; give auto, cpu, cuda or cuda:<number>.") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise WcxError(
            f"device {name!r} is not there: {torch.cuda.device_count()} GPUs are visible; give device=cpu or auto."
        )
    return chosen


def open_dataset(cfg: DictConfig, split: str) -> datasets.ImageDataset:
    """Open one split of the dataset in the configuration."""
    arguments = plain(cfg.dataset)
    name, folder = arguments.pop("name"), arguments.pop("folder", None)
    root = arguments.pop("root", None) or Path(cfg.paths.data_dir) / (folder or name)
    arguments.pop("label", None)
    if isinstance(arguments.get("transform"), str):
        choose("transform", arguments["transform"], ["own"])
        arguments["transform"] = models.own_transform(cfg.model.name, cfg.model.get("pinned"))
    channels = custom.channels(plain(cfg.model.mean), plain(cfg.model.std)) if "factory" in cfg.model else 3
    return datasets.load(name, Path(root), split, channels=channels, **arguments)


def test_images(cfg: DictConfig) -> datasets.ImageDataset:
    """Open the test split that an experiment computes on; with cache=true, decoded once for all networks."""
    dataset = open_dataset(cfg, "test")
    if not cfg.cache or cfg.plan:
        return dataset
    cached = datasets.cached(dataset, cfg.paths.cache_dir)
    if cfg.get("limit_selected") is None:  # else it shows on the way how many it takes
        cached.fill(items.order(len(cached), cfg.limit, cfg.seed), cfg.num_workers)
    return cached


def open_model(cfg: DictConfig, dataset: datasets.ImageDataset | None) -> models.LoadedModel:
    """Load the model in the configuration for a dataset: ImageNet's weights for imagenet or None, else its checkpoint.

    `model.weights=random` (or null) is a network of random weights, labelled so, for trying a road out.

    Raises:
        WcxError: no checkpoint; ImageNet weights asked for on another dataset; one's own network that cannot be had.
    """
    arguments = plain(cfg.model)
    if "factory" in arguments:
        loaded = custom.load(**arguments, device=device(cfg), seed=cfg.seed)
        return loaded.to_channels_last() if cfg.channels_last else loaded
    checkpoint, weights, name = arguments.pop("checkpoint", None), arguments.get("weights", "auto"), arguments["name"]
    num_classes = None
    if dataset is not None and dataset.name != "imagenet" and checkpoint is None:
        num_classes = len(dataset.class_names)
        if weights == "auto":
            folder = cfg.paths.checkpoints_dir
            checkpoint = models.checkpoint_path(folder, dataset.name, name, dataset.class_names, cfg.seed)
        elif weights not in (None, "random"):
            command = models.finetune_command(
                dataset.name, arguments.get("choice", name), arguments.get("recipe", "quick")
            )
            raise WcxError(
                f"model.weights={weights} knows no classes of {dataset.name}; fine-tune it: {command} "
                f"{shlex.quote(f'model.weights={weights}')}"
            )
    loaded = models.load(
        **arguments,
        checkpoint=checkpoint,
        weights_dir=cfg.paths.weights_dir,
        device=device(cfg),
        seed=cfg.seed,
        dataset=dataset.name if dataset else None,
        num_classes=None if checkpoint else num_classes,
    )
    return loaded.to_channels_last() if cfg.channels_last else loaded
