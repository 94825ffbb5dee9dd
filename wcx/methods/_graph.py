"""What leads to the logits: walks through autograd's graph, from the logits back."""

from __future__ import annotations

import math

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

Edge = tuple[Node, int]  # a function and the number of its output


def key(edge: GradientEdge) -> Edge:
    """Return what tells two edges apart."""
    return edge.node, edge.output_nr


def leading(logits: Tensor) -> set[Edge]:
    """Return all edges on which gradients of the logits flow."""
    return _walk(logits, stop_at_weights=False)


def behind_weights(logits: Tensor) -> set[Edge]:
    """Return the edges that no layer with weights separates from the logits: up to the outputs of the last of them."""
    return _walk(logits, stop_at_weights=True)


def _walk(logits: Tensor, *, stop_at_weights: bool) -> set[Edge]:
    edges: set[Edge] = set()
    waiting = [(logits.grad_fn, logits.output_nr)]
    while waiting:
        edge = waiting.pop()
        if edge[0] is None or edge in edges:
            continue
        edges.add(edge)
        if not (stop_at_weights and (_is_convolution(edge[0]) or _is_linear(edge[0]))):
            waiting.extend(edge[0].next_functions)
    return edges


def linear_layers(logits: Tensor, start: GradientEdge, n: int) -> int:
    """Return how many linear layers, each at more than one place of each of n images, follow each other on the way from `start`.

    It is the longest such way. A transformer's block has four in a row (into attention, out of it, two behind), a mixer's four, an
    attention that pools two, a classifier at each place one or two.
    """
    longest: dict[Node, int | None] = {start.node: 0}  # None: not on the way
    waiting = [logits.grad_fn]
    while waiting:
        node = waiting[-1]
        before = [function for function, _ in node.next_functions if function is not None]
        if node not in longest and (unknown := [function for function in before if function not in longest]):
            waiting.extend(unknown)
            continue
        waiting.pop()
        if node not in longest:
            ways = [length for function in before if (length := longest[function]) is not None]
            longest[node] = max(ways) + _is_linear(node, more_rows_than=n) if ways else None
    return longest[logits.grad_fn] or 0


def _is_convolution(node: Node) -> bool:
    return "Conv" in node.name()


def _is_linear(node: Node, more_rows_than: int = 0) -> bool:
    """Whether a matrix product has a constant factor: the model's weights are frozen."""
    if not node.name().startswith(("Addmm", "Mm", "Bmm", "Baddbmm", "Addmv", "Mv", "Linear", "MkldnnLinear")):
        return False
    shape = node._input_metadata[0].shape
    return sum(function is not None for function, _ in node.next_functions) == 1 and (
        math.prod(shape[:-1]) > more_rows_than
    )
