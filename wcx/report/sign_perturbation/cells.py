"""Records of the sign_perturbation experiment opened for Fig. 3: changes image by image, panels, and one figure a protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import pandas as pd

from wcx import statistics
from wcx.errors import WcxError
from wcx.records import Shard
from wcx.report import opened
from wcx.report.opened import Opened

COLUMNS = {"logit": "y_t", "probability": "p_t", "accuracy": "correct"}  # quantity -> its column in the records
LOGIT, PROBABILITY, ACCURACY = range(3)  # places in the last axis of all arrays here
_ORDER = ("original", "mean", "max", "weighted", "probability")  # the paper's four, and what is compared with weighted


@dataclass(frozen=True, eq=False)
class PerturbedCell(Opened):
    """One contrast of one network: the `rows` are those of the images that could be read, by the dataset's index.

    Attributes:
        skipped: images that could not be read.
    """

    skipped: int = 0

    @property
    def iterations(self) -> tuple[int, ...]:
        """The iteration counts, in their order."""
        return tuple(self.settings["iterations"])

    @cached_property
    def changes(self) -> np.ndarray:
        """After - before, float64 (n, iterations, 3): of y_t, of p_t, and of whether the top class is the label."""
        rows = self.rows
        after = [[rows[f"{column}/{count}"] for column in COLUMNS.values()] for count in self.iterations]
        before = [rows[column] for column in COLUMNS.values()]
        return (np.array(after, dtype=np.float64) - np.array(before, dtype=np.float64)).transpose(2, 0, 1)

    def zero_gradients(self) -> dict[int, int]:
        """Return iteration count -> images on which the contrast's gradient was exactly zero at some step."""
        return {count: int(self.rows[f"zero_gradient/{count}"].sum()) for count in self.iterations}

    @property
    def n_skipped(self) -> int:
        """Images that could not be read."""
        return self.skipped

    def facts(self) -> dict[str, object]:
        """See `Opened.facts`; and what every table of Fig. 3 has as columns."""
        notes = [self.subset, "" if self.foils == "others" else f"foils: {self.foils}"]
        facts = self.names | {"epsilon": self.settings["epsilon"], "target_rule": self.settings["target_rule"]}
        facts |= {"precision": self.settings["precision"], "weights": self.weights}
        facts |= {"subset": "; ".join(note for note in notes if note), "n_skipped": self.n_skipped, "foils": self.foils}
        return facts | super().facts()


@dataclass(frozen=True, eq=False)
class NetworkPanel:
    """One network under one protocol and method.

    Attributes:
        cells: by contrast, the paper's order first.
    """

    cells: Mapping[str, PerturbedCell]

    @property
    def first(self) -> PerturbedCell:
        """Any of its cells, for what they share."""
        return next(iter(self.cells.values()))

    @property
    def model(self) -> str:
        """The network's name."""
        return self.first.shard.key[1]

    @property
    def iterations(self) -> list[int]:
        """The iteration counts of any of its contrasts."""
        return sorted(set().union(*(cell.iterations for cell in self.cells.values())))

    @cached_property
    def resampled(self) -> dict[str, np.ndarray]:
        """Means of `PerturbedCell.changes` over bootstrap resamples, by contrast, (resamples, iterations, 3).

        Contrasts of the same images share their resamples: they are paired.
        """
        means_of: dict[str, np.ndarray] = {}
        images = {contrast: tuple(cell.rows.index) for contrast, cell in self.cells.items()}
        for shared in dict.fromkeys(images.values()):
            names = [contrast for contrast, indices in images.items() if indices == shared]
            changes = np.concatenate([self.cells[name].changes for name in names], axis=1)
            ends = np.cumsum([len(self.cells[name].iterations) for name in names])[:-1]
            means = statistics.resampled(changes, self.first.key()[:3])
            means_of |= dict(zip(names, np.split(means, ends, axis=1), strict=True))
        return means_of

    def interval(self, contrast: str) -> tuple[np.ndarray, np.ndarray]:
        """Return low and high ends of the 95 % intervals of a contrast's mean changes, (iterations, 3) each."""
        low, high = np.quantile(self.resampled[contrast], [0.025, 0.975], axis=0)
        return low, high

    def differences(self, contrast: str, rival: str) -> tuple[int, list[int], np.ndarray, np.ndarray]:
        """Return the first contrast's changes minus the other's, paired over the images and iteration counts both have.

        Returns:
            n; the iteration counts; the mean differences (iterations, 3); and those of the resamples (resamples, ...).
        """
        pair = [self.cells[contrast], self.cells[rival]]
        counts = [count for count in pair[0].iterations if count in pair[1].iterations]
        places = [list(map(cell.iterations.index, counts)) for cell in pair]
        common = pair[0].rows.index.intersection(pair[1].rows.index)
        if not len(common):
            return 0, [], np.empty((0, 3)), np.empty((0, 0, 3))
        a, b = (
            cell.changes[cell.rows.index.get_indexer(common)][:, columns]
            for cell, columns in zip(pair, places, strict=True)
        )
        if len(common) == len(pair[0].rows) == len(pair[1].rows):  # whose resamples are drawn already
            means = statistics.total(self.resampled[contrast][:, places[0]], -self.resampled[rival][:, places[1]])
        else:
            means = statistics.resampled(a - b, self.first.key()[:3])
        return len(common), counts, (a - b).mean(0), means


