"""LeGrad (Bousselham et al. 2024, arXiv 2404.03214): how sensitive each block's class score is to its attention."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.methods._blocks import Blocks
from wcx.methods.base import Method, Run, as_images, evaluated


class LeGrad(Method):
    """phi_j = mean over blocks l, heads and queries i of max(d(sum_s v_s y_s^l)/dA^l_ij, 0), at each patch j.

    y^l are the logits that the network would have, ended behind block l: by its own norm, pooling and head (the authors' code
    averages all tokens instead, and scales each map to [0, 1], which is left to the eye here). A^l are the block's attention
    probabilities, computed where attention is fused. Transformers alone: all tokens attend to each other.

    Args:
        relu: the published max(., 0), with which the map is not linear in v; False keeps the sign, and it is.
        blocks: how many of the last blocks count; None for all.
    """

    space = "activation"
    linear = False
    transformers = True

    def __init__(self, relu: bool = True, blocks: int | None = None) -> None:
        if blocks is not None and (type(blocks) is not int or blocks < 1):
            raise WcxError(f"legrad: blocks = {blocks!r}: give a whole number of at least 1, or null for all.")
        self.relu, self.blocks, self.linear = relu, blocks, not relu

    def run(self, model: nn.Module, images: Tensor, layer: str | nn.Module | None = None) -> LeGradRun:
        """See `Method.run`; `layer` plays no part.

        Raises:
            WcxError: the network is no transformer, or one of windows.
        """
        return LeGradRun(model, as_images(images), relu=self.relu, last=self.blocks)


class LeGradRun(Run):
    """One forward pass of images (N, channels, H, W) through the blocks, and one of each block's tokens through the head."""

    forward = False

    def __init__(self, model: nn.Module, images: Tensor, *, relu: bool, last: int | None) -> None:
        with evaluated(model) as state:
            found = Blocks.of(model, images, "legrad")
            blocks, logits = found.run(model, images, alone=True)
            count = len(blocks) if last is None else min(last, len(blocks))
            blocks = blocks[-count:]
            of_blocks = found.logits(model, images, blocks)
            super().__init__(state, logits)
        self._graph, self._relu, self._found = of_blocks, relu, found
        self._probabilities = [block.probabilities for block in blocks]

    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        return torch.stack([self._map(cotangent) for cotangent in v])

    def _map(self, v: Tensor) -> Tensor:
        """Return the map (N, h, w) of a cotangent (N, C): one backward pass, in which every block stands alone."""
        flat = list(chain.from_iterable(self._probabilities))
        gradients = iter(
            torch.autograd.grad(self._graph, flat, v.to(self._graph).expand_as(self._graph), retain_graph=True)
        )
        maps = []
        for block in self._probabilities:
            of_keys = [self._of_keys(next(gradients), len(v)) for _ in block]
            maps.append(torch.stack(of_keys).mean(0))
        return torch.stack(maps).mean(0)

    def _of_keys(self, gradient: Tensor, n: int) -> Tensor:
        """Return the mean over heads and queries at each patch, (N, h, w)."""
        gradient = gradient.clamp(min=0) if self._relu else gradient
        return self._found.maps(gradient.reshape(n, -1, gradient.shape[-1]).mean(1))
