"""Class names: read from a file, told apart, and mapped from a dataset's classes to a network's outputs."""

from __future__ import annotations

import ast
import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from wcx.errors import WcxError

NAMES, NONE = "name", "none"  # ways to map classes to outputs; anything else is a file


def read_classes(
    path: str | Path | Sequence[str], setting: str = "model.classes", *, repeated: bool = True
) -> list[str]:
    """Return the class names of a file, in the order of the network's outputs.

    Args:
        path: a text of several lines, or a file of one (UTF-8): one name a line, blank lines at its end left out; or JSON (or a
            Python literal): a list of names, {id: name}, {id: [wnid, name]} as in imagenet_class_index.json, or {name: id}. The
            names themselves are taken as they are.
        setting: that named it, for messages.
        repeated: a name may come more than once; sentences may not, since the id would be read as a part of them.

    Returns:
        the names; those that come more than once (ImageNet's crane) have their id behind them.

    Raises:
        WcxError: the file is missing, not UTF-8, or empty; a line is blank; ids that do not count from 0; a name is repeated.
    """
    names = _read(path, setting) if isinstance(path, str | Path) else [str(name) for name in path]
    if not repeated and (twice := next((name for name in names if names.count(name) > 1), None)):
        raise WcxError(f"{setting} has {twice!r} twice: between a sentence and itself there is no contrast.")
    return distinct(names)


def _read(path: str | Path, setting: str) -> list[str]:
    """Return the names in a file or text; see `read_classes`."""
    try:
        text = str(path).rstrip() if "\n" in str(path) else Path(path).read_text(encoding="utf-8-sig").rstrip()
    except FileNotFoundError as error:
        raise WcxError(f"file of class names not found: {path}; check {setting}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise WcxError(f"cannot read the class names in {path}: {error}; expected UTF-8, one name a line.") from error
    listed = _literal(text)
    names = [line.strip() for line in text.splitlines()] if listed is None else _ordered(listed, path)
    if not names:
        raise WcxError(f"no class names in {path}; expected one a line, in the order of the network's outputs.")
    if "" in names:
        raise WcxError(f"line {names.index('') + 1} of {path} is blank; expected one class name a line.")
    return names


def _literal(text: str) -> list[object] | dict[object, object] | None:
    """Return the list or dict that a text is, as JSON or in Python; None for any other text."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, (list, dict)) else None
    return None


def _ordered(listed: list[object] | dict[object, object], path: str | Path) -> list[str]:
    """Return the names in a list, {id: name}, {id: [wnid, name]} or {name: id}, in the order of their ids."""
    pairs = list(enumerate(listed)) if isinstance(listed, list) else list(listed.items())
    if pairs and all(type(value) is int for _, value in pairs):
        pairs = [(value, key) for key, value in pairs]
    names = {
        int(key): value[1].replace("_", " ") if isinstance(value, list) and len(value) == 2 else value
        for key, value in pairs
        if str(key).isdigit()
    }
    if sorted(names) != list(range(len(pairs))) or not all(isinstance(name, str) for name in names.values()):
        raise WcxError(
            f"the class names in {path} are not understood; expected one a line, or as JSON a list, {{id: name}} or "
            f"{{name: id}}, with the ids 0 to n - 1."
        )
    return [names[index].strip() for index in range(len(pairs))]


def distinct(names: Sequence[str]) -> list[str]:
    """Return class names with the id behind those that come more than once: crane (134) and crane (517) of ImageNet's."""
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)]


def label_map(dataset_class_names: Sequence[str], output_names: Sequence[str]) -> Tensor:
    """Return the LongTensor (classes,) that maps a dataset's label to the checkpoint's output, by class name.

    Names that come more than once are told apart by their ids (`distinct`). Where all others stand in the same places on both
    sides, so do these: torchvision says crane bird and maillot tank suit where ImageNet's usual list has another crane and maillot.

    Raises:
        WcxError: a class of the dataset is unknown to the checkpoint.
    """
    classes, outputs = distinct(dataset_class_names), distinct(output_names)
    position = {name: index for index, name in enumerate(outputs)}
    if len(classes) == len(outputs) and all(position.get(name, index) == index for index, name in enumerate(classes)):
        repeated = [index for index, name in enumerate(outputs) if name.endswith(f" ({index})")]
        position |= {classes[index]: index for index in repeated}
    unknown = [name for name in classes if name not in position]
    if unknown:
        raise WcxError(
            f"checkpoint of other classes: it does not know {unknown[0]!r} ({len(unknown)} of the dataset's "
            f"{len(classes)} classes); its {len(outputs)} classes begin with "
            f"{', '.join(map(repr, outputs[:3]))}: fine-tune on this dataset"
        )
    return torch.tensor([position[name] for name in classes], dtype=torch.long)


