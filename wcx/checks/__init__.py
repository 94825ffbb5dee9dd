"""Checks: the theory in numbers, and what an experiment costs. Each is an experiment in a file of its name, with one class."""

from wcx.checks.base import Request, Verification
from wcx.registry import Registry

_SHARED = {  # files without a check, and the bench, which is asked for by a command of its own
    *("base", "bench", "captum", "figure", "findings", "flops", "gpu", "libraries", "processes", "rounds"),
    *("specimens", "workloads"),
}
_REGISTRY = Registry("check", __name__, Verification, shared=_SHARED)
names, get = _REGISTRY.names, _REGISTRY.get

__all__ = ["Request", "Verification", "get", "names", "of_part"]


def of_part(part: str) -> list[type[Verification]]:
    """Return the checks that a part of `wcx verify` runs: the one of its name, and those beside it."""
    check = get(part)
    return [check, *map(get, check.companions)]
