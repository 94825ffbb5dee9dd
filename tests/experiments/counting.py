"""Counts what an engine dispatches and how often it reads the host; not a test itself.

A GPU runs ahead of Python until a tensor's value is read: by one of `READS`, or by an operation whose output's shape depends
on values. A CPU dispatches nothing for most of these, so they are patched for the count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__int__", "__float__", "__index__")
SHAPED = (
    "nonzero",
    "unique",
    "masked_select",
    "repeat_interleave.Tensor",
)  # and an index that is a mask; `equal` waits, too


def small_network() -> nn.Module:
    """Return a network of two layers: a batch of 224 x 224 costs next to nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 16, 16, stride=16)
        return nn.Sequential(conv, nn.ReLU(), Mean(), nn.Linear(16, 10)).eval()


class Mean(nn.Module):
    """Of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels) of (N, channels, h, w)."""
        return x.mean((2, 3))


class _Dispatched(TorchDispatchMode):
    """Counts operations by name, and those that wait for values among the reads."""

    def __init__(self, operations: Counter[str], reads: Counter[str]) -> None:
        super().__init__()
        self._operations, self._reads = operations, reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        self._operations[name] += 1
        masked = name.startswith("index") and any(_mask(index) for index in _flat(args))
        if masked or name == "equal.default" or name.startswith(SHAPED):
            self._reads[name] += 1
        return func(*args, **(kwargs or {}))


def _flat(args: Sequence[Any]) -> list[Any]:
    return [value for arg in args for value in (arg if isinstance(arg, (list, tuple)) else [])]


def _mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


@contextmanager
def counted() -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Count operations and host reads, each by name, of what runs in here."""
    operations, reads = Counter[str](), Counter[str]()
    originals = {name: getattr(Tensor, name) for name in READS}
    depth = [0]  # numpy() within __array__ is one read

    def patched(name: str) -> Any:
        def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            reads[name] += depth[0] == 0
            depth[0] += 1
            try:
                return originals[name](self, *args, **kwargs)
            finally:
                depth[0] -= 1

        return read

    for name in READS:
        setattr(Tensor, name, patched(name))
    try:
        with _Dispatched(operations, reads):
            yield operations, reads
    finally:
        for name, original in originals.items():
            setattr(Tensor, name, original)
