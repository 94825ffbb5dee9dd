"""The overrides that name a record's dataset and network, for the command that fine-tunes it again; Hydra's grammar for values."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from typing import Any

import yaml

from wcx import datasets
from wcx.records import Shard


def dataset(shard: Shard) -> list[str]:
    """Return the overrides that name a record's dataset, and its options that are not the defaults."""
    name, stated = shard.key[0], _config(shard).get("dataset", {})
    defaults: dict[str, Any] = {"root": None}
    if name in datasets.names():
        parameters = inspect.signature(importlib.import_module(f"wcx.datasets.{name}").load).parameters.values()
        defaults |= {option.name: option.default for option in list(parameters)[2:]}
    differing = {key: stated[key] for key, default in defaults.items() if stated.get(key, default) != default}
    return [f"dataset={name}", *(f"dataset.{key}={as_text(value)}" for key, value in differing.items())]


def network(shard: Shard) -> list[str]:
    """Return the overrides that name a record's network: of conf/model, another of torchvision's, or one's own."""
    name, stated = shard.key[1], _config(shard).get("model", {})
    if "factory" in stated:
        return ["model=custom", *([] if name == "custom" else [f"model.name={as_text(name)}"])]
    if "choice" not in stated:
        return [f"model={name}"]
    return [f"model={stated.get('library', 'torchvision')}", f"model.name={as_text(stated.get('name', name))}"]


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
