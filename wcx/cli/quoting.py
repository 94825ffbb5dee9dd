"""Settings as people type them: names of files and classes, and other text, reach Hydra as they are.

Hydra reads a value by a grammar of its own, in which = ( ) [ ] , # ' & ~ and letters beyond ASCII mean something else or
nothing. `quoted` puts a text in quotes where Hydra would read another than was typed; what is in quotes stays as it is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from wcx.paths import exists, home

CONF = (Path(__file__).resolve().parent.parent / "conf").resolve()
# What a setting takes is told by its default in conf/: text where that is a string or null. Where null means another:
NUMBERS = {
    "limit",
    "limit_selected",
    "amp",
    "method.low",
    "method.high",
    "method.blocks",
    "dataset.official",
    "workers",
    "num_cpus",
    "num_gpus",
    "threads",
}
SEVERAL = {"image", "foils", "model.prompts"}  # a text, or several
OPEN = "recipe.augment"  # its keys are names that no file of conf/ has all of: each may be given
NAMES = {"target", "foils", "ids"}  # of classes and images, no paths: `~` is a letter like any other
_HYDRAS = ("hydra", "now", "python_version")  # resolvers that are there when Hydra has started
_ITEM = re.compile(r"""\s*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\[[^\]]*\]|(?:\\,|[^,])*?)\s*(?:,|$)""", re.DOTALL)
_PARSER = OverridesParser.create()
_UNREADABLE = object()


@functools.cache
def groups() -> dict[str, list[str]]:
    """Return the choices of each group in conf/."""
    names: dict[str, list[str]] = {}
    for file in sorted(CONF.glob("*/*.yaml")):
        names.setdefault(file.parent.name, []).append(file.stem)
    return names


@functools.cache
def defaults() -> dict[str, list[Any]]:
    """Return the defaults of every setting by its name on the command line: one of each file of conf/ that has it."""
    values: dict[str, list[Any]] = {}
    for file in sorted(CONF.rglob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        package = "" if file.parent == CONF or "@package _global_" in text else f"{file.parent.name}."
        content = {key: value for key, value in (yaml.safe_load(text) or {}).items() if key != "defaults"}
        for name, value in _leaves(content, package):
            values.setdefault(name, []).append(value)
    return values


def quoted(arguments: Sequence[str], sweep: bool = False) -> list[str]:
    """Return a command line on which Hydra reads every text as it was typed.

    Hydra's own, and no text, are: null, a value in quotes, ``${...}`` of a setting or a resolver, and a list for a setting
    that takes several; in a sweep, a comma and choice(...), glob(...) and the like, unless the whole is an existing path.

    Args:
        arguments: key=value; Hydra's flags stay as they are.
        sweep: whether a sweep is asked for (-m).
    """
    return [_argument(_added(argument), sweep) for argument in arguments]


def is_sweep(argument: str) -> bool:
    """Return whether Hydra reads several values in an argument."""
    return isinstance(_read(argument.partition("=")[2]), Sweep)


def choices(value: str) -> list[str]:
    """Return the names in the value of a group; none, where they come from Hydra's functions, lists or other settings."""
    reading = _read(value)
    if isinstance(reading, (list, dict)) or (isinstance(reading, Sweep) and not _is_simple(reading)) or "${" in value:
        return []
    return texts(value)


def texts(value: str) -> list[str]:
    """Return the texts of a list, with or without brackets, quotes taken off.

    >>> texts("[crow's nest, 'cat, tabby']"), texts("a,b")
    (["crow's nest", 'cat, tabby'], ['a', 'b'])
    """
    brackets = re.fullmatch(r"\s*[\[(](.*)[\])]\s*", value, re.DOTALL)
    readings = ((item, _read(item)) for item in split(brackets[1] if brackets else value))
    return [reading.text if isinstance(reading, QuotedString) else item for item, reading in readings]


def split(value: str) -> list[str]:
    r"""Return the items between commas; ``\,`` divides nothing, nor does a comma in an item wholly in quotes or brackets.

    >>> split(r"crow's nest, 'cat, tabby',cat\, tabby,[a,b]")
    ["crow's nest", "'cat, tabby'", 'cat, tabby', '[a,b]']
    """
    return [item if item[0] in "'\"[" else item.replace("\\,", ",") for item in _ITEM.findall(value) if item]


def _added(argument: str) -> str:
    """Return an argument so that Hydra adds a key that is not there, where keys are free."""
    key = argument.partition("=")[0]
    return f"++{argument}" if f"{key}.".startswith(f"{OPEN}.") else argument


