"""Score any function that explains against the known answers of the experiment twins, without a command line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from wcx.datasets.twins import Twins
from wcx.errors import WcxError
from wcx.experiments import images
from wcx.experiments._questions import TwinQuestion
from wcx.experiments._scoring import CellLayout, Scoring
from wcx.experiments.base import Cell, Row, Subject, at_pixels
from wcx.experiments.images import Item
from wcx.experiments.twins import PartTwins, Settings
from wcx.models import precision
from wcx.report.twins.numbers import intervals

Explaining = Callable[[nn.Module, Tensor, Tensor, Tensor | None], Tensor]
CHUNK = 64  # images


def benchmark(
    function: Explaining,
    model: nn.Module,
    dataset: Twins,
    *,
    limit: int | None = None,
    seed: int = 0,
    chance: int = 1000,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Return how often a function's maps show the part by which the network tells a class from its foils.

    Args:
        function: (model, images (B, channels, H, W) in [0, 1], targets (B,), foils (B, K) class ids, or None for all other
            classes) -> maps (B, h, w), up-sampled here, or (B, channels, H, W), summed over channels; signed, larger where the
            target is favoured.
        model: images in [0, 1] (N, channels, H, W) -> logits (N, C), such as `wcx.models.load(...).model`.
        dataset: with twins: `wcx.datasets.load("parts", ".", families="factorial")`, or funnybirds16.
        limit: the first so many images of a seeded permutation.
        seed: of that permutation and of the random maps.
        chance: random maps an image, for the reading ``chance``; 0: none.
        batch_size: images a call.

    Returns:
        A row a score, question and reading (see `wcx.experiments.twins`): n images, mean, ci_low and ci_high of a 95 %
        bootstrap over images.

    Raises:
        WcxError: no function, a dataset without twins, a network of other classes; what is returned is no maps, or has NaN.
    """
    if not callable(function):
        raise WcxError(f"function is {function!r}; give one of (model, images, targets, foils) that returns maps.")
    if limit is not None and limit < 1:
        raise WcxError(f"limit = {limit}: give a whole number of at least 1, or None.")
    if not isinstance(dataset, Twins) or not any(dataset.swaps(i) for i in range(len(dataset))):
        raise WcxError(
            f"dataset {dataset.name} has no twins, so no part's effect is known; give parts with families='factorial', or "
            f"funnybirds16."
        )
    experiment = _Benchmark(function, model, Settings(chance=chance, seed=seed), batch_size, dataset.class_names)
    indices = images.order(len(dataset), limit, seed)
    records: list[Row] = []
    with tqdm(total=len(indices), desc="benchmark", unit="image") as progress:
        for chunk in images.cut(indices, CHUNK):
            records += experiment.rows(list(images.read(dataset, chunk, needs_twins=True)))[experiment.cells[0]]
            progress.update(len(chunk))
    table = pd.DataFrame(records).filter(regex=".+/.+/.+").dropna(axis=1, how="all").astype(float)
    low, high = intervals(table, [dataset.name, "benchmark"])
    names = [dict(zip(("score", "question", "reading"), name.split("/"), strict=True)) for name in table]
    numbers = {"n": table.count(), "mean": table.mean(), "ci_low": low, "ci_high": high}
    return pd.DataFrame(names).assign(**{column: values.to_numpy() for column, values in numbers.items()})


class _Benchmark(PartTwins):
    """The experiment twins for maps of a function that is given target and foils."""

    def __init__(
        self,
        function: Explaining,
        model: nn.Module,
        settings: Settings,
        batch_size: int,
        class_names: Sequence[str],
    ) -> None:
        super().__init__(Subject(model, None, {}, batch_size=batch_size), [Cell("function", "weighted")], settings)
        self._function, self._classes = function, class_names

    def _batch(self, items: Sequence[Item]) -> Iterator[dict[str, Tensor]]:
        """See `PartTwins._batch`: a map a question."""
        for image in self.answered(items):
            if (got := image.logits.shape[1]) < (classes := len(self._classes)):
                raise WcxError(f"the model has {got} classes and the dataset {classes}; give a network trained on it.")
            maps = self._maps(image.pixels, image.questions)
            flat = at_pixels(maps[None], image.pixels.shape[-2:], self.settings.align_corners)[0].flatten(1).cpu()
            logits = image.logits[:1]
            v, index = self._cotangents(logits, [image])
            grid = tuple(maps.shape[-2:])
            rows = np.arange(len(image.questions))[None]  # each question has a map of its own
            yield Scoring(
                image, CellLayout([0], [0], [grid]), flat[None], rows, v[index[0, 0], 0].double(), self._random
            ).columns()

    def _maps(self, pixels: Tensor, asked: Sequence[TwinQuestion]) -> Tensor:
        """Return the function's maps of an image's questions, (Q, h, w) or (Q, channels, H, W)."""
        by_count: dict[int, list[int]] = defaultdict(list)
        for place, question in enumerate(asked):
            by_count[len(question.foils)].append(place)
        maps: dict[int, Tensor] = {}
        for count, places in by_count.items():
            targets = torch.tensor([asked[place].target for place in places])
            foils = torch.tensor([asked[place].foils for place in places]) if count else None
            batch = pixels.expand(len(places), *pixels.shape).to(self.subject.device)
            with torch.enable_grad(), precision.tf32(allowed=False):
                returned = self._function(self.subject.model, batch, targets, foils)
            if not isinstance(returned, (Tensor, np.ndarray)):
                raise WcxError(f"the function returned {returned!r:.60}; expected a tensor of maps, one an image.")
            explained = torch.as_tensor(returned).detach()
            if len(explained) != len(places) or explained.ndim not in (3, 4):
                raise WcxError(
                    f"the function returned maps {tuple(explained.shape)}; expected ({len(places)}, h, w) or "
                    f"({len(places)}, channels, H, W), one map an image."
                )
            if not explained.isfinite().all():
                raise WcxError(
                    "the function returned maps that hold NaN or infinite values; no part can be read off them."
                )
            maps |= dict(zip(places, explained, strict=True))
        return torch.stack([maps[place] for place in range(len(asked))])
