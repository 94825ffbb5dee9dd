"""Errors that a user can cause and mend: one clear line each."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

from wcx.paths import visible

_MOST = 200  # choices that a line lists; timm knows 1300 networks


class WcxError(ValueError):
    """A mistake in the input. The message is one line: the value, what was expected, and the fix."""

    def __str__(self) -> str:
        return visible(super().__str__())  # names of files may hold what no terminal takes


class DataError(WcxError):
    """A dataset that is missing, incomplete or unreadable; the message names the file or folder."""


def choose(kind: str, name: str, choices: Iterable[str]) -> str:
    """Return `name` if it is one of `choices`.

    Raises:
        WcxError: naming `kind` and `name`, with the closest match (if any) and the choices, all unless they are hundreds.
    """
    choices = sorted(choices)
    if name in choices:
        return name
    close = difflib.get_close_matches(str(name), choices, n=5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if len(choices) > _MOST:
        listed = f"There are {len(choices)}" + (f"; the nearest: {', '.join(close)}." if close else ".")
    else:
        listed = f"Choose one of: {', '.join(choices)}."
    raise WcxError(f"unknown {kind} {name!r}.{hint} {listed}")


def import_extra(module: str, asker: str, extra: str) -> Any:
    """Return a module of a library that an extra brings.

    Args:
        module: its name.
        asker: what needs it, as it was typed.
        extra: of this package.

    Raises:
        WcxError: it is not installed, or does not import; the line names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        is_absent = isinstance(error, ModuleNotFoundError) and error.name in (package, module)
        reason = "" if is_absent else f" ({' '.join(str(error).split())})"
        raise WcxError(
            f"{asker} needs {package}: pip install 'wcx[{extra}]', or from a checkout -e '.[{extra}]'{reason}."
        ) from error
