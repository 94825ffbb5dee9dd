"""Records opened for a report: the rows of a cell, and every fact about them as data."""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wcx import methods, models, statistics
from wcx.errors import WcxError
from wcx.records import Shard
from wcx.report.tables import Column, NamedNetwork, Note

INTERVALS = (
    "Intervals are 95 % percentile bootstrap over images: they cover the sampling of images for one trained network, "
    "not another training."
)
UNCHECKED = "unchecked"
_TRANSFORMERS = ("vit_", "swin_", "maxvit", "convnext")  # torchvision's networks with attention or LayerNorm
COLUMNS = (
    Column("dataset", "Whose test images.", folded=True),
    Column("model", "The network.", folded=True),
    Column(
        "method",
        "Of the explanation.",
        words={
            "linear_approximation": "LA",
            "gradcam": "GC",
            "xgradcam": "XGC",
            "case": "CASE",
            "scout": "SCOUT",
            "rise": "RISE",
        },
    ),
    Column("contrast", "What the class is explained against.", words={"original": "ori.", "weighted": "wtd."}),
    Column("network", "The dataset, and what tells its networks from one another.", heading="dataset", folded=True),
    Column("n", "Images.", format="d"),
    Column("n_skipped", "Images that could not be read.", heading="skipped", format="d"),
    Column("foils", "The classes a contrast may be against.", folded=True),
    Column("weights", "The network's weights, with the seed of the fine-tuning.", folded=True),
    Column("subset", "What the images are not, of the official test set.", folded=True),
)
TESTS = (
    Column("p", "Two-sided, of the sign-flip test.", format="p"),
    Column("p_holm", "Corrected by Holm for the m tests of this table.", "p Holm", "p"),
    Column("m", "Tests that p is corrected for.", format="d", folded=True),
)


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
        return "others" if self.settings.get("foils") is None else str(self.settings["foils"])

    @property
    def options(self) -> str:
        """The method's options that are not at their defaults, for tables; of a transformer under LRP the composite that ran."""
        options = methods.differing(self.shard.key[2], stated(self.shard))
        return ", ".join(f"{key}={json.dumps(value).strip(chr(34))}" for key, value in options.items())

    @property
    def n_skipped(self) -> int:
        """Images that could not be read."""
        return int(self.rows["skipped"].sum())

    @property
    def network(self) -> tuple[str, str, str]:
        """Dataset, model, and the hash of its weights: shards that share it can be paired image by image."""
        return (*self.shard.key[:2], self.shard.parts["weights"])

    @property
    def names(self) -> dict[str, str]:
        """Dataset, model and method, as tables have them."""
        _, model, method, _ = self.shard.key
        return {"dataset": self.shard.labels["dataset"], "model": model, "method": method}

    def key(self, *more: object) -> list[object]:
        """Return the key that random numbers are seeded with."""
        return [*self.shard.key, *more]

    def facts(self) -> dict[str, Any]:
        """Return what a frame keeps beside the numbers: all of the network, of the images, and of the protocol."""
        labels, parts = self.shard.labels, self.shard.parts
        facts = {"seed": self.seed, "recipe": labels.get("recipe"), "accuracy": labels.get("accuracy")}
        facts |= {"stand_in": bool(labels.get("stand_in")), "is_random": labels["weights"] == "random"}
        facts |= {"images": labels["subset"], "is_complete": self.shard.complete, "is_unchecked": self.shard.unchecked}
        facts |= {"layer": parts.get("layer"), "method_version": parts.get("method_version", 1)}
        facts |= {"options": self.options}
        facts |= {"weights_hash": parts.get("weights"), "listing_hash": parts.get("dataset")}
        facts |= {"choice": self.shard.key[0], "limit": json.dumps(parts.get("limit"))}
        settings = {f"protocol_{key}": value for key, value in self.settings.items()}
        return facts | {key: json.dumps(value) if isinstance(value, list) else value for key, value in settings.items()}


def stated(shard: Shard) -> dict[str, Any]:
    """Return the options of a shard's method; LRP's composite is `UNCHECKED` where another than the stated one may have run.

    Records of a time state the default composite, which has no rules for transformers, where attnlrp was taken; their manifests
    do not state the method's options, as later ones do.
    """
    options: dict[str, Any] = dict(shard.parts.get("method", {}))
    default = inspect.signature(methods.get("lrp")).parameters["composite"].default
    if shard.key[2] != "lrp" or options.get("composite", default) != default or _is_convolutional(shard.key[1]):
        return options
    try:
        is_settled = "method" in json.loads((shard.path / "manifest.json").read_bytes())
    except (OSError, ValueError):
        is_settled = False
    return options if is_settled else options | {"composite": UNCHECKED}


