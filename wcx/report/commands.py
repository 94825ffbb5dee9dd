"""From a record to the command that makes it again: whatever differs from the defaults, as run.py takes it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from wcx import contrasts, datasets, experiments, methods
from wcx.experiments import Experiment
from wcx.models import IMAGENET_MEAN, IMAGENET_STD
from wcx.records import Shard

SHARED = {"limit": None, "limit_selected": None, "seed": 0, "batch_size": 32, "chunk_size": 64}  # conf/config.yaml's
SHARED |= {"channels_last": True, "on_error": "stop"}
_LIMITS = ("limit", "seed")  # what a record's part "limit" holds, in that order; where images are selected:
_SELECTED = ("limit", "limit_selected", "seed")
_MODEL = {"weights": "auto", "checkpoint": None, "pinned": "IMAGENET1K_V1", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
_UNUSED = ("name", "layer", "recipe", "choice", "transform", "library")  # stated otherwise, or not used


def command(shard: Shard) -> str:
    """Return a run.py command of a record: composed again, it gives the same parts, and so the same fingerprint.

    What the parts cannot tell (where the images and the weights lie, one's own network) is taken from the configuration beside
    the record, where there is one. A value whose default is not known here stands in the command whatever it is.
    """
    dataset, _, method, contrast = shard.key
    config = _config(shard)
    usual, recorded = (json.loads(json.dumps(values)) for values in (_usual(shard), _recorded(shard, config)))
    names = [f"experiment={shard.experiment}", f"dataset={dataset}", *network(shard)]
    names += [f"method={method}", f"contrast={contrast}"]
    differing = {key: value for key, value in recorded.items() if key not in usual or value != usual[key]}
    return f"python run.py {shlex.join([*names, *(f'{key}={as_text(value)}' for key, value in differing.items())])}"


def dataset(shard: Shard) -> list[str]:
    """Return the overrides that name a record's dataset, and its options that are not the defaults."""
    stated = _config(shard).get("dataset", {})
    differing = {key: stated[key] for key, default in _options(shard).items() if stated.get(key, default) != default}
    return [f"dataset={shard.key[0]}", *(f"dataset.{key}={as_text(value)}" for key, value in differing.items())]


def network(shard: Shard) -> list[str]:
    """Return the overrides that name a record's network: of conf/model, another of torchvision's, or one's own."""
    name, stated = shard.key[1], _config(shard).get("model", {})
    if "factory" in stated:
        return ["model=custom", *([] if name == "custom" else [f"model.name={as_text(name)}"])]
    if "choice" not in stated:
        return [f"model={name}"]
    return [f"model={stated.get('library', 'torchvision')}", f"model.name={as_text(stated.get('name', name))}"]


def _recorded(shard: Shard, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that a record was made with, by its name on the command line; ++ where conf/ may not have the name."""
    parts = shard.parts
    experiment = _experiment(shard)
    values, limits = dict(parts.get("settings", {})), _LIMITS
    if experiment is not None:  # what is no setting any more cannot be given
        limits = _SELECTED if experiment.selects else _LIMITS
        fields = dataclasses.fields(experiment.protocol)
        values = {field.name: values[field.name] for field in fields if field.name in values}
    values |= {key: parts[key] for key in SHARED if key in parts}
    values |= dict(zip(limits, values.pop("limit", ()), strict=False))
    for group in ("method", "contrast"):
        values |= {f"{group}.{key}": value for key, value in parts.get(group, {}).items()}
    transform = parts.get("transform", {})
    if "interpolation" in transform:  # which torchvision states for the network, and nothing else can
        values["dataset.transform"] = "own"
    else:
        values |= {_transform(key): value for key, value in transform.items()}
    if "layer" in parts:
        values["model.layer"] = parts["layer"]
    label = str(shard.labels.get("weights"))
    if re.fullmatch("random|[A-Z0-9_]+", label) and label != _MODEL["pinned"]:
        values["model.weights"] = label
    if config.get("class_map"):
        values["class_map"] = config["class_map"]
    if recipe := shard.labels.get("recipe"):
        values["checkpoint_recipe"] = recipe
    options = _options(shard)
    values |= {f"dataset.{key}": value for key, value in config.get("dataset", {}).items() if key in options}
    network = {key: value for key, value in config.get("model", {}).items() if key not in _UNUSED}
    stated = {*_MODEL, "factory", "classes"}
    return values | {f"{'' if key in stated else '++'}model.{key}": value for key, value in network.items()}


def _usual(shard: Shard) -> dict[str, Any]:
    """Return the defaults, by their names on the command line."""
    dataset, _, method, contrast = shard.key
    experiment = _experiment(shard)
    values = SHARED | (dataclasses.asdict(experiment.protocol()) if experiment else {})
    if method in methods.names():
        parameters = inspect.signature(methods.get(method)).parameters.values()
        values |= {f"method.{option.name}": option.default for option in parameters}
    if contrast in contrasts.names():
        values |= {f"contrast.{key}": value for key, value in contrasts.get(contrast).defaults.items()}
    if dataset in datasets.names():
        transform = getattr(importlib.import_module(f"wcx.datasets.{dataset}"), "TRANSFORM", datasets.Transform())
        values |= {_transform(key): value for key, value in dataclasses.asdict(transform).items()}
    values |= {f"dataset.{key}": value for key, value in _options(shard).items()}
    return values | {f"model.{key}": value for key, value in _MODEL.items()}


def _experiment(shard: Shard) -> type[Experiment] | None:
    return experiments.get(shard.experiment) if shard.experiment in experiments.names() else None


def _options(shard: Shard) -> dict[str, Any]:
    """Return the options of the record's dataset with their defaults."""
    if shard.key[0] not in datasets.names():
        return {"root": None}
    parameters = inspect.signature(importlib.import_module(f"wcx.datasets.{shard.key[0]}").load).parameters.values()
    return {"root": None} | {option.name: option.default for option in list(parameters)[2:]}


def _transform(key: str) -> str:
    return f"{'++' if key == 'resize' else ''}dataset.transform.{key}"  # a dataset that squashes does not state it


def _config(shard: Shard) -> dict[str, Any]:
    """Return the composed configuration beside a record; {} where there is none, or none that can be read."""
    try:
        config = yaml.safe_load((shard.path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def as_text(value: Any) -> str:
    """Return a JSON value as Hydra's grammar has it; what is more than a name in quotes."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{as_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_text, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"(?!(null|true|false|nan|inf)$)[a-z_][\w.]*", value, re.ASCII | re.IGNORECASE):
        return value
    escaped = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + match[2].replace("'", r"\'"), value)
    return "'" + escaped.replace("${", r"\${") + "'"