def _argument(argument: str, sweep: bool) -> str:
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if not (equals and value and re.match(r"[^\W\d]", name)) or name in groups():
        return argument
    kind, reading = _kind(name), _read(value)
    if reading is None or isinstance(reading, QuotedString):
        return argument
    if kind and exists(value):
        return argument if _is_typed(value) else f"{key}={_quote(value, name)}"
    if isinstance(reading, Sweep) and not _is_simple(reading):
        return argument if sweep or not kind else f"{key}={_quote(value, name)}"
    if not kind and reading is not _UNREADABLE:
        return argument
    items = split(value) if sweep and "," in value else [value]
    return f"{key}={','.join(_element(item, name, kind, sweep) for item in items)}"


def _is_simple(sweep: Sweep) -> bool:
    """Return whether a sweep is written with commas, and not as choice(...) or the like."""
    return getattr(sweep, "simple_form", False)


def _element(value: str, name: str, kind: str, sweep: bool) -> str:
    """Return one of the values of a setting as Hydra's grammar wants it."""
    if value.lower() == "null":
        return value
    in_brackets = kind != "text" and value[0] == "[" and value[-1] == "]"
    items = split(value[1:-1] if in_brackets else value)
    if in_brackets or (kind == "texts" and not sweep and len(items) > 1):
        return f"[{','.join(_item(item, name) for item in items)}]"
    return _item(value, name) if kind == "texts" else _typed(value, name)


def _item(value: str, name: str) -> str:
    """Return a text of several; a whole number may be a class id and stays one."""
    reading = _read(value)
    return value if isinstance(reading, int) and str(reading) == value else _typed(value, name)


def _typed(value: str, name: str) -> str:
    """Return a text so that Hydra reads what was typed."""
    reading = _read(value)
    is_escaped = "\\" in value and isinstance(reading, str) and exists(reading)  # a path in Hydra's own escapes: a\ b
    return value if is_escaped or isinstance(reading, QuotedString) or _is_typed(value) else _quote(value, name)


def _is_typed(value: str) -> bool:
    """Return whether Hydra reads what was typed, and in a list, too, where a last backslash would take the comma away."""
    return _read(value) == value == _literal(value) and not value.endswith("\\")


def _quote(value: str, name: str) -> str:
    path = value if name in NAMES or not value.startswith("~") else str(home(value))
    return QuotedString(_literal(path), Quote.single).with_quotes()


def _read(value: str) -> Any:
    """Return what Hydra reads: None, a number, str, list, dict, `QuotedString` or `Sweep`; or that it cannot read it."""
    try:
        return _PARSER.parse_override(f"key={value}")._value  # the method value() forgets quotes
    except HydraException:
        return _UNREADABLE


def _literal(value: str) -> str:
    r"""Return a text in which only ``${...}`` of a setting or a resolver is filled in; before any other is OmegaConf's \."""
    parts = []
    while match := re.search(r"(\\*)\$\{", value):
        end = _end(value, match.end())
        valid = end is not None and _is_known(value[match.end() : end])
        parts.append(value[: match.end()] if valid else f"{value[: match.start()]}{match[1] * 2}\\${{")
        value = value[match.end() :]
    return "".join([*parts, value])


def _end(value: str, start: int) -> int | None:
    """Return the place of the brace that closes the one before `start`; None if none does."""
    depth = 1
    for place in range(start, len(value)):
        depth += {"{": 1, "}": -1}.get(value[place], 0)
        if depth == 0:
            return place
    return None


def _is_known(inside: str) -> bool:
    """Return whether ``${inside}`` is the value of a setting or a resolver."""
    resolver, colon, _ = inside.partition(":")
    if colon:
        return resolver in _HYDRAS or OmegaConf.has_resolver(resolver)
    match = re.fullmatch(r"(\.*)([A-Za-z_]\w*)[\w.\[\]-]*", inside)
    return match is not None and (match[1] != "" or match[2] in {*groups(), *defaults()} - {"hydra"})


def _kind(name: str) -> str:
    """Return "text" for a setting that is one, "texts" for one that may be several, "" for any other."""
    values = [value for value in _values(name) if value is not None]
    if name in NUMBERS or not _values(name):
        return ""
    if name in SEVERAL:
        return "texts"
    if all(isinstance(value, str) for value in values):
        return "text"
    is_list = all(isinstance(value, list) for value in values)
    return "texts" if is_list and all(isinstance(item, str) for item in chain.from_iterable(values)) else ""


def _values(name: str) -> list[Any]:
    """Return a setting's defaults; for ``${name}``, those of that setting."""
    values = []
    for value in defaults().get(name, []):
        reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
        values += _values(reference[1]) if reference else [value]
    return values


def _leaves(content: Mapping[str, Any], package: str) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a file by name, mappings among them, too."""
    for key, value in content.items():
        yield f"{package}{key}", value
        if isinstance(value, dict):
            yield from _leaves(value, f"{package}{key}.")
