"""Networks of other libraries by name: one file a library, named like it, with one class derived from `Library`."""

from wcx.models.libraries.base import Library, get, load, names

__all__ = ["Library", "get", "load", "names"]
