"""Measures of a map at the image's size: one file a measure, named like it, with one class derived from `Measure`.

Nothing is registered: `measures=[localisation,<name>]` on the command line finds the file.
"""

from wcx.measures.base import Measure
from wcx.registry import Registry

_REGISTRY = Registry("measure", __name__, Measure, shared={"base", "truth"})
names, get = _REGISTRY.names, _REGISTRY.get

__all__ = ["Measure", "get", "names"]
