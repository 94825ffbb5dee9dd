"""An opened network, and those that the page's visitors have opened."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from wcx.images import Transform
from wcx.methods import layers
from wcx.models import LoadedModel

MOST = 4  # networks that stay in memory, beside the first


@dataclass(frozen=True, eq=False)
class Network:
    """A network that can be asked.

    Attributes:
        name: as visitors name it.
        loaded: with its weights.
        classes: names of its outputs.
        transform: from a photograph to its input.
        overrides: what names it on the command line.
        python: the Python lines that leave it in `loaded`.
        layer: of methods in activation space, if nothing else is asked for; None is looked for.
        remarks: sentences on the page's own method at that layer.
        turn: held by whoever sends images through it: the hooks of one explanation are in the way of another's passes.
    """

    name: str
    loaded: LoadedModel
    classes: Sequence[str]
    transform: Transform
    overrides: Sequence[str]
    python: str
    layer: str | None = None
    remarks: Sequence[str] = ()
    turn: threading.Lock = field(default_factory=threading.Lock)

    def layers(self, pixels: Tensor) -> list[str]:
        """Return the names of layers to choose from, its own first; see `layers.candidates`."""
        with self.turn:
            found = layers.candidates(self.loaded.model, pixels[None].to(self.loaded.model.mean.device))
        return list(dict.fromkeys([*filter(None, [self.layer]), *found]))


class Networks:
    """Networks by name, each opened once for all visitors.

    Args:
        first: stays.
        opener: opens one by name.
    """

    def __init__(self, first: Network, opener: Callable[[str], Network]) -> None:
        self.first, self._opener = first, opener
        self._others: dict[str, Network] = {}
        self._opening = threading.Lock()

    def get(self, name: str) -> Network:
        """Return a network; of the others than the first, the `MOST` opened last are kept.

        Raises:
            WcxError: there is no such network, or its weights cannot be had.
        """
        with self._opening:
            if name == self.first.name:
                return self.first
            if name not in self._others:
                self._others[name] = self._opener(name)
                for oldest in list(self._others)[:-MOST]:
                    del self._others[oldest]
            return self._others[name]
