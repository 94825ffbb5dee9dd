"""What feeds what: tensors followed back through autograd's graph, whatever the objects and the order of the calls.

A hook may hand on a copy of a module's output, two calls may change places, and a tensor may be written in place: only the graph
says what a value was computed from.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

# Autograd's nodes of functions that hand values on in their order: clones, casts, layouts, modules' backward hooks.
_COPIES = {
    *("CloneBackward0", "AliasBackward0", "ToCopyBackward0", "torch::autograd::CopyBackwards"),
    "BackwardHookFunctionBackward",
}
# And of those that move values: their own backward pass tells where each of them came from.
_JOINS = {"CatBackward0", "StackBackward0"}
_MOVES = _JOINS | {
    *("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "ExpandBackward0", "UnsqueezeBackward0"),
    *(
        "SqueezeBackward0",
        "SqueezeBackward1",
        "SqueezeBackward2",
        "PermuteBackward0",
        "TransposeBackward0",
        "TBackward0",
    ),
    *("FlipBackward0", "RollBackward0", "UnfoldBackward0", "SliceBackward0", "SelectBackward0", "SplitBackward0"),
    *("SplitWithSizesBackward0", "UnbindBackward0", "torch::autograd::CopySlices"),
}


class Reach:
    """The tensors that were computed from given ones.

    Args:
        sources: tensors that require gradients.
    """

    def __init__(self, *sources: Tensor) -> None:
        self._nodes: dict[Any, bool] = {}  # by whether one of the sources lies behind
        for source in sources:
            self.add(source)

    def add(self, source: Tensor) -> None:
        """Count what will be computed from `source`, too."""
        self._nodes[get_gradient_edge(source).node] = True

    def __contains__(self, tensor: Tensor) -> bool:
        """Tell whether a path of the graph leads from one of the sources to `tensor`; parameters are no part of it."""
        if not tensor.requires_grad:
            return False
        start = get_gradient_edge(tensor).node
        stack = [start]
        while stack:
            node = stack.pop()
            if node in self._nodes:
                continue
            before = [edge[0] for edge in node.next_functions if edge[0] is not None]
            unseen = [other for other in before if other not in self._nodes]
            if unseen:
                stack += [node, *unseen]
            else:
                self._nodes[node] = any(self._nodes[other] for other in before)
        return self._nodes[start]


def follow(tensor: Tensor, nodes: Container[Any]) -> tuple[Any, Tensor | None] | None:
    """Return which of `nodes` gave the values that `tensor` holds, copied or moved, each of them once; None if none of them did.

    Returns:
        (node, places): `places` (int64, in the shape of the node's output) has for each value its place in `tensor`, flattened,
        or is None where all of them kept theirs.
    """
    edge = get_gradient_edge(tensor)
    node, index, shape = edge.node, edge.output_nr, tensor.shape
    places = None
    while node not in nodes:
        name, edges = node.name(), node.next_functions
        if name not in _COPIES | _MOVES or (name in _JOINS and len(edges) > 1):
            return None
        # A source is the last argument; only a backward hook hands on several tensors at once.
        source, output = edges[index] if name == "BackwardHookFunctionBackward" else edges[-1]
        if source is None:
            return None
        if name in _MOVES:
            # A backward pass with the places, counted from 1, in place of a gradient; what is left out gets 0.
            places = torch.arange(1, tensor.numel() + 1, device=tensor.device).view(shape) if places is None else places
            moved = node(*(places if i == index else None for i in range(len(node._input_metadata))))
            places = moved[-1] if isinstance(moved, tuple) else moved
            shape = places.shape
        node, index = source, output
        if list(node._input_metadata[index].shape) != list(shape):  # copied to several places
            return None
    if places is None:
        return node, None
    # What goes to several places has their sum, so that each place is met once only if each value went to one.
    met = torch.bincount(places.long().flatten(), minlength=tensor.numel() + 1)[1:]
    return (node, places.long() - 1) if places.numel() == tensor.numel() and bool((met == 1).all()) else None
