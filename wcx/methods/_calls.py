"""A call of a function of torch, and the tensors that go into it and come out of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_NESTED = (tuple, list, dict)


@dataclass(slots=True)
class FunctionCall:
    """A call of a function that takes and returns tensors."""

    function: Callable[..., Any]
    name: str
    arguments: tuple
    keywords: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]

    def argument(self, position: int, *names: str) -> Any:
        """Return an argument by one of its names, or by its position; None if it was not given."""
        by_name = [self.keywords[name] for name in names if name in self.keywords]
        by_position = self.arguments[position : position + 1]
        return by_name[0] if by_name else by_position[0] if by_position else None


def tensors(value: object) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if not isinstance(value, _NESTED) or isinstance(value, torch.Size):
        return []
    nested: list[Tensor] = []
    for element in value.values() if isinstance(value, dict) else value:
        if isinstance(element, Tensor):
            nested.append(element)
        elif isinstance(element, _NESTED):
            nested += tensors(element)
    return nested


def written(function: Callable[..., Any], arguments: tuple, keywords: dict[str, Any]) -> list[Tensor]:
    """Return the tensors into which a function is going to write, as far as its name and its arguments say so."""
    place = _inplace(function)
    in_place = place == 0 or (place and (keywords.get("inplace") or any(arguments[place : place + 1])))
    first = arguments[:1] or keywords.get("input")
    return [*tensors(first if in_place else ()), *tensors(keywords.get("out"))]


@lru_cache(1024)
def _inplace(function: Callable[..., Any]) -> int | None:
    """Return the position of a function's argument `inplace`; 0 of one that always writes into its first argument."""
    name = getattr(function, "__name__", "")
    if name == "__setitem__" or (name.startswith("__i") if name.endswith("__") else name.endswith("_")):
        return 0
    parameters = (
        list(inspect.signature(function, follow_wrapped=False).parameters) if inspect.isfunction(function) else []
    )
    return parameters.index("inplace") if "inplace" in parameters else None


def storage(tensor: Tensor) -> int:
    """Return where a tensor's numbers lie."""
    return tensor.untyped_storage().data_ptr()


class Held:
    """A tensor's value, which is copied once somebody is about to write into the tensor.

    Attributes:
        value: detached.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.value, self._version = tensor.detach(), tensor._version

    def save(self) -> bool:
        """Copy the value, once; return whether nobody had written into the tensor before."""
        if self._version == self.value._version:
            self.value, self._version = self.value.clone(), -1
        return self._version == -1
