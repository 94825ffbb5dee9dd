"""Records of the masking experiment opened for Table 1: the images above the threshold, and protocols."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from wcx.errors import WcxError
from wcx.experiments.hiding import KEPT
from wcx.experiments.masking import Settings
from wcx.records import Shard
from wcx.report import opened
from wcx.report.opened import Opened
from wcx.report.tables import Column, Table
from wcx.statistics import bootstrap

SIDE = {"positive": "higher", "negative": "lower"}  # what keeping these features should make of the probability
KEYS = ("dataset", "model", "method", "target", "baseline", "features_kept")  # of a line
FACTS = ("n_skipped", "threshold", "foils", "weights", "subset")  # behind its numbers, in every file
_BASELINES = {"blur": "Gaussian Blur", "zeros": "Zeros", "mean": "Channel-wise Mean"}
_SEPARATE = ("threshold", "mask", "fraction", "seed")  # settings that are named first, or are no part of the protocol
COLUMNS = (
    Column("target", "The class: the most probable is t_1."),
    Column("baseline", "What hidden pixels become.", words=_BASELINES),
    Column("features_kept", "Those for or against the class.", "kept", words={"positive": "Pos.", "negative": "Neg."}),
    Column("mask", "How pixels are chosen.", folded=True),
    Column("threshold", "On p_t2, above which an image is selected.", format="g", folded=True),
    *opened.COLUMNS,
)


@dataclass(frozen=True, eq=False)
class MaskedCell(Opened):
    """One cell of the masking experiment.

    Attributes:
        threshold: on p_t2, of the table.
    """

    threshold: float

    @property
    def ranks(self) -> list[str]:
        """The targets' names: t_1 ... t_k."""
        return [f"t_{i + 1}" for i in range(self.settings["targets"])]

    @cached_property
    def places(self) -> pd.DataFrame:
        """The table's lines of this cell: target, baseline, features_kept; the index is a number's column in the records."""
        names = ("target", "baseline", "features_kept")
        index = pd.MultiIndex.from_product([self.ranks, self.settings["baselines"], KEPT], names=names)
        frame = index.to_frame(index=False)
        return frame.set_axis(
            "relative_probability/" + frame["target"] + "/" + frame["baseline"] + "/" + frame["features_kept"]
        )

    @cached_property
    def selected(self) -> pd.DataFrame:
        """The rows above the threshold."""
        if self.threshold == self.settings["threshold"]:  # as the engine saw it, before rounding
            return self.rows[self.rows["above_threshold"]]
        return self.rows[self.rows["p_t2"] > self.threshold]

    @cached_property
    def below(self) -> pd.DataFrame:
        """The readable rows at the threshold or below; recorded with select=all only."""
        return self.rows.drop(self.selected.index).query("not skipped")

    @property
    def protocol(self) -> str:
        """The settings in words: threshold, mask, and what is not the default."""
        return protocol(self.settings, self.threshold)

    def shares(self, images: pd.DataFrame) -> list[float]:
        """Return for each of `places` the share of the pixels that was hidden, on average over some of the rows."""
        pairs = zip(self.places["target"], self.places["features_kept"], strict=True)
        return [images[f"masked_fraction/{target}/{kept}"].mean() for target, kept in pairs]

    def summary(self, images: pd.DataFrame, *more: object) -> pd.DataFrame:
        """Return `places` with the means over some of the rows, their intervals, and all facts.

        Args:
            images: the selected rows, or others.
            more: what to add to the key of the interval, for others than the selected.
        """
        low, high = bootstrap(images[self.places.index].to_numpy(dtype=float), self.key(*more))
        unmasked = [images[f"relative_probability_unmasked/{target}"].mean() for target in self.places["target"]]
        numbers = {"n": len(images), "relative_probability_unmasked": unmasked}
        numbers |= {"relative_probability": images[self.places.index].mean(), "ci_low": low, "ci_high": high}
        return self.places.assign(
            contrast=self.shard.key[3], **numbers, masked_fraction=self.shares(images), **self.facts()
        )

    def facts(self) -> dict[str, Any]:
        """See `Opened.facts`; and what every table of Table 1 has as columns."""
        facts = self.names | {"mask": self.settings["mask"], "n_skipped": self.n_skipped, "threshold": self.threshold}
        facts |= {"foils": self.foils, "weights": self.weights, "subset": self.subset, "protocol": self.protocol}
        return facts | super().facts()


