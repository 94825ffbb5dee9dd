"""A call of a function of torch, and the tensors that go into it and come out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NESTED = (tuple, list, dict)


@dataclass(frozen=True)
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
