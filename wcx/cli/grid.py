"""A runner's lists (datasets, models, methods, contrasts, ...), as they stand in conf/, and the cells that they span.

Every list at the top of conf/<runner>.yaml is one; null stands for all that there are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import DictConfig, OmegaConf

from wcx.cli.application import compose
from wcx.cli.blocks import Block
from wcx.cli.opening import plain
from wcx.cli.quoting import CONF
from wcx.errors import WcxError

GROUPS = {"datasets": "dataset", "models": "model", "methods": "method", "contrasts": "contrast"}
AXES = {"seeds": "seed", "masks": "mask"}  # list -> what one of its values sets


def complete(arguments: Sequence[str], config_name: str) -> list[str]:
    """Return a runner's command line with its lists as such, and with the first of each as the group's choice.

    dataset=cub is datasets=[cub] to a runner that takes several, and so is datasets=cub. The choice comes first, so that
    options of the dataset (dataset.allow_partial=true) find it in the configuration.

    Raises:
        WcxError: a list without brackets, or an empty one.
    """
    values = _lists(config_name)
    singular = {group: key for key, group in GROUPS.items() if key in values}
    remaining = []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        key = singular.get(key, key)
        if equals and key in values:
            values[key] = _values(key, argument)
        else:
            remaining.append(argument)
    chosen = [f"{group}={names[0]}" for key, group in GROUPS.items() if (names := values.get(key))]
    return [*chosen, *(f"{key}=[{','.join(map(str, value))}]" for key, value in values.items() if value), *remaining]


def settings(config_name: str) -> dict[str, Any]:
    """Return what stands in conf/<config_name>.yaml itself."""
    stated: dict[str, Any] = yaml.safe_load((CONF / f"{config_name}.yaml").read_text(encoding="utf-8"))
    return stated


def _lists(config_name: str) -> dict[str, list[object] | None]:
    keys = {**settings(config_name), "defaults": ""}
    return {key: value for key, value in keys.items() if isinstance(value, list) or key in GROUPS}


def _values(key: str, argument: str) -> list[object]:
    """Return the values of a list given on the command line, by Hydra's grammar; a single one is a list of one.

    Raises:
        WcxError: none, or several without brackets.
    """
    override = OverridesParser.create().parse_override(argument)
    value = override.value()
    if override.is_sweep_override():
        text = argument.partition("=")[2]
        raise WcxError(f"{key}={text} is a sweep to Hydra; a list has brackets: {key}=[{text}].")
    values = value if isinstance(value, list) else [value]
    if not values or values == [None]:
        raise WcxError(f"{key} is empty; give at least one name: {key}=[...].")
    return [item.text if isinstance(item, QuotedString) else item for item in values]


@dataclass(frozen=True)
class Grid:
    """What a runner was asked for.

    Attributes:
        config: of conf/, without .yaml.
        lists: their values, by name; an empty one means the configuration's own choice.
        overrides: what else was typed.
    """

    config: str
    lists: Mapping[str, Sequence[object]]
    overrides: Sequence[str]

    @classmethod
    def of(cls, cfg: DictConfig) -> Grid:
        """Return the grid of a running application's configuration."""
        runtime = HydraConfig.get()
        config = str(runtime.job.config_name)
        listed = list(_lists(config))
        lists = {key: [runtime.runtime.choices[group]] for key, group in GROUPS.items()}
        lists |= {key: plain(cfg[key]) for key in listed if cfg[key]}
        named = {*listed, *GROUPS.values()}
        task = OmegaConf.to_container(runtime.overrides.task, resolve=False)  # a ${...} in them is read later, once
        typed = [text for text in map(str, list(task or ())) if text.partition("=")[0] not in named]
        return cls(config, lists, typed)

    def blocks(self) -> list[Block]:
        """Return a block for each (dataset, model)."""
        return [Block((str(d), str(m))) for d, m in product(self.lists["datasets"], self.lists["models"])]

    def cells(self, pair: Sequence[str], extra: Sequence[str] = ()) -> list[DictConfig]:
        """Return the configuration of each (method, contrast) of one (dataset, model), with `extra` overrides."""
        dataset, model = pair
        pairs = product(self.lists["methods"], self.lists["contrasts"])
        shared = [f"dataset={dataset}", f"model={model}", *self.overrides, *extra]
        return [compose([*shared, f"method={m}", f"contrast={c}"], self.config) for m, c in pairs]

    def variants(self) -> Iterator[list[str]]:
        """Yield the overrides of each seed and mask asked for; an empty list where none is."""
        axes = [[f"{setting}={value}" for value in self.lists.get(key, ())] for key, setting in AXES.items()]
        for values in product(*(axis or [""] for axis in axes)):
            yield [value for value in values if value]


def fail(failed: Mapping[str, str], refused: Sequence[str] = ()) -> None:
    """Tell the blocks that failed and the records that were refused, and leave with exit code 1, if there are any."""
    if failed or refused:
        print(*(f"failed: {name}: {error}" for name, error in failed.items()), *refused, sep="\n", file=sys.stderr)
        sys.exit(1)
