"""Which images are shown: by a stated rule, seeded random among those over a threshold, or by given ids."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

import torch
from torch import Tensor, nn

from wcx.errors import WcxError
from wcx.experiments.images import Item, stacked
from wcx.paths import visible

Read = Callable[[Sequence[int]], Iterable[Item]]


@dataclass(frozen=True)
class Choice:
    """The images that a figure shows.

    Attributes:
        indices: into the dataset, in the order in which they are shown.
        rule: how they were chosen, a sentence without a full stop, to be written under the figure.
    """

    indices: list[int]
    rule: str


class Walk:
    """Images in a random order, each looked at once and only as far as is asked for, whatever is asked of them.

    Args:
        model: pixels (N, 3, H, W) -> logits (N, C), on its device.
        read: indices -> items, e.g. `items.read` of a dataset.
        order: the dataset's indices in a seeded random order.
        note: what the order is of, for the rule: "571 test images (seed 0)".
        batch_size: images a pass.

    Attributes:
        skipped: how many could not be read.
    """

    def __init__(self, model: nn.Module, read: Read, order: Sequence[int], note: str, batch_size: int = 32) -> None:
        self.skipped = 0
        self._model, self._note, self._size = model, note, len(order)
        self._items, self._batch_size = iter(read(order)), batch_size
        self._seen: list[tuple[int, Tensor]] = []  # index and sorted probabilities

    def choose(self, rank: int, minimum: float, count: int) -> Choice:
        """Return the first `count` images whose `rank`-th probability is above `minimum`; those there are, if fewer.

        Raises:
            WcxError: there is none, or the model has fewer than `rank` classes.
        """
        indices = list(islice(self._above(rank, minimum), count))
        condition = f"p(t{subscript(rank)}) > {minimum:g}"
        if not indices:
            raise WcxError(f"none of the {self._note} has {condition}; lower p_t{rank}_min.")
        skipped = f", {self.skipped} unreadable" if self.skipped else ""
        if len(indices) < count:
            rule = f"all {len(indices)} with {condition} among the {self._note}; {count} were asked for{skipped}"
        else:
            looked = next(place for place, (index, _) in enumerate(self._seen, 1) if index == indices[-1])
            first = f"the first {count}" if count > 1 else "the first"
            rule = f"{first} with {condition}, in random order, of the {self._note}; {looked} looked at{skipped}"
        return Choice(indices, rule)

    def _above(self, rank: int, minimum: float) -> Iterator[int]:
        place = 0
        while place < len(self._seen) or self._look():
            index, probabilities = self._seen[place]
            if rank > len(probabilities):
                raise WcxError(f"the figure asks for t_{rank}, but the model has {len(probabilities)} classes.")
            if probabilities[rank - 1] > minimum:
                yield index
            place += 1

    def _look(self) -> bool:
        """Send the next batch through the network; return whether there was one."""
        batch: list[Item] = []
        while not batch:
            items = list(islice(self._items, self._batch_size))
            if not items:
                return False
            batch = [item for item in items if item.pixels is not None]
            self.skipped += len(items) - len(batch)
        device = next(self._model.parameters()).device
        with torch.inference_mode():
            logits = self._model(stacked(batch).to(device))
        ordered = logits.double().softmax(1).sort(dim=1, descending=True).values.cpu()
        self._seen += [(item.index, row) for item, row in zip(batch, ordered, strict=True)]
        return True


def by_id(ids: Sequence[str | int], names: Sequence[str]) -> Choice:
    """Return the images called `ids`: as the dataset has them, or their file names with or without suffix.

    Raises:
        WcxError: no image, or several, of that name; the message has close matches.
    """
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        path = PurePosixPath(name)
        for alias in dict.fromkeys((name, path.name, path.stem)):
            places.setdefault(alias, []).append(index)
    chosen = []
    for name in map(visible, map(str, ids)):
        indices = places.get(name, [])
        if len(indices) > 1:
            raise WcxError(
                f"id {name!r} means {len(indices)} images, among them {names[indices[0]]!r}; give one in full."
            )
        if not indices:
            close = difflib.get_close_matches(name, places, n=3) or [*names[:2]]
            raise WcxError(f"no image has the id {name!r}; did you mean one like {', '.join(map(repr, close))}?")
        chosen += indices
    return Choice(chosen, "given by id")


def subscript(number: int) -> str:
    """Return the number in subscript digits."""
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
