"""The box rule of layer-wise relevance propagation: bounds for what the convolutions see of the image itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.methods._flow import Reach
from wcx.methods._functions import LAYERS, Call
from wcx.methods._watch import Watch
from wcx.methods.base import call

if TYPE_CHECKING:
    from zennit.rules import ZBox


class Box:
    """Gives the box rule to each convolution that no other stands before.

    Its bounds are what this convolution sees of the lowest and the highest image, behind whatever prepares the image for it.

    Args:
        ends: the lowest and the highest image, each as a batch (N, channels, H, W) like the one to be explained.
    """

    def __init__(self, *ends: Tensor) -> None:
        self._ends = ends
        self._bounds: list[tuple[Tensor, Tensor]] = []

    def rule(self, x: Tensor) -> ZBox:
        """Return the rule of a convolution of `x`; it can be used after `close`."""
        from zennit.rules import ZBox

        low, high = torch.empty_like(x), torch.empty_like(x)
        self._bounds.append((low.detach(), high.detach()))
        return ZBox(*self._bounds[-1])

    def close(self, model: nn.Module) -> None:
        """Fill in the bounds, once the images went through the model: `model` is run as far as its last such convolution.

        Raises:
            WcxError: there is none, or other ones see the ends.
        """
        if not self._bounds:
            raise WcxError(
                "composite epsilon_gamma_box needs a convolution, and the model has none; use another composite."
            )
        for bounds, seen in zip(
            self._bounds, zip(*(self._seen(model, end) for end in self._ends), strict=True), strict=True
        ):
            for bound, values in zip(bounds, (torch.minimum(*seen), torch.maximum(*seen)), strict=True):
                bound.copy_(values)

    def _seen(self, model: nn.Module, end: Tensor) -> list[Tensor]:
        """Return what each of the convolutions sees of an image."""
        image = end.clone().requires_grad_()
        sight = _Sight(image, len(self._bounds))
        with suppress(_Sight.Enough):
            call(model, image, sight)
        if [values.shape for values in sight.seen] != [low.shape for low, _ in self._bounds]:
            raise WcxError(
                "composite epsilon_gamma_box: other convolutions see the lowest and highest image than see the images to be "
                "explained; use another composite."
            )
        return sight.seen


class _Sight(Watch):
    """Keeps what the first `count` convolutions that no other stands before see, and stops at the last of them."""

    class Enough(BaseException):
        """All have seen theirs. No Exception, since it is no error, and the network might catch those."""

    def __init__(self, image: Tensor, count: int) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self._image, self._convolved, self._count = Reach(image), Reach(), count

    def see(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run the function, or stop."""
        function = Call(func, args, kwargs, self._image)
        x = function.argument(0, "input")
        if function.name not in LAYERS or function.name == "linear" or not function.inputs or x not in self._image:
            return function()
        if x not in self._convolved:
            self.seen.append(x.detach().clone())
            if len(self.seen) == self._count:
                raise self.Enough
        result = function()
        self._convolved.add(result)
        return result
