"""Methods: cotangents -> explanations. One file a method, named like it, with one class derived from `Method`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

from wcx.errors import WcxError, choose, construct
from wcx.methods.base import Method, Run

__all__ = ["Method", "Run", "accepted", "create", "differing", "get", "names", "of_gradients", "settled"]

_SHARED = {"base", "activation", "layers", "paths"}  # files that hold what methods share, not a method


def names(*, transformers: bool = True) -> list[str]:
    """Return the names of all methods; those for transformers alone may be left out."""
    return [name for name in _names() if transformers or not get(name).transformers]


@cache  # an explanation is not to wait for the disk
def _names() -> tuple[str, ...]:
    files = [module.name for module in pkgutil.iter_modules(__path__)]
    return tuple(name for name in files if name not in _SHARED and name[0] != "_")


def of_gradients(*, transformers: bool = False) -> list[str]:
    """Return the names of those that take gradients, which cost a few passes an image: all but occlusion and the like."""
    return [name for name in names(transformers=transformers) if get(name).parts]


def get(name: str) -> type[Method]:
    """Return the class of the method called `name`.

    Raises:
        WcxError: no such method; the message lists those there are.
    """
    module = importlib.import_module(f"{__name__}.{choose('method', name, names())}")
    classes = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, Method) and c.__module__ == module.__name__
    ]
    return classes[0]


def create(name: str, **options: Any) -> Method:
    """Return the method called `name` with its options set.

    Raises:
        WcxError: no such method or option.
    """
    method = get(name)
    options_of = list(inspect.signature(method).parameters)
    for key in options:
        if key not in options_of:
            raise WcxError(f"method {name!r} has no option {key!r}; it knows: {', '.join(options_of) or 'none'}.")
    return construct(f"method {name}: ", method, options)


def settled(name: str, options: Mapping[str, Any], model: nn.Module, images: Tensor) -> dict[str, Any]:
    """Return a method's options as a network takes them: those that were asked for, but where the method has another for it.

    A check's name may stand where a method's does; what is no method takes what it was asked for.

    Args:
        name: of the method.
        options: that were asked for.
        model: the network.
        images: (N, channels, H, W) in its input space, any.
    """
    return {**options, **(create(name, **options).settled(model, images) if name in names() else {})}


def accepted(
    asked: Iterable[str], options: Mapping[str, Mapping[str, Any]], model: nn.Module, images: Tensor
) -> tuple[dict[str, dict[str, Any]], dict[str, WcxError]]:
    """Return the options of methods as a network takes them, see `settled`, and the errors of those that refuse it."""
    taken: dict[str, dict[str, Any]] = {}
    refused: dict[str, WcxError] = {}
    for name in asked:
        try:
            taken[name] = settled(name, options.get(name, {}), model, images)
        except WcxError as error:
            refused[name] = error
    return taken, refused


def differing(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a method's options that are not at their defaults; none of a method that is not known."""
    if name not in names():
        return {}
    usual = {key: option.default for key, option in inspect.signature(get(name)).parameters.items()}
    return {key: value for key, value in options.items() if usual.get(key, value) != value}
