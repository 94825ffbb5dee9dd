"""What a contrast is, and where it is found by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wcx.errors import WcxError, choose


@dataclass(frozen=True)
class Contrast:
    """A contrast and what it declares of itself.

    Attributes:
        function: (logits, target, foils, **options) -> v, see the module's docstring.
        path_dependent: a method that walks a path (integrated gradients, SmoothGrad) asks for v at each point of it;
            for all others v is frozen at the clean input (Eq. 1).
        own_dtype: computed in the logits' own dtype instead of float64.
        uses_foils: False where v is the same whatever the foils.
    """

    function: Callable[..., Tensor]
    path_dependent: bool = False
    own_dtype: bool = False
    uses_foils: bool = True

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The options, with the function's own values."""
        parameters = list(inspect.signature(self.function).parameters.values())[3:]
        return {parameter.name: parameter.default for parameter in parameters}


_CONTRASTS: dict[str, Contrast] = {}


def contrast(name: str, **declared: bool) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function as the contrast called `name`; `declared` are attributes of `Contrast`."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        _CONTRASTS[name] = Contrast(function, **declared)
        return function

    return register


def names() -> list[str]:
    """Return the names of all contrasts."""
    return list(_CONTRASTS)


def get(name: str) -> Contrast:
    """Return the contrast called `name`.

    Raises:
        WcxError: no such contrast; the message lists those there are.
    """
    return _CONTRASTS[choose("contrast", name, _CONTRASTS)]


def as_names(contrast: str | Sequence[str]) -> list[str]:
    """Return the names of contrasts that are given as one name or several.

    Raises:
        WcxError: it is neither.
    """
    if isinstance(contrast, str):
        return [contrast]
    if not isinstance(contrast, Sequence) or not all(isinstance(name, str) for name in contrast):
        raise WcxError(f"contrast = {contrast!r}: give a name, or a list of names, of: {', '.join(names())}.")
    return list(contrast)


def split_options(contrasts: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return for each of `contrasts` those of `options` that it knows; WcxError if none does, or no contrast is named."""
    if not contrasts:
        raise WcxError(f"no contrast is named; give at least one of: {', '.join(names())}.")
    options_of = {name: list(get(name).defaults) for name in contrasts}
    for key in options:
        if not any(key in keys for keys in options_of.values()):
            listing = "; ".join(f"{name}: {', '.join(keys) or 'none'}" for name, keys in options_of.items())
            raise WcxError(f"unknown contrast option {key!r}. Options by contrast: {listing}.")
    return {name: {key: value for key, value in options.items() if key in keys} for name, keys in options_of.items()}


def one_hot(index: Tensor, like: Tensor) -> Tensor:
    """Return e_s (N, C) of classes `index` (N,)."""
    return torch.zeros_like(like).scatter_(1, index[:, None], 1.0)
