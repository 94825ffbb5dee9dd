"""Errors that a user can cause and mend: one clear line each."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from wcx.paths import visible

T = TypeVar("T")
_NUMBERS: dict[Any, type] = {int: Integral, float: Real}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null"}
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
    raise WcxError(f"unknown {kind} {name!r}.{among(name, choices)}")


def among(name: str, choices: Iterable[str]) -> str:
    """Return the sentences on a name that is none of `choices`, a space before each; see `choose`."""
    choices = sorted(choices)
    close = difflib.get_close_matches(str(name), choices, n=5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if len(choices) > _MOST:
        return f"{hint} There are {len(choices)}" + (f"; the nearest: {', '.join(close)}." if close else ".")
    return f"{hint} Choose one of: {', '.join(choices)}."


def construct(what: str, kind: Callable[..., T], options: Mapping[str, Any]) -> T:
    """Return `kind(**options)`, where each option has the type that it is annotated with: `relu="no"` would be true.

    Args:
        what: whose options they are, for the message: "method lrp: ".
        kind: a class.
        options: by their names.

    Raises:
        WcxError: an option of another type; what the constructor says of its own.
    """
    try:
        value = kind(**options)
    except WcxError:
        raise
    except Exception:
        _check_types(what, kind, options)
        raise
    _check_types(what, kind, options)
    return value


def _check_types(what: str, kind: Callable[..., object], options: Mapping[str, Any]) -> None:
    hints = _hints(kind)
    for name, value in options.items():
        if name in hints and not _fits(value, hints[name]):
            raise WcxError(f"{what}{name} = {value!r}: give {_in_words(hints[name])}.")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """Return the annotations of a constructor; those of a foreign class may name what is not there."""
    try:
        return get_type_hints(kind if dataclasses.is_dataclass(kind) else kind.__init__)
    except (NameError, TypeError, AttributeError):
        return {}


def _fits(value: object, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):  # a tuple from YAML is a list
        return isinstance(value, (list, tuple)) and all(_fits(item, parts[0]) for item in value if parts)
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint]) and not isinstance(value, bool)
    hint = origin or hint
    return isinstance(value, hint) if isinstance(hint, type) else True


def _in_words(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_in_words, parts)))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence) and parts:
        return f"a list, each item {_in_words(parts[0])}"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


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
