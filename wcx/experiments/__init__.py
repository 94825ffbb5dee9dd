"""Experiments: one file an experiment, named like it, with one class derived from `Experiment`; nothing is registered."""

from wcx.experiments.base import Cell, Experiment, Subject
from wcx.registry import Registry

_REGISTRY = Registry(
    "experiment",
    __name__,
    Experiment,
    shared={"base", "gallery", "hiding", "images", "photo", "pictures", "selection", "subject"},
)
names, get = _REGISTRY.names, _REGISTRY.get

__all__ = ["Cell", "Experiment", "Subject", "get", "names"]
