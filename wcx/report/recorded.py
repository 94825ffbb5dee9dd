"""Records opened for tables, and what a table says beside the numbers; for the masking experiment, the selected images."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from wcx.errors import WcxError
from wcx.experiments.hiding import KEPT
from wcx.experiments.masking import Settings
from wcx.records import Shard
from wcx.statistics import bootstrap

INTERVALS = (
    "Intervals are 95 % percentile bootstrap over images: they cover the sampling of images for one trained network, "
    "not another training."
)
_OWN = ("threshold", "mask", "fraction", "seed")  # settings that are told apart, or not part of the protocol


@dataclass(frozen=True, eq=False)
class Opened:
    """One cell (dataset, model, method, contrast) of any experiment, with its rows.

    Attributes:
        shard: where they come from.
        rows: one an image.
    """

    shard: Shard
    rows: pd.DataFrame

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol the records were made with, as JSON values."""
        return self.shard.parts["settings"]

    @property
    def seed(self) -> int | None:
        """The seed of the network's fine-tuning, where the records name it."""
        return self.shard.labels.get("seed")

    @property
    def weights(self) -> str:
        """The network's weights, for tables, with the seed they were fine-tuned with."""
        label, seed = self.shard.labels["weights"], f", seed {self.seed}"
        return label if self.seed is None or label.endswith(seed) else label + seed

    @property
    def subset(self) -> str:
        """What is to be said of the images; "" for all official ones."""
        notes = [self.shard.labels["subset"]]
        if not self.shard.complete:
            notes.append(f"incomplete: {len(self.rows)} images so far")
        return "; ".join(note for note in notes if note)

    @property
    def foils(self) -> str:
        """The contrasts' foils, for tables."""
        return "others" if self.settings["foils"] is None else str(self.settings["foils"])

    @property
    def network(self) -> tuple[str, str, str]:
        """Dataset, model, and the hash of its weights: shards that share it can be paired image by image."""
        return (*self.shard.key[:2], self.shard.parts["weights"])

    def key(self, *more: object) -> list[object]:
        """Return the key that random numbers are seeded with."""
        return [*self.shard.key, *more]


@dataclass(frozen=True, eq=False)
class Recorded(Opened):
    """One cell of the masking experiment.

    Attributes:
        threshold: on p_t2, of the table.
    """

    threshold: float

    @property
    def ranks(self) -> list[str]:
        """The targets' names: t_1 ... t_k."""
        return [f"t_{i + 1}" for i in range(self.settings["targets"])]

    @property
    def cells(self) -> list[tuple[str, str, str]]:
        """(target, baseline, features kept) of every number."""
        return [(t, b, kept) for t in self.ranks for b in self.settings["baselines"] for kept in KEPT]

    @property
    def values(self) -> list[str]:
        """The column of each of `cells`."""
        return ["/".join(("relative_probability", *cell)) for cell in self.cells]

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
        usual = json.loads(json.dumps(asdict(Settings())))
        other = {k: v for k, v in self.settings.items() if k not in _OWN and v != usual.get(k)}
        mask = self.settings["mask"]
        share = f" ({self.settings['fraction']:g} of the pixels)" if mask == "fraction" else ""
        notes = [f"p_t2 > {self.threshold:g}", f"mask={mask}{share}"]
        return ", ".join(notes + [f"{key}={json.dumps(value).strip(chr(34))}" for key, value in other.items()])

    def summary(self, rows: pd.DataFrame, *more: object) -> list[dict[str, Any]]:
        """Return for each of `cells` the means over some of the rows, with interval: a table's line up to `masked_fraction`.

        Args:
            rows: the selected images, or others.
            more: what to add to the key of the interval, for others than the selected.
        """
        dataset, (_, model, method, contrast) = self.shard.labels["dataset"], self.shard.key
        values = rows[self.values].to_numpy(dtype=float)
        low, high = bootstrap(values, self.key(*more))
        means = rows[self.values].mean()
        return [
            {
                "dataset": dataset,
                "model": model,
                "method": method,
                "target": target,
                "baseline": baseline,
                "features_kept": kept,
                "contrast": contrast,
                "mask": self.settings["mask"],
                "n": len(rows),
                "relative_probability_unmasked": rows[f"relative_probability_unmasked/{target}"].mean(),
                "relative_probability": means.iloc[i],
                "ci_low": low[i],
                "ci_high": high[i],
                "masked_fraction": rows[f"masked_fraction/{target}/{kept}"].mean(),
            }
            for i, (target, baseline, kept) in enumerate(self.cells)
        ]

    def about(self) -> dict[str, Any]:
        """Return the last columns of every table."""
        return {
            "n_skipped": int(self.rows["skipped"].sum()),
            "threshold": self.threshold,
            "foils": self.foils,
            "weights": self.weights,
            "subset": self.subset,
        }


def rows(shard: Shard, refused: list[str] | None) -> pd.DataFrame | None:
    """Return the rows of a shard; None if they are not what was written.

    Args:
        shard: of any experiment.
        refused: where a line with the reason goes; None raises.

    Raises:
        WcxError: they are not what was written.
    """
    try:
        return shard.read()
    except WcxError as error:
        if refused is None:
            raise
        refused.append(f"left out: {' '.join(shard.key)}: {error}")
        return None


def unchecked(shards: Collection[Shard]) -> list[str]:
    """Return a line on records that cannot be compared with what was written, if there are some."""
    old = sum(shard.unchecked for shard in shards)
    if not old:
        return []
    return [
        f"unchecked: {old} of {len(shards)} sets of records, without sums of what was written (made before, or lost)"
    ]


def read(shards: Iterable[Shard], threshold: float | None = None, refused: list[str] | None = None) -> list[Recorded]:
    """Return the shards with their rows.

    Args:
        shards: of the masking experiment.
        threshold: on p_t2; None is the records' own.
        refused: where a line goes for each shard that is not what was written; None raises.

    Raises:
        WcxError: a threshold below the records' own, where masked passes were spent above it only; two sets of records
            that would be the same line of a table; or damaged ones.
    """
    opened: dict[tuple[object, ...], Recorded] = {}
    for shard in shards:
        settings = shard.parts["settings"]
        recorded = settings["threshold"]
        wanted = recorded if threshold is None else threshold
        if wanted < recorded and settings["select"] == "above":
            raise WcxError(
                f"threshold {wanted} is below the {recorded} that {shard.path} was recorded with; "
                f"run again with threshold={wanted} or select=all."
            )
        if (frame := rows(shard, refused)) is None:
            continue
        one = Recorded(shard, frame, wanted)
        name = (*shard.key, one.protocol, one.network, one.seed)
        if name in opened:
            raise WcxError(
                f"two sets of records for {' '.join(shard.key)}: {opened[name].shard.path} and {shard.path}; "
                f"a table takes one of them."
            )
        opened[name] = one
    return list(opened.values())


def by_protocol(recorded: Sequence[Recorded]) -> dict[str, list[Recorded]]:
    """Return the records of each protocol: what stands in one table, and is corrected together."""
    groups: dict[str, list[Recorded]] = {}
    for one in recorded:
        groups.setdefault(one.protocol, []).append(one)
    return groups


def pairs(recorded: Sequence[Recorded]) -> list[tuple[Recorded, Recorded]]:
    """Return (weighted, original) of every network and method that has both; of one protocol."""
    found: dict[tuple[object, ...], dict[str, Recorded]] = {}
    for one in recorded:
        found.setdefault((one.network, one.seed, one.shard.key[2]), {})[one.shard.key[3]] = one
    return [(both["weighted"], both["original"]) for both in found.values() if {"weighted", "original"} <= set(both)]
