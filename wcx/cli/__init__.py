"""The command line: `wcx`, run.py and scripts/*.py. The only room that knows Hydra."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from wcx.cli import user_errors
from wcx.errors import choose


def main(command: str | None = None) -> None:
    """Run a command with the arguments in `sys.argv`.

    Args:
        command: its name; None: the first argument, where that has no "=", else `run`.
    """
    with user_errors.one_line_each():
        if command is None:
            first = sys.argv[1] if len(sys.argv) > 1 else "--help"
            if first in ("-h", "--help"):
                print(usage())
                return
            command = "run"
            if "=" not in first and not first.startswith("-"):
                command = sys.argv.pop(1)
                sys.argv[0] = f"wcx {command}"  # as manifests have it
        if command not in command_names():
            experiments = _experiments()
            choose("command", command, [*command_names(), *experiments, *_checks()])
            sys.argv.insert(1, f"experiment={command}" if command in experiments else f"parts=[{command}]")
            command = "grid" if command in experiments else "verify"
        start(command)


def start(name: str) -> None:
    """Run a command that has a file: its function `run`, with conf/<name>.yaml where there is one.

    The command line is completed by the file's `complete`, where it has one, and else by the configuration's lists. With
    --help, the file's docstring is printed instead.
    """
    from wcx.cli import application, grid
    from wcx.cli.quoting import CONF

    command: Any = importlib.import_module(f"wcx.cli.commands.{name}")
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(command.__doc__)
        return
    if hasattr(command, "main"):  # one that is made of others
        command.main()
        return
    config = name if (CONF / f"{name}.yaml").is_file() else "config"
    application.main(command.run, config, getattr(command, "complete", partial(grid.complete, config_name=config)))


def command_names() -> list[str]:
    """Return the names of the commands that have a file of their own."""
    return [module.name for module in pkgutil.iter_modules(importlib.import_module("wcx.cli.commands").__path__)]


def usage() -> str:
    """Return the list of commands, experiments and checks, each with its line."""
    from wcx.cli.quoting import CONF

    lines = ["wcx key=value ...            one cell, or a photograph: wcx image=photo.jpg model=resnet18"]
    lines += [f"wcx {name:<25}{_summary(f'wcx.cli.commands.{name}')}" for name in command_names()]
    for name in _experiments():
        comment = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[1]
        lines.append(f"wcx {name:<25}{comment.lstrip('# ')}")
    lines += [f"wcx {name:<25}{_summary(f'wcx.checks.{name}')}" for name in _checks()]
    return "\n".join([*lines, "", "wcx <command> --help tells more."])


def _summary(module: str) -> str:
    """Return the first line of a module's docstring; nothing is imported: the oracle's needs captum."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8").splitlines()[0].strip('"')


def _experiments() -> list[str]:
    from wcx import experiments

    return experiments.names()


def _checks() -> list[str]:
    from wcx import checks

    return checks.names()
