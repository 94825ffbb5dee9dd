"""Axes that tensors share, and which of a layer's holds the channels.

A shape does not tell: (1, 3, 4, 768) is a map of 768 channels in a Swin transformer, and 4 x 768 places in a convolutional network.
The functions that a network calls, before and behind a layer, do (wcx/methods/_trace.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

HABIT, DEFINITION = 1, 2  # a linear layer may act along a row of the image; a convolution's channels are where it says


class Axis:
    """An axis that several tensors share.

    Attributes:
        channels, places: how surely a function takes it for channels, or for rows or columns: 0, HABIT or DEFINITION.
        grid: the rows and columns of an axis of tokens, or None.
    """

    def __init__(self, channels: int = 0, places: int = 0, grid: Patches | None = None) -> None:
        self.channels, self.places, self.grid = channels, places, grid
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
            first.grid = first.grid or second.grid

    def mark(self, channels: int = 0, places: int = 0) -> None:
        """Take the axis for channels or places, at least so surely."""
        root = self.root()
        root.channels, root.places = max(root.channels, channels), max(root.places, places)


@dataclass(frozen=True)
class Patches:
    """Places in an axis of tokens, row by row, between tokens of no place (class, distillation, registers).

    Attributes:
        axes: of the rows and of the columns.
        sizes: (h, w).
        start: how many tokens stand before the places.
        length: of the axis; in a tensor of another, the places are not known.
    """

    axes: tuple[Axis, Axis]
    sizes: tuple[int, int]
    start: int
    length: int

    @property
    def stop(self) -> int:
        """Where the places end."""
        return self.start + math.prod(self.sizes)

    def moved(self, by: int, length: int) -> Patches | None:
        """Return the grid in another axis of tokens, or None if not all of its places are there."""
        return (
            replace(self, start=self.start + by, length=length)
            if 0 <= self.start + by <= self.stop + by <= length
            else None
        )


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
    roots = [axis.root() for axis in axes]
    return roots[0] if roots and (len(roots) == 1 or roots.count(roots[0]) == len(roots)) else None


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
        (size, axes), length = before.pop(0), after.pop(0)
        merged, split = [(size, axes)], [length]
        while size != length:
            if size < length:
                merged.append(before.pop(0))
                size *= merged[-1][0]
            else:
                split.append(after.pop(0))
                length *= split[-1]
        following += _regrouped(merged, split)
    return tuple(frozenset() if size == 1 else following.pop(0) for size in shape)


def _regrouped(merged: list[tuple[int, frozenset[Axis]]], split: list[int]) -> list[frozenset[Axis]]:
    """Return the axes of dimensions of sizes `split` into which others, (size, axes), go."""
    axes = [single(further) for _, further in merged]
    areas = [axis for axis in axes if axis and axis.places == DEFINITION and not axis.grid]
    if len(merged) == len(set(areas)) == 2 and len(split) == 1:
        grid = Patches((areas[0], areas[1]), (merged[0][0], merged[1][0]), 0, split[0])
        return [frozenset([Axis(places=DEFINITION, grid=grid)])]
    if len(merged) == 1 and axes[0] and (grid := axes[0].grid) and grid.sizes == tuple(split):
        return [frozenset([axis]) for axis in grid.axes]
    if len(merged) > 1 and len(split) > 1:
        return [frozenset([Axis()]) for _ in split]
    if len(merged) == len(split) == 1:
        return [merged[0][1]]
    return [frozenset(axis for _, further in merged for axis in untied(further))] * len(split)


def sliced(axes: frozenset[Axis], part: slice, size: int) -> frozenset[Axis]:
    """Return the axes of a part of a dimension of `size`."""
    axis = single(axes)
    if axis is None or axis.grid is None or part == slice(None):
        return axes
    start, stop, step = part.indices(size)
    grid = axis.grid.moved(-start, stop - start) if step == 1 and axis.grid.length == size else None
    return frozenset([Axis(places=DEFINITION, grid=grid)])


def concatenated(parts: Sequence[tuple[int, frozenset[Axis]]]) -> frozenset[Axis] | None:
    """Return the axis along which parts (size, axes) follow each other if there are places among its tokens, else None."""
    length, start, grids = sum(size for size, _ in parts), 0, []
    for size, axes in parts:
        axis = single(axes)
        if axis and axis.grid and axis.grid.length == size:
            grids.append(axis.grid.moved(start, length))
        start += size
    return frozenset([Axis(places=DEFINITION, grid=grids[0])]) if len(grids) == 1 else None


def product(dims: Dims) -> Dims:
    """Return the axes of a matrix product: pairs of tokens, or of channels, as in attention, are no map."""
    *before, rows, columns = dims
    if not rows or {axis.root() for axis in rows} != {axis.root() for axis in columns}:
        return dims
    kept = rows if (axis := single(rows)) and axis.grid else frozenset()  # of the places in the product with the values
    return (*before[:1], *[frozenset()] * len(before[1:]), kept, frozenset())


def untied(axes: frozenset[Axis]) -> Iterator[Axis]:
    """Yield the axes themselves, and for one of tokens those of its rows and columns."""
    for axis in axes:
        root = axis.root()
        yield from (part.root() for part in root.grid.axes) if root.grid else (root,)


@dataclass(frozen=True)
class Layout:
    """How a layer's tensor is to be read as maps.

    Attributes:
        order: of its dimensions, counted from the last: batch and channels, of a map rows and columns, of tokens theirs.
        places: (h, w).
        grid: of tokens, else None.
    """

    order: tuple[int, ...]
    places: tuple[int, ...]
    grid: Patches | None = None

    def maps(self, x: Tensor) -> Tensor:
        """Return (..., N, channels, h, w) of a tensor (..., *the layer's)."""
        x = x.movedim(self.order, tuple(range(-len(self.order), 0)))
        return x if self.grid is None else x[..., self.grid.start : self.grid.stop].unflatten(-1, self.places)


def layout(dims: Dims, shape: Sequence[int], n: int) -> Layout | None:
    """Return how a tensor of n images is to be read, or None where that cannot be decided."""
    grids = {d: axis.grid for d, axes in enumerate(dims) if (axis := single(axes)) and axis.grid}
    if len(shape) == 4 and not grids and (axis := channels(dims)) is not None:
        rest = [d for d in (1, 2, 3) if d != axis]
        return Layout((-4, axis - 4, *(d - 4 for d in rest)), tuple(map(shape.__getitem__, rest)))
    if len(shape) == 3 and len(grids) == 1:
        [(tokens, grid)] = grids.items()
        batch = 1 if tokens == 0 else 0  # before the others, but where the tokens are (as in nn.MultiheadAttention)
        if grid.length == shape[tokens] and shape[batch] == n:
            return Layout((batch - 3, -batch - tokens, tokens - 3), grid.sizes, grid)
    return None