def _is_convolutional(network: str) -> bool:
    """Return whether a network's name tells that it has no attention and no LayerNorm."""
    return network in models.names() and not network.startswith(_TRANSFORMERS)


def rows(shard: Shard, refused: list[str] | None) -> pd.DataFrame | None:
    """Return the rows of a shard; None if they are not what was written.

    Args:
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
    """Return lines on records that cannot be compared with what was written, or do not tell what was computed."""
    old = sum(shard.unchecked for shard in shards)
    without = "sets of records, without sums of what was written (made before, or lost)"
    unstated = sum(stated(shard).get("composite") == UNCHECKED for shard in shards)
    rules = (
        f"lrp, composite {UNCHECKED}: {unstated} of {len(shards)} sets of records were made before records told which rules a "
        "transformer takes in the place of epsilon_plus; run again to have them told"
    )
    return [f"unchecked: {old} of {len(shards)} {without}"] * bool(old) + [rules] * bool(unstated)


def with_networks(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with the column `network`: the dataset's name and, where several networks share it, seed or weights."""
    groups = frame.groupby(["dataset", "model"], dropna=False)
    is_shared = groups["weights"].transform("nunique") > 1
    is_seeded = groups["seed"].transform("nunique") == groups["weights"].transform("nunique")
    seeds = pd.to_numeric(frame["seed"]).map("seed {:g}".format)
    names = frame["dataset"] + ", " + seeds.where(is_seeded, frame["weights"])
    return frame.assign(network=frame["dataset"].where(~is_shared, names))


def framed(rows: Sequence[Mapping[str, Any]] | pd.DataFrame, header: Sequence[str]) -> pd.DataFrame:
    """Return rows with the column of `with_networks`, the header's columns first; of no row the header alone."""
    frame = with_networks(pd.DataFrame(rows)) if len(rows) else pd.DataFrame(columns=list(header))
    return frame[[*header, *(name for name in frame if name not in header)]]


def corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with `p_holm` and `m` of its column `p`: its rows are one family of tests; NaN is no test."""
    return frame.assign(p_holm=statistics.holm(frame["p"].to_numpy(dtype=float)), m=int(frame["p"].notna().sum()))


def networks(frame: pd.DataFrame, name: str = "network") -> tuple[NamedNetwork, ...]:
    """Return what is to be said of each network in a frame.

    Args:
        frame: with the facts of `Opened.facts`, and the column of `with_networks`.
        name: the column that names a network.
    """
    return tuple(
        NamedNetwork(
            str(cells[name].iloc[0]),
            "/".join(map(str, dict.fromkeys(cells["n"]))),
            tuple(_notes(cells)),
            dataset,
            model,
        )
        for (dataset, model, _), cells in frame.groupby(["dataset", "model", "weights"], sort=False)
    )


def _notes(cells: pd.DataFrame) -> list[Note]:
    """Return what is to be said of one network's numbers: weights, subset, skipped images, foils."""
    first, skipped = cells.iloc[0], int(cells["n_skipped"].max())
    notes = [Note(first["weights"], bool(first["stand_in"] or first["is_random"]))]
    notes += [Note(subset, is_caution=True) for subset in dict.fromkeys(cells["subset"]) if subset]
    notes += (
        [Note(f"{skipped} unreadable image{'s' if skipped > 1 else ''} skipped", is_caution=True)] if skipped else []
    )
    given = cells[["method", "options"]].drop_duplicates().query("options != ''")
    notes += [Note(f"{method}: {options}") for method, options in given.itertuples(index=False)]
    return notes + [Note(f"foils: {foils}") for foils in dict.fromkeys(cells["foils"]) if foils != "others"]


def same_images(table: pd.DataFrame) -> Iterator[tuple[np.ndarray, list[Any]]]:
    """Yield the columns of a table that are of the same images, with those images as a mask."""
    groups: dict[bytes, list[Any]] = {}
    present = table.notna().to_numpy()
    for place, name in enumerate(table.columns):
        groups.setdefault(present[:, place].tobytes(), []).append(name)
    for packed, columns in groups.items():
        mask = np.frombuffer(packed, dtype=bool)
        if mask.any():
            yield mask, columns
