"""Attention rollout (Abnar & Zuidema 2020, arXiv 2005.00928): a control, since it knows nothing of classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wcx.methods._blocks import Blocks, SeenBlock
from wcx.methods.base import Method, Run, as_images, evaluated, say


class AttentionRollout(Method):
    """phi = the class token's row of the product over blocks, the last one leftmost, of (mean over heads of A + I) / 2.

    Without a class token, the mean of all rows. No class and no gradient enters, so that every contrast has the same map: it
    *cannot* be contrastive, and is here as the control that a contrast must differ from. A line says so.
    """

    space = "activation"
    linear = False
    parts = ()
    transformers = True

    def run(self, model: nn.Module, images: Tensor, layer: str | nn.Module | None = None) -> RolloutRun:
        """See `Method.run`; `layer` plays no part.

        Raises:
            WcxError: the network is no transformer, or one of windows.
        """
        say("attention_rollout knows no classes: its map is the same under every contrast; it is a control.")
        return RolloutRun(model, as_images(images))


class RolloutRun(Run):
    """One forward pass of images (N, channels, H, W)."""

    forward = False

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        with evaluated(model) as state, torch.no_grad():
            found = Blocks.of(model, images, "attention_rollout")
            blocks, logits = found.run(model, images, alone=False)
            super().__init__(state, logits)
            rows = rolled(blocks, len(images))
        self._map = found.maps(rows[:, 0] if found.layout.grid.start else rows.mean(1))

    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        return self._map.expand(len(v), *self._map.shape).clone()


def rolled(blocks: list[SeenBlock], n: int) -> Tensor:
    """Return the product (N, tokens, tokens) over blocks in the order in which they run, each from the left."""
    product: Tensor | None = None
    for weights in (weights for block in blocks for weights in block.probabilities):
        mean = weights.reshape(n, -1, *weights.shape[-2:]).mean(1)
        step = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
        product = step if product is None else step @ product
    assert product is not None, "blocks attend"
    return product
