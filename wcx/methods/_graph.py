"""What leads to the logits: walks through autograd's graph, from the logits back."""

from __future__ import annotations

import math
import re

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

Edge = tuple[Node, int]  # a function and the number of its output


_COPIES = ("CopyBackwards", "CloneBackward0")
# What takes the gradients of many cotangents at once, fast and to rounding as one by one. A network's own functions have no number.
_IN_HEADS = re.compile(
    "(Addmm|Mm|T|Transpose|View|ReshapeAlias|UnsafeView|Squeeze|Mean|AdaptiveAvgPool2D|MaxPool2DWithIndices"
    "|Relu|Hardtanh|Hardswish|Gelu|Silu|NativeLayerNorm|Clone)Backward[0-9]+|torch::autograd::CopyBackwards"
)
_NORMS = re.compile("(?<!Batch)Norm|Rsqrt|Sqrt|Std|Var|Pow")  # fused, or written out


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


def way(logits: Tensor, start: GradientEdge) -> list[Node]:
    """Return the functions by which gradients of the logits flow to `start`, those nearest to it first."""
    leads: dict[Node, bool] = {start.node: True}
    nodes: list[Node] = []
    waiting = [logits.grad_fn]
    while waiting:
        node = waiting[-1]
        inputs = _inputs(node)
        if node not in leads and (unknown := [function for function in inputs if function not in leads]):
            waiting.extend(unknown)
            continue
        waiting.pop()
        if node not in leads:
            leads[node] = any(leads[function] for function in inputs)
            nodes += [node] if leads[node] else []
    return nodes


def form(nodes: list[Node], n: int) -> tuple[tuple[str, int, tuple[int, ...]], ...]:
    """Return what a `way` has in common with that of another pass: of each function name, size and the places of its inputs on it.

    The size is that of its output for each of n images.
    The copy from which a cut-off graph starts is left out.
    """
    nodes = nodes[1:] if nodes and nodes[0].name().endswith(_COPIES) else nodes
    places = {node: place for place, node in enumerate(nodes)}
    sizes = [math.prod(node._input_metadata[0].shape) // n for node in nodes]
    return tuple(
        (node.name(), size, tuple(places[f] for f in _inputs(node) if f in places))
        for node, size in zip(nodes, sizes, strict=True)
    )


def is_head(logits: Tensor, start: Tensor | GradientEdge) -> bool:
    """Return whether linear layers, activation functions, pools and norms of features alone lead from `start` to the logits."""
    edge = get_gradient_edge(start) if isinstance(start, Tensor) else start
    known, waiting = {edge.node}, [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        if not _IN_HEADS.fullmatch(node.name()):
            return False
        known.add(node)
        waiting += _inputs(node)
    return True


def linear_layers(nodes: list[Node], n: int) -> int:
    """Return how many linear layers, each at more than one place of each of n images, follow each other on a `way`.

    It is the longest such row. A transformer's block has four (into attention, out of it, two behind), a mixer's four, an attention
    that pools two, a classifier at each place one or two.
    """
    longest: dict[Node, int] = {}
    for node in nodes:
        before = max((longest.get(function, 0) for function in _inputs(node)), default=0)
        longest[node] = before + _is_linear(node, more_rows_than=n)
    return max(longest.values(), default=0)


def has_norm(logits: Tensor, start: GradientEdge) -> bool:
    """Return whether a norm of each image's own values lies between `start` and the logits: one that divides by a spread."""
    return any(_NORMS.search(node.name()) for node in way(logits, start))


def convolutions(nodes: list[Node]) -> int:
    """Return how many convolutions on a `way` return maps larger than 1x1."""
    shapes = [node._input_metadata[0].shape for node in nodes if _is_convolution(node)]
    return sum(len(shape) == 4 and math.prod(shape[2:]) > 1 for shape in shapes)


def _inputs(node: Node) -> list[Node]:
    return [function for function, _ in node.next_functions if function is not None]


def _is_convolution(node: Node) -> bool:
    return "Conv" in node.name()


def _is_linear(node: Node, more_rows_than: int = 0) -> bool:
    """Whether a matrix product has a constant factor: the model's weights are frozen."""
    if not node.name().startswith(("Addmm", "Mm", "Bmm", "Baddbmm", "Addmv", "Mv", "Linear", "MkldnnLinear")):
        return False
    return len(_inputs(node)) == 1 and math.prod(node._input_metadata[0].shape[:-1]) > more_rows_than
