"""Axes that tensors share, and which of a layer's holds the channels.

A shape does not tell: (1, 3, 4, 768) is a map of 768 channels in a Swin transformer, and 4 x 768 places in a convolutional network.
The functions that a network calls, before and behind a layer, do (wcx/methods/_trace.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

HABIT, DEFINITION = 1, 2  # a linear layer may act along a row of the image; a convolution's channels are where it says


class Axis:
    """An axis that several tensors share.

    Attributes:
        channels, places: how surely a function takes it for channels, or for rows or columns: 0, HABIT or DEFINITION.
    """

    def __init__(self, channels: int = 0, places: int = 0) -> None:
        self.channels, self.places = channels, places
        self._joined: Axis | None = None

    def root(self) -> Axis:
        """Return the axis that stands for all that were joined with this."""
        axis = self
        while axis._joined is not None:
            axis = axis._joined
        return axis

    def join(self, axis: Axis) -> None:
        """Take both for the same axis."""
        first, second = self.root(), axis.root()
        if first is not second:
            second._joined = first
            first.mark(second.channels, second.places)

    def mark(self, channels: int = 0, places: int = 0) -> None:
        """Take the axis for channels or places, at least so surely."""
        root = self.root()
        root.channels, root.places = max(root.channels, channels), max(root.places, places)


# Of each dimension of a tensor, the axes that it runs over: several where they were merged, none where that is not known.
Dims = tuple[frozenset[Axis], ...]


def channels(dims: Dims) -> int | None:
    """Return the axis, 1 to 3, that holds the channels of a tensor (N, ., ., .), or None where that cannot be decided."""
    axes = {d: single(axes) or Axis() for d, axes in enumerate(dims[1:], 1)}
    if any(axis.channels == axis.places == DEFINITION for axis in axes.values()):
        return None
    for surely in (DEFINITION, HABIT):
        holding = [d for d, axis in axes.items() if axis.channels >= surely > axis.places]
        remaining = [d for d, axis in axes.items() if not axis.places >= surely > axis.channels]
        if len(holding) == 1:
            return holding[0]
        if holding or len(remaining) == 1:
            return None if holding else remaining[0]
    return None


def single(axes: frozenset[Axis]) -> Axis | None:
    """Return the axis that a dimension runs over, if it is one alone."""
    roots = {axis.root() for axis in axes}
    return roots.pop() if len(roots) == 1 else None


def of_map(batch: frozenset[Axis], ndim: int) -> Dims:
    """Return the axes of a map (N, channels, ...)."""
    places = (frozenset([Axis(places=DEFINITION)]) for _ in range(ndim - 2))
    return (batch, frozenset([Axis(channels=DEFINITION)]), *places)[:ndim]


def regrouped(sizes: Sequence[int], dims: Dims, shape: Sequence[int]) -> Dims:
    """Return the axes of a tensor of `sizes` that takes another `shape`: runs of dimensions of the same product belong together."""
    if tuple(sizes) == tuple(shape):
        return dims
    if math.prod(sizes) != math.prod(shape) or 0 in shape:
        return ()
    before = [(size, axes) for size, axes in zip(sizes, dims, strict=True) if size != 1]
    after = [size for size in shape if size != 1]
    following: list[frozenset[Axis]] = []
    while after:
        (size, axes), length, split = before.pop(0), after.pop(0), 1
        merged = [axes]
        while size != length:
            if size < length:
                further, axes = before.pop(0)
                size *= further
                merged.append(axes)
            else:
                length *= after.pop(0)
                split += 1
        mixed = len(merged) > 1 and split > 1
        following += [frozenset([Axis()]) if mixed else frozenset().union(*merged) for _ in range(split)]
    return tuple(frozenset() if size == 1 else following.pop(0) for size in shape)