@dataclass(frozen=True, eq=False)
class Chart:
    """What one figure shows: the networks on one dataset, under one method and protocol.

    Attributes:
        name: what tells it from the other parts, for file names; "" if there are none.
        panels: one a network.
    """

    name: str
    panels: Sequence[NetworkPanel]

    @property
    def settings(self) -> Mapping[str, object]:
        """The protocol, as JSON values."""
        return self.panels[0].first.settings

    @property
    def dataset(self) -> str:
        """The dataset's name in tables."""
        return self.panels[0].first.shard.labels["dataset"]

    @property
    def title(self) -> str:
        """Dataset, method and protocol in words."""
        rule = {"label": "t: the label", "predicted": "t: the predicted class"}[str(self.settings["target_rule"])]
        method = self.panels[0].first.shard.key[2]
        terms = [f"{self.dataset}, {method}", f"epsilon {self.settings['epsilon']:g}", rule, self.settings["precision"]]
        foils = self.panels[0].first.foils
        return ", ".join(map(str, terms)) + ("" if foils == "others" else f", foils: {foils}")


def read(shards: Iterable[Shard], refused: list[str] | None = None) -> list[PerturbedCell]:
    """Return the shards with their rows; one in which no image could be read is left out.

    Raises:
        WcxError: two sets of records that would be the same line of a table; or damaged ones.
    """
    cells: dict[tuple[object, ...], PerturbedCell] = {}
    for shard in shards:
        if (rows := opened.rows(shard, refused)) is None:
            continue
        readable = rows[~rows["skipped"].astype(bool)].set_index("index")
        cell = PerturbedCell(shard, readable, int(rows["skipped"].sum()))
        line = (*shard.key, cell.network, cell.seed, protocol(cell.shard))
        if line in cells:
            raise WcxError(
                f"two sets of records for {' '.join(shard.key)}: {cells[line].shard.path} and {shard.path}; "
                f"a figure takes one of them."
            )
        cells[line] = cell
    return [cell for cell in cells.values() if len(cell.rows)]


def charts(cells: Sequence[PerturbedCell]) -> list[Chart]:
    """Return what each figure shows: the most complete first (networks, then contrasts, then images)."""
    groups: dict[tuple[str, ...], dict[object, dict[str, PerturbedCell]]] = {}
    for cell in cells:
        dataset, _, method, contrast = cell.shard.key
        group = groups.setdefault((dataset, method, protocol(cell.shard)), {})
        group.setdefault((cell.network, cell.seed), {})[contrast] = cell
    names = _names(list(groups))
    figures = []
    for key, networks in groups.items():
        panels = []
        for members in networks.values():
            order = dict.fromkeys([*(contrast for contrast in _ORDER if contrast in members), *members])
            panels.append(NetworkPanel({contrast: members[contrast] for contrast in order}))
        figures.append(Chart(names[key], panels))

    def size(chart: Chart) -> tuple[int, int, int]:
        drawn = list(chain.from_iterable(panel.cells.values() for panel in chart.panels))
        return len(chart.panels), len(drawn), sum(len(cell.rows) for cell in drawn)

    return sorted(figures, key=size, reverse=True)


def protocol(shard: Shard) -> str:
    """Return the settings but the iteration counts, which stand side by side in a figure, as text."""
    return json.dumps(
        {key: value for key, value in shard.parts["settings"].items() if key != "iterations"}, sort_keys=True
    )


def _names(groups: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Return for each (dataset, method, protocol) a name made of what differs between them: "eps0.003-bfloat16"."""
    facts = [{"dataset": dataset, "method": method} | json.loads(settings) for dataset, method, settings in groups]
    frame = pd.DataFrame(facts).map(json.dumps)
    differing = [str(key) for key in frame if frame[key].nunique() > 1]

    def word(key: str, value: object) -> str:
        text = f"eps{value:g}" if key == "epsilon" else value if isinstance(value, str) else f"{key}{json.dumps(value)}"
        return "".join(letter if letter.isalnum() or letter in "._" else "_" for letter in str(text))

    names = ["-".join(word(key, settings.get(key)) for key in differing) for settings in facts]
    return dict(zip(groups, names, strict=True))
