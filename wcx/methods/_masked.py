"""Methods that hide parts of the image and look at the logits: forward passes alone, through any network.

All cotangents are explained from the same passes. With value contrast the explanation is of (v.y)(x'), linear in v; with value
log_odds it is of the logsumexp of the logits that v favours less that of those that it opposes (where v has no such classes, all
but the others), which is the log-odds of t against its foils under the contrast `mean`.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from wcx.errors import WcxError, choose
from wcx.methods import _reference
from wcx.methods._undo import undone
from wcx.methods.base import Method, Run, as_images, evaluated, forward, say

VALUES = ("contrast", "log_odds")
Network = Callable[[Tensor], Tensor]  # images (N, channels, H, W) -> logits (N, C)


class MaskedMethod(Method):
    """A method of M versions of each image, in which mask m keeps the share m_ij of pixel ij and a baseline x' has the rest.

    Args:
        value: what is explained: ``contrast`` or ``log_odds``, see the module.
        baseline, space, sigma: x', as for DeepLIFT.
        batch_size: at most so many versions at once (but at least one of all images).
    """

    space = "input"
    parts = ()
    version = 2  # 2: an experiment has the versions of the images it selects alone, in batches of other sizes

    def __init__(
        self,
        value: str = "contrast",
        baseline: str | Tensor = "zeros",
        space: str = "normalized",
        sigma: float = 15.0,
        batch_size: int = 32,
    ) -> None:
        _reference.check(baseline, space)
        self.value, self.linear = choose("value", value, VALUES), value == "contrast"
        self.baseline, self.zero_space, self.sigma, self.batch_size = baseline, space, sigma, batch_size

    def run(
        self,
        model: nn.Module,
        images: Tensor,
        layer: str | nn.Module | None = None,
        network: Network | None = None,
    ) -> MaskedRun:
        """See `Method.run`; `layer` plays no part.

        Args:
            network: what the versions go through in the place of the model: a copy that is faster.
        """
        images = as_images(images).clone()
        baseline = _reference.reference(model, images, self.baseline, self.zero_space, self.sigma)
        return MaskedRun(self, model, images, baseline, network)

    @abstractmethod
    def count(self, height: int, width: int) -> int:
        """Return M for an image of this size."""

    @abstractmethod
    def masks(self, numbers: range, height: int, width: int) -> Tensor:
        """Return the masks of some of the versions, float64 (M', H, W), the same for every image."""

    @abstractmethod
    def gains(self, clean: Tensor, values: Tensor) -> Tensor:
        """Return what each version tells, of values g(x) (K, 1, N) and g(x_m) (K, M', N): of the latter's shape."""

    @abstractmethod
    def shares(self, masks: Tensor) -> Tensor:
        """Return how what a version tells is shared among the pixels, of masks (M', H, W): of their shape."""


class MaskedRun(Run):
    """One forward pass of images (N, channels, H, W), and at the first explanation one for each of their versions."""

    def __init__(
        self, method: MaskedMethod, model: nn.Module, images: Tensor, baseline: Tensor, network: Network | None
    ) -> None:
        with evaluated(model) as state, torch.no_grad():
            super().__init__(state, forward(model, images))
        if torch.finfo(self.logits.dtype).bits < 32:
            say(
                f"methods that hide pixels compare logits, and those of {self.logits.dtype} are rounded; give model.float()."
            )
        self._method, self._images, self._baseline = method, images, baseline
        self._network = network or (lambda versions: forward(model, versions))
        self._logits: list[Tensor] = []  # of the image itself, then of its versions: (M', N, C) each

    def chosen(self, places: Tensor) -> MaskedRun:
        """Return the run of some of the images, by their places (n,), whose versions alone it passes; before any explanation."""
        run = copy.copy(self)
        run.logits, run._images, run._baseline = (t[places] for t in (self.logits, self._images, self._baseline))
        run._logits = []
        return run

    @undone
    def log_odds(self, v: Tensor) -> Tensor:
        """Return what `explain` returns with value log_odds, from the same passes."""
        with self.again():
            cotangents, self._single = self._stack(v), v.ndim == 2
            return self._unstack(self._maps(cotangents, log_odds))

    def _explain(self, v: Tensor, path: Callable[[Tensor], Tensor] | None) -> Tensor:
        return self._maps(v, dot if self._method.value == "contrast" else log_odds)

    @torch.no_grad()
    def _maps(self, v: Tensor, value: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        clean, *versions = self._seen()
        height, width = self._images.shape[-2:]
        total = torch.zeros(*v.shape[:2], height, width, dtype=torch.float64, device=v.device)
        start = 0
        for logits in versions:
            numbers = range(start, start + len(logits))
            gains = self._method.gains(value(v, clean), value(v, logits))
            shares = self._method.shares(self._masks(numbers))
            total += torch.einsum("kmn,mhw->knhw", gains, shares)
            start = numbers.stop
        channels = self._images.shape[1]
        return (total / channels).to(self.logits)[:, :, None].expand(-1, -1, channels, -1, -1).clone()

    def _masks(self, numbers: range) -> Tensor:
        height, width = self._images.shape[-2:]
        return self._method.masks(numbers, height, width).to(self._images.device)

    def _seen(self) -> list[Tensor]:
        """Return the logits of the images, and of their versions: there at the first call."""
        if not self._logits:
            n, count = len(self._images), self._method.count(*self._images.shape[-2:])
            size = max(1, self._method.batch_size // n)
            logits = [self._network(self._images)[None]]
            for start in range(0, count, size):
                kept = self._masks(range(start, min(start + size, count))).to(self._images)[:, None, None]
                versions = torch.where(kept == 1, self._images, self._baseline + kept * (self._images - self._baseline))
                logits.append(self._network(versions.flatten(0, 1)).unflatten(0, (-1, n)))
            self._logits = logits  # all of them or none, whatever ends the passes
            self.versions += n * (1 + count)
        return self._logits


def dot(v: Tensor, logits: Tensor) -> Tensor:
    """Return sum_s v_s y_s of cotangents v (K, N, C) at logits (M, N, C): (K, M, N), float64."""
    return torch.einsum("knc,mnc->kmn", v.double(), logits.double())


def log_odds(v: Tensor, logits: Tensor) -> Tensor:
    """Return logsumexp of y over v > 0 less that over v < 0, (K, M, N); of one class (a sigmoid) y itself."""
    if logits.shape[-1] == 1:
        return dot(v, logits)

    def total(side: Tensor, opposite: Tensor) -> Tensor:
        chosen = torch.where(side.any(-1, keepdim=True), side, ~opposite)
        return torch.stack([logits.double().masked_fill(~of_v, -torch.inf).logsumexp(-1) for of_v in chosen])

    return total(v > 0, v < 0) - total(v < 0, v > 0)


def checked(what: str, value: object, least: int = 1) -> int:
    """Return a whole number of at least `least`.

    Raises:
        WcxError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise WcxError(f"{what} = {value!r}; give an integer of at least {least}.")
    return value
