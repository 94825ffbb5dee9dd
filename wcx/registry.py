"""Classes found by the name of their file: methods, experiments, measures. Nothing is registered anywhere."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Set
from typing import Generic, TypeVar

from wcx.errors import choose

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes derived from `base` in a package, one a file, by the file's name.

    Args:
        kind: what they are, for messages.
        package: its import name.
        base: the class that they derive from.
        shared: names of the package's files that hold none; those that begin with _ need not be named.
    """

    def __init__(self, kind: str, package: str, base: type[T], shared: Set[str] = frozenset()) -> None:
        self._kind, self._package, self._base, self._shared = kind, package, base, shared

    def names(self) -> list[str]:
        """Return all names."""
        path = importlib.import_module(self._package).__path__
        files = [module.name for module in pkgutil.iter_modules(path)]
        return [name for name in files if name[0] != "_" and name not in self._shared]

    def get(self, name: str) -> type[T]:
        """Return the class called `name`.

        Raises:
            WcxError: there is none; the message lists those there are.
        """
        module = importlib.import_module(f"{self._package}.{choose(self._kind, name, self.names())}")
        classes = [
            value for _, value in inspect.getmembers(module, inspect.isclass) if value.__module__ == module.__name__
        ]
        return next(value for value in classes if issubclass(value, self._base))
