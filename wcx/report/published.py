"""Table 1 against the paper's, cell by cell, with the independent reproduction's differences from the paper for scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from wcx.errors import WcxError

FOLDER = Path(__file__).parent / "published"
PAPER = "table1_published.csv"
REPRODUCTION = "table1_independent_reproduction.csv"
REPRODUCTION_BELOW = "table1_independent_reproduction_below.csv"
CELL = ("dataset", "method", "target", "baseline", "features_kept", "contrast")
VALUES = ("relative_probability_unmasked", "relative_probability")
HEADER = (
    "dataset", "model", "method", "target", "baseline", "features_kept", "contrast", "mask", "n",
    "relative_probability_unmasked", "relative_probability", "ci_low", "ci_high", "published_model", "published_unmasked",
    "published", "difference", "reproduction_model", "reproduction", "difference_from_reproduction", "n_skipped", "threshold",
    "foils", "weights", "subset",
)  # fmt: skip


class Agreement(NamedTuple):
    """How near numbers come to the paper's.

    Attributes:
        cells: compared.
        r: Pearson's correlation over the cells (NaN where it is not defined).
        mean: absolute difference, on average.
        signed: difference, on average.
        largest: absolute difference.
        pairs: (weighted, original) pairs.
        agree: of these, pairs where weighted - original has the paper's sign.
    """

    cells: int
    r: float
    mean: float
    signed: float
    largest: float
    pairs: int
    agree: int

    def __str__(self) -> str:
        return (
            f"r = {self.r:.3f} over {self.cells} cells, difference {self.mean:.3f} on average (signed {self.signed:+.3f}), "
            f"{self.largest:.3f} at most; weighted - original has the paper's sign in {self.agree} of {self.pairs} pairs"
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """One network's cells (of one protocol and seed) beside the paper's.

    Attributes:
        model: its name.
        protocol: in words.
        cells: rows of `table` that have a published value.
        notes: what keeps them from being comparable: subset, stand-in weights, another network.
        ours: agreement with the paper.
        theirs: the reproduction's rows beside the paper's, columns published and reproduction.
    """

    model: str
    protocol: str
    cells: pd.DataFrame
    notes: list[str]
    ours: Agreement
    theirs: pd.DataFrame

    @property
    def title(self) -> str:
        """Network, protocol and notes."""
        notes = f" [{'; '.join(self.notes)}]" if self.notes else ""
        return f"{self.model}, {self.protocol}{notes}"

    @property
    def sentence(self) -> str:
        """The agreement in words."""
        theirs = agreement(self.theirs, "reproduction")
        return f"against the paper: {self.title}: {self.ours}. The reproduction against the paper: {theirs}."


def read(folder: Path, name: str) -> pd.DataFrame:
    """Return one file of published numbers.

    Raises:
        WcxError: it is not there.
    """
    if not (folder / name).is_file():
        raise WcxError(
            f"published numbers not found: {folder / name}; they come with the repository, in results/published."
        )
    return pd.read_csv(folder / name)


def table(ours: pd.DataFrame, folder: Path = FOLDER) -> pd.DataFrame:
    """Return the rows of our Table 1 that have a published number, beside it: columns `HEADER` (and those of `ours`)."""
    frame = ours
    for name, prefix in ((PAPER, "published"), (REPRODUCTION, "reproduction")):
        names = dict(zip(VALUES, (f"{prefix}_unmasked", prefix), strict=True)) | {"model": f"{prefix}_model"}
        frame = frame.merge(read(folder, name).rename(columns=names), how="left", on=list(CELL))
    frame = frame[frame["published"].notna() | frame["reproduction"].notna()].reset_index(drop=True)
    frame["difference"] = frame["relative_probability"] - frame["published"]
    frame["difference_from_reproduction"] = frame["relative_probability"] - frame["reproduction"]
    return frame[[*HEADER, *(name for name in ours if name not in HEADER and name != "masked_fraction")]]


def comparisons(frame: pd.DataFrame, protocol: str, folder: Path = FOLDER) -> list[Comparison]:
    """Return one comparison a network.

    Args:
        frame: from `table`, with the columns seed and stand_in.
        protocol: in words.
        folder: of the published numbers.
    """
    names = [name for name in CELL if name != "dataset"]
    paper, reproduction = read(folder, PAPER), read(folder, REPRODUCTION)
    theirs = paper.rename(columns={"relative_probability": "published"}).merge(
        reproduction.rename(columns={"relative_probability": "reproduction"}), on=["dataset", *names]
    )
    made = []
    for (model, seed), cells in frame.dropna(subset="published").groupby(["model", "seed"], sort=False, dropna=False):
        notes = ["subset"] if (cells["subset"] != "").any() else []
        notes += ["stand-in weights"] if cells["stand_in"].any() else []
        notes += ["random weights"] if (cells["weights"] == "random").any() else []
        network = cells["published_model"].iloc[0]
        notes += [f"not the paper's {network}"] if model != network else []
        notes += [f"seed {seed:g}"] if pd.notna(seed) and seed else []
        made.append(Comparison(model, protocol, cells, notes, agreement(cells, "relative_probability"), theirs))
    return made


def agreement(cells: pd.DataFrame, column: str) -> Agreement:
    """Return how near the numbers of a column come to the column ``published``."""
    a, b = cells[column], cells["published"]
    difference = a - b
    r = a.corr(b) if min(a.nunique(), b.nunique()) > 1 else float("nan")
    both = differences(cells, column)
    agree = int((both[column] * both["published"] > 0).sum())
    return Agreement(
        len(cells), float(r), difference.abs().mean(), difference.mean(), difference.abs().max(), len(both), agree
    )


def differences(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return weighted - original of a column and of ``published``, a row a pair, with its dataset."""
    index = [name for name in CELL if name != "contrast"] + [name for name in ("weights",) if name in cells]
    wide = cells.set_index([*index, "contrast"])[[column, "published"]].unstack("contrast")
    if not {"original", "weighted"} <= set(wide.columns.get_level_values(1)):
        return pd.DataFrame(columns=["dataset", column, "published"])
    both = wide.xs("weighted", axis=1, level=1) - wide.xs("original", axis=1, level=1)
    return both.dropna().reset_index()