def table(
    name: str,
    title: str,
    columns: Sequence[Column],
    rows: pd.DataFrame,
    header: Sequence[str],
    note: str,
    **layout: Any,
) -> Table:
    """Return a table beside Table 1, which is shown on request; `layout` is that of `Table`."""
    options: dict[str, Any] = {"is_main": False, "header": tuple(header), "digits": "%.6f"}
    return Table(f"table1_{name}", title, tuple(columns), rows, note, **options, **layout)


Pair = tuple[MaskedCell, MaskedCell]  # weighted and original, of one network and method


def protocol(settings: dict[str, Any], threshold: float) -> str:
    """Return settings in words: threshold, mask, and what is not the default."""
    usual = json.loads(json.dumps(asdict(Settings())))
    differing = {k: v for k, v in settings.items() if k not in _SEPARATE and v != usual.get(k)}
    share = f" ({settings['fraction']:g} of the pixels)" if settings["mask"] == "fraction" else ""
    notes = [f"p_t2 > {threshold:g}", f"mask={settings['mask']}{share}"]
    return ", ".join(notes + [f"{key}={json.dumps(value).strip(chr(34))}" for key, value in differing.items()])


def read(shards: Iterable[Shard], threshold: float | None = None, refused: list[str] | None = None) -> list[MaskedCell]:
    """Return the shards with their rows.

    Args:
        threshold: on p_t2; None is the records' own.

    Raises:
        WcxError: a threshold below the records' own, where masked passes were spent above it only; two sets of records
            that would be the same line of a table; or damaged ones.
    """
    cells: dict[tuple[object, ...], MaskedCell] = {}
    for shard in shards:
        settings = shard.parts["settings"]
        recorded = settings["threshold"]
        asked = recorded if threshold is None else threshold
        if asked < recorded and settings["select"] == "above":
            raise WcxError(
                f"threshold {asked} is below the {recorded} that {shard.path} was recorded with; "
                f"run again with threshold={asked} or select=all."
            )
        if (frame := opened.rows(shard, refused)) is None:
            continue
        cell = MaskedCell(shard, frame, asked)
        line = (*shard.key, cell.protocol, cell.network, cell.seed)
        if line in cells:
            raise WcxError(
                f"two sets of records for {' '.join(shard.key)}: {cells[line].shard.path} and {shard.path}; "
                f"a table takes one of them."
            )
        cells[line] = cell
    return list(cells.values())


def by_protocol(cells: Iterable[MaskedCell]) -> dict[str, list[MaskedCell]]:
    """Return the records of each protocol: what stands in one table, and is corrected together."""
    groups: dict[str, list[MaskedCell]] = {}
    for cell in cells:
        groups.setdefault(cell.protocol, []).append(cell)
    return groups


def pairs(cells: Sequence[MaskedCell]) -> list[Pair]:
    """Return (weighted, original) of every network and method that has both; of one protocol."""
    groups: dict[tuple[object, ...], dict[str, MaskedCell]] = {}
    for cell in cells:
        groups.setdefault((cell.network, cell.seed, cell.shard.key[2]), {})[cell.shard.key[3]] = cell
    return [
        (group["weighted"], group["original"]) for group in groups.values() if {"weighted", "original"} <= set(group)
    ]


def joined(pair: Pair) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the selected rows of both for the images that both have, in one order."""
    weighted, original = (cell.selected.set_index("index") for cell in pair)
    common = weighted.index.intersection(original.index)
    return weighted.loc[common], original.loc[common]
