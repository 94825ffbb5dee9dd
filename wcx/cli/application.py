"""How a command runs: its arguments, Hydra's composition, sweeps, and a user's mistake as one line."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from wcx.cli import allocator, quoting, sweeps, user_errors
from wcx.cli.quoting import CONF
from wcx.cli.user_errors import SkipError
from wcx.errors import WcxError, choose
from wcx.paths import home
from wcx.report.pictures import STYLES, file_formats


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

    typed = list(sys.argv)

    def job(cfg: DictConfig) -> None:
        sys.argv[:] = typed  # as manifests have it: Hydra was given more
        prepare_process()  # here: a launcher may have put the job into a process of its own
        with noted(cfg) if sweep else user_errors.one_line_each():
            check_values(_at_home(cfg))
            function(cfg)

    prepare_process()
    run = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)
    with user_errors.one_line_each():
        sys.argv[1:] = with_recipe(complete(sys.argv[1:]))
        check_overrides(sys.argv[1:])
        sys.argv[1:] = quoting.quoted(flags_first(sys.argv[1:]), sweep)
        paths = [
            argument for argument in sys.argv[1:] if argument.startswith("paths.") and not quoting.is_sweep(argument)
        ]
        folder = Path(compose(paths).paths.results_dir) / "sweeps" if sweep else None
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print in several lines
        with sweeps.reported(folder) if folder else nullcontext():
            run()


def compose(overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """Return the configuration with `overrides` as a user types them, inside of a Hydra application or outside."""
    running = GlobalHydra.instance().is_initialized()
    with nullcontext() if running else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(config_name, quoting.quoted(with_recipe(overrides)))
    check_values(_at_home(cfg))
    return cfg


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which a recipe that is named says which checkpoint is loaded, too."""
    keys = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    implied = keys & {"recipe", "recipe.name"} and "checkpoint_recipe" not in keys
    return [*arguments, *["checkpoint_recipe=${recipe.name}"] * bool(implied)]


def prepare_process() -> None:
    r"""Let this process keep freed memory, and show letters that the terminal's encoding lacks as \xf6 and the like."""
    allocator.keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return a command line as Hydra's parser wants it: it takes no flag between settings."""
    return sorted(arguments, key=lambda argument: "=" in argument and not argument.startswith("-"))


@contextmanager
def noted(cfg: DictConfig) -> Iterator[None]:
    """Note the failure of a sweep's job, so that the others go on."""
    try:
        yield
    except Exception as error:
        kind = "skipped" if isinstance(error, SkipError) else "failed"
        if not sweeps.note(kind, job_name(cfg), user_errors.told(error)):
            raise


def check_values(cfg: DictConfig) -> None:
    """Check the settings that every experiment shares.

    Raises:
        WcxError: a value that is none.
    """
    lowest = dict.fromkeys(("limit", "limit_selected", "batch_size", "chunk_size"), 1)
    lowest |= dict.fromkeys(("num_workers", "figure", "seed"), 0) | dict.fromkeys(("workers", "threads"), 1)
    for key, least in lowest.items():
        value = cfg.get(key)
        optional = key in ("limit", "limit_selected", "workers", "threads")
        if (value is None and (optional or key not in cfg)) or (type(value) is int and value >= least):
            continue
        raise WcxError(f"{key} = {value!r}: give a whole number of at least {least}{', or null' * optional}.")
    for key in ("num_cpus", "num_gpus"):
        if not (cfg[key] is None or (type(cfg[key]) in (int, float) and cfg[key] >= 0)):
            raise WcxError(f"{key} = {cfg[key]!r}: give a number, or null.")
    choose("on_error", cfg.on_error, ["stop", "skip"])
    file_formats(cfg.formats)
    choose("style", cfg.style, STYLES)
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
        grouped = sorted(full for full in quoting.defaults() if full.endswith(f".{name}"))
        if name not in keys and grouped:  # layer=... as in Python
            meant = " or ".join(f"{full}=..." for full in grouped)
            raise WcxError(f"unknown setting {name!r}: that of a group has its name before it; give {meant}.")
        choose("setting", name, keys)
        if key in groups and not has_folder:
            for choice in quoting.choices(value):
                choose(key, choice, groups[key])


def job_name(cfg: DictConfig) -> str:
    """Return "dataset model method contrast" of a cell."""
    return " ".join(str(OmegaConf.select(cfg, f"{group}.name")) for group in ("dataset", "model", "method", "contrast"))


def _at_home(cfg: DictConfig) -> DictConfig:
    """Put the home folder for `~` into paths.*: their environment variables have met no shell that would."""
    for key, value in cfg.paths.items():
        if isinstance(value, str) and value.startswith("~"):
            cfg.paths[key] = str(home(value))
    return cfg