def read_map(path: str | Path, classes: Sequence[str], outputs: Sequence[str] | None) -> list[int | None]:
    """Return the output of each of a dataset's classes that a file maps it to; None for a class without one.

    Args:
        path: see `read_names`. It may have more classes than the dataset.
        classes: the dataset's names.
        outputs: the network's names; None: not known, and indices are taken as they are.

    Raises:
        WcxError: see `read_names`; a class of the dataset that the file lacks.
    """
    mapped = {plain(name): output for name, output in read_names(path, outputs).items()}
    if absent := [name for name in classes if plain(name) not in mapped]:
        raise WcxError(
            f"the map of classes {path} lacks {absent[0]!r} ({len(absent)} of the dataset's {len(classes)} classes); add a "
            f"line for each, with no output where the network has none."
        )
    return [mapped[plain(name)] for name in classes]


def read_names(path: str | Path, outputs: Sequence[str] | None) -> dict[str, int | None]:
    """Return the output, or None, of every class that a file names.

    Args:
        path: a CSV (UTF-8) with a header; of its columns count `class` or `<any>_class` (a name as the dataset has it, or as CUB's
            list does, 001.Black_footed_Albatross), and `output` or `<any>_index` (a number, empty for none), or `label` or
            `<any>_label` (a name of `outputs`), or both.
        outputs: the network's names; None: not known, and indices are taken as they are.

    Raises:
        WcxError: the file is missing or has not these columns; a name or a number that the network lacks; a class twice.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WcxError(
            f"cannot read the map of classes {path}: {error}; give class_map=name, none or a CSV."
        ) from error
    header = list(rows[0]) if rows else []
    kinds = {"class": ("class",), "index": ("output", "index"), "label": ("label",)}
    columns = {
        kind: next((name for name in header if name in ends or name.endswith(tuple(f"_{end}" for end in ends))), None)
        for kind, ends in kinds.items()
    }
    if columns["class"] is None or columns["index"] is columns["label"] is None:
        raise WcxError(f"the map of classes {path} has the columns {header}; expected class, and output or label.")
    mapped: dict[str, int | None] = {}
    for number, row in enumerate(rows, 2):
        name, index, label = ((row[column] or "").strip() if column else "" for column in columns.values())
        if plain(name) in map(plain, mapped):
            raise WcxError(f"line {number} of {path}: class {name!r} comes twice; leave one line of it.")
        mapped[name] = _output(index, label, outputs, f"line {number} of {path}")
    return mapped


def plain(name: str) -> str:
    """Return a class name as it is shown: Black footed Albatross for 001.Black_footed_Albatross."""
    number, dot, rest = name.partition(".")
    return (rest if dot and number.isdigit() else name).replace("_", " ").strip()


def _output(index: str, label: str, outputs: Sequence[str] | None, place: str) -> int | None:
    """Return the output that an index, a label or both name; None for neither."""
    if not index and not label:
        return None
    if index and (not index.isdigit() or (outputs is not None and int(index) >= len(outputs))):
        count = "" if outputs is None else f"; the network has {len(outputs)} (0 to {len(outputs) - 1})"
        raise WcxError(f"{place}: {index!r} is no output{count}.")
    if not label or (outputs is None and index):
        return int(index)
    if outputs is None or label not in outputs:
        begin = ", ".join(map(repr, (outputs or [])[:3]))
        raise WcxError(
            f"{place}: {label!r} is no class of the network, whose names begin with {begin or 'nothing known'}."
        )
    if index and outputs[int(index)] != label:
        raise WcxError(f"{place}: output {index} is {outputs[int(index)]!r}, not {label!r}; correct one of the two.")
    return list(outputs).index(label)
