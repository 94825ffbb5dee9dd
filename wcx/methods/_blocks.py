"""A transformer's blocks: the attention probabilities in each of them, and the logits that its tokens would have.

Fused attention (scaled_dot_product_attention, nn.MultiheadAttention's fast path) forms no probabilities; they are computed here
from its queries, keys and mask, so that there is a gradient with respect to them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.methods import layers
from wcx.methods._attention import FUSED, MULTI_HEAD
from wcx.methods._axes import Layout, Patches
from wcx.methods._calls import tensors
from wcx.methods._functions import Call, opened
from wcx.methods._trace import Trace
from wcx.methods._watch import Watch
from wcx.methods.base import call, forward


class Probabilities(Watch):
    """Keeps the attention probabilities of whatever runs in it, with their graph.

    Attributes:
        seen: (..., queries, keys), in the order of the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def see(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run the function; fused attention in its parts."""
        function = Call(func, args, kwargs)
        if function.name == MULTI_HEAD:
            with self:
                return opened(func)(*args, **kwargs)
        if function.name == FUSED:
            self.seen.append(_probabilities(function))
            value = function.argument(2, "value")
            return self.seen[-1] @ _repeated(value, self.seen[-1].shape[-3] if value.ndim > 3 else None)
        result = function()
        if function.name == "softmax" and result.ndim > 2 and function.argument(1, "dim") in (-1, result.ndim - 1):
            self.seen.append(result)
        return result


def _probabilities(function: Call) -> Tensor:
    """Return what scaled_dot_product_attention leaves out: softmax(q k^T scale + mask)."""
    q, k, mask = (function.argument(*key) for key in ((0, "query"), (1, "key"), (3, "attn_mask")))
    scale = function.argument(6, "scale")
    scores = q @ _repeated(k, q.shape[-3] if q.ndim > 3 else None).transpose(-2, -1)
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    if function.argument(5, "is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def _repeated(x: Tensor, heads: int | None) -> Tensor:
    """Return keys or values for so many heads: several queries' heads may share one."""
    return x if heads is None or x.shape[-3] == heads else x.repeat_interleave(heads // x.shape[-3], -3)


@dataclass
class SeenBlock:
    """What a block did in a forward pass.

    Attributes:
        name: the module's.
        output: as it returned it.
        probabilities: (N or N heads, ..., queries, keys), of each attention in it.
    """

    name: str
    output: Any = None
    probabilities: list[Tensor] = field(default_factory=list)

    @property
    def tokens(self) -> Tensor:
        """Its output's tokens."""
        return layers.first(self.output)


@dataclass(frozen=True)
class Blocks:
    """A transformer's repeated blocks.

    Attributes:
        names: of the modules, in the order in which they run.
        layout: how their tokens are to be read as maps.
    """

    names: tuple[str, ...]
    layout: Layout

    @classmethod
    def of(cls, model: nn.Module, images: Tensor, method: str) -> Blocks:
        """Find them in a pass of one of the images (N, channels, H, W).

        Raises:
            WcxError: there are none, or their tokens are not all of the image's, with a place for each patch.
        """
        image = images[:1]
        listed, running, taken = layers.listed(model), [], 0
        trace, mode = Trace(image), Probabilities()
        blocks: dict[str, SeenBlock] = {}
        layouts: list[Layout | None] = []

        def before(_name: str) -> None:
            running.append(len(mode.seen))

        def after(name: str, output: object) -> None:
            nonlocal taken
            inside = mode.seen[max(running.pop(), taken) :]
            if name in listed and inside:  # the innermost such module around an attention
                taken = len(mode.seen)
                blocks[name] = SeenBlock(name, output, inside)
                layouts.append(trace.layout(blocks[name].tokens, 1))

        with torch.no_grad(), layers.observed(model, after, before), mode:
            forward(model, image, trace)
        if not blocks:
            raise WcxError(f"{method} needs a transformer, and no block of the network calls attention; use gradcam.")
        facts = {
            (block.tokens.shape, weights.shape[-1], layout and layout.places, layout and _place(layout.grid))
            for block, layout in zip(blocks.values(), layouts, strict=True)
            for weights in block.probabilities
        }
        first = layouts[0]
        if len(facts) > 1 or first is None or first.grid is None or first.grid.length != next(iter(facts))[1]:
            raise WcxError(
                f"{method} needs blocks in which all of an image's tokens attend to each other; here they stand in windows, or at "
                "several resolutions; use lrp or linear_approximation."
            )
        return cls(tuple(blocks), first)

    def maps(self, rows: Tensor) -> Tensor:
        """Return the patches (..., h, w) of rows of tokens (..., tokens)."""
        return rows[..., self.layout.grid.start : self.layout.grid.stop].unflatten(-1, self.layout.places)

    def run(self, model: nn.Module, images: Tensor, *, alone: bool) -> tuple[list[SeenBlock], Tensor]:
        """Run forward; return what each block did, and the logits (N, C).

        Args:
            alone: each block's graph begins at its input.
        """
        named, mode = layers.modules(model), Probabilities()
        blocks = {name: SeenBlock(name) for name in self.names}

        def before(_module: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> Any:
            mode.seen.clear()
            x = tensors((arguments, keywords))[0]
            leaf = x.detach().requires_grad_() if alone else x
            keywords = {key: leaf if value is x else value for key, value in keywords.items()}
            return tuple(leaf if value is x else value for value in arguments), keywords

        def after(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _arguments: tuple, output: Any) -> None:
                blocks[name].output, blocks[name].probabilities = output, list(mode.seen)

            return hook

        with ExitStack() as stack:
            for name in self.names:
                stack.enter_context(named[name].register_forward_pre_hook(before, with_kwargs=True))
                stack.enter_context(named[name].register_forward_hook(after(name)))
            logits = forward(model, images, mode)
        return list(blocks.values()), logits

    def logits(self, model: nn.Module, images: Tensor, blocks: list[SeenBlock]) -> Tensor:
        """Return the logits (L, N, C) that the network would have, ended behind each of L blocks: by its own norm and head."""
        last = self.names[-1]
        every = torch.cat([block.tokens for block in blocks], self.layout.order[0] + 3)  # of images
        following = layers.with_first(blocks[-1].output, every)
        with _replaced(model, self.names, lambda name, x: following if name == last else x, blocks[-1].output):
            logits = call(model, images.repeat(len(blocks), 1, 1, 1))
        return logits.unflatten(0, (len(blocks), len(images)))


def _place(grid: Patches | None) -> tuple[int, ...]:
    return () if grid is None else (grid.start, grid.stop, grid.length)


def _replaced(
    model: nn.Module, names: tuple[str, ...], value: Callable[[str, Tensor], Any], like: Any
) -> AbstractContextManager[None]:
    """Let modules return `value(name, tokens)` instead of running; what is no tuple goes on as one where `like` is one."""
    named = layers.modules(model)

    def skip(name: str, *arguments: Any, **keywords: Any) -> Any:
        output = value(name, tensors((arguments, keywords))[0])
        return layers.with_first(like, output) if isinstance(output, Tensor) else output

    return layers.replaced({named[name]: partial(skip, name) for name in names})
