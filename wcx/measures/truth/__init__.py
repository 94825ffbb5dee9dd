"""Scores of a map against a known answer: one file a score, named like it, with one class derived from `TruthScore`."""

from wcx.measures.truth.base import Readings, Truth, TruthScore
from wcx.registry import Registry

_REGISTRY = Registry("score", __name__, TruthScore, shared={"base"})
names, get = _REGISTRY.names, _REGISTRY.get

__all__ = ["Readings", "Truth", "TruthScore", "get", "names"]
