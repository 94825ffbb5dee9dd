"""Table 1 against the paper's, cell by cell, with the independent reproduction's differences from the paper for scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from wcx.errors import WcxError
from wcx.report.masking.cells import COLUMNS, FACTS, KEYS, table
from wcx.report.tables import Column, Table

FOLDER = Path(__file__).parent.parent / "published"
NETWORK = "vgg16"
PAPER = "table1_published.csv"
REPRODUCTION = "table1_independent_reproduction.csv"
REPRODUCTION_BELOW = "table1_independent_reproduction_below.csv"
CELL = (*(name for name in KEYS if name != "model"), "contrast")
VALUES = ("relative_probability_unmasked", "relative_probability")
_COLUMNS = (
    Column("relative_probability", "Ours.", "ours", ".3f", interval=("ci_low", "ci_high")),
    Column("published", "The paper's.", "the paper's", ".3f"),
    Column("difference", "Ours minus the paper's.", "ours − the paper's", "+.3f"),
    Column("reproduction", "Of the independent reproduction.", "the reproduction's", ".3f"),
    Column("difference_from_reproduction", "Ours minus the reproduction's.", "ours − the reproduction's", "+.3f"),
)
_SHOWN = ("model", "network", *KEYS[2:], "contrast", "n", *(column.name for column in _COLUMNS))
HEADER = (
    *KEYS, "contrast", "mask", "n", "relative_probability_unmasked", "relative_probability", "ci_low", "ci_high",
    "published_model", "published_unmasked", "published", "difference", "reproduction_model", "reproduction",
    "difference_from_reproduction", *FACTS,
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
        cells: rows of `beside` that have a published value.
        notes: what keeps them from being comparable: subset, stand-in weights, another network.
        ours: agreement with the paper.
        reproduced: the reproduction's rows beside the paper's, columns published and reproduction.
    """

    model: str
    protocol: str
    cells: pd.DataFrame
    notes: list[str]
    ours: Agreement
    reproduced: pd.DataFrame

    @property
    def title(self) -> str:
        """Network, protocol and notes."""
        notes = f" [{'; '.join(self.notes)}]" if self.notes else ""
        return f"{self.model}, {self.protocol}{notes}"

    @property
    def sentence(self) -> str:
        """The agreement in words."""
        reproduction = agreement(self.reproduced, "reproduction")
        return f"against the paper: {self.title}: {self.ours}. The reproduction against the paper: {reproduction}."


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


def beside(rows: pd.DataFrame, folder: Path = FOLDER) -> pd.DataFrame:
    """Return the rows of our Table 1 with the paper's number of each cell, the reproduction's, and the differences; or NaN."""
    frame = rows
    for name, prefix in ((PAPER, "published"), (REPRODUCTION, "reproduction")):
        names = dict(zip(VALUES, (f"{prefix}_unmasked", prefix), strict=True)) | {"model": f"{prefix}_model"}
        frame = frame.merge(read(folder, name).rename(columns=names), how="left", on=list(CELL))
    return frame.assign(
        difference=frame["relative_probability"] - frame["published"],
        difference_from_reproduction=frame["relative_probability"] - frame["reproduction"],
    )


def published_table(rows: pd.DataFrame, protocol: str) -> Table:
    """Return the cells that have a published number, ours beside it.

    Args:
        rows: from `beside`, of one protocol.
    """
    frame = rows[rows["published"].notna() | rows["reproduction"].notna()].reset_index(drop=True)
    frame = frame[[*HEADER, *(name for name in frame if name not in HEADER)]]
    title = f"Beside the paper, cell by cell ({protocol})"
    note = "The reproduction is another team's, of its own network."
    columns, layout = (*COLUMNS, *_COLUMNS), {"shown": _SHOWN, "is_shown": False}
    return table("vs_published", title, columns, frame, HEADER, note, **layout)


def comparisons(frame: pd.DataFrame, protocol: str, folder: Path = FOLDER) -> list[Comparison]:
    """Return one comparison a network.

    Args:
        frame: from `beside`, with the facts of `Opened.facts`.
    """
    reproduction = read(folder, REPRODUCTION).drop(columns="model").rename(columns={VALUES[1]: "reproduction"})
    reproduced = read(folder, PAPER).rename(columns={VALUES[1]: "published"}).merge(reproduction, on=list(CELL))
    networks = ["model", "seed", *({"recipe"} & {*frame})]
    groups = frame.dropna(subset=["published", VALUES[1]]).groupby(networks, sort=False, dropna=False)
    several = len({names[0] for names, _ in groups}) < len({(names[0], *names[2:]) for names, _ in groups})
    return [
        Comparison(
            str(model),
            protocol,
            cells,
            _notes(model, seed, cells) + [f"recipe {name}" for name in recipe if several],
            agreement(cells, VALUES[1]),
            reproduced,
        )
        for (model, seed, *recipe), cells in groups
    ]


def _notes(model: str, seed: float, cells: pd.DataFrame) -> list[str]:
    """Return what keeps a network's numbers from being comparable."""
    network = cells["published_model"].iloc[0]
    notes = {
        "subset": (cells["subset"] != "").any(),
        "stand-in weights": cells["stand_in"].any(),
        "random weights": cells["is_random"].any(),
        f"not the paper's {network}": model != network,
        f"seed {seed:g}": bool(pd.notna(seed) and seed),
    }
    return [note for note, holds in notes.items() if holds]


def agreement(cells: pd.DataFrame, column: str) -> Agreement:
    """Return how near the numbers of a column come to the column ``published``."""
    a, b = cells[column], cells["published"]
    difference = a - b
    r = a.corr(b) if min(a.nunique(), b.nunique()) > 1 else float("nan")
    pairs = differences(cells, column)
    agree = int((pairs[column] * pairs["published"] > 0).sum())
    return Agreement(
        len(cells), float(r), difference.abs().mean(), difference.mean(), difference.abs().max(), len(pairs), agree
    )


def differences(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return weighted - original of a column and of ``published``, a row a pair, with its dataset."""
    index = [name for name in (*CELL, "weights") if name != "contrast" and name in cells]
    wide = cells.set_index([*index, "contrast"])[[column, "published"]].unstack("contrast")
    if not {"original", "weighted"} <= set(wide.columns.get_level_values(1)):
        return pd.DataFrame(columns=["dataset", column, "published"])
    pairs = wide.xs("weighted", axis=1, level=1) - wide.xs("original", axis=1, level=1)
    return pairs.dropna().reset_index()


def with_differences(pairs: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return weighted against original with the paper's difference, and both contrasts' intervals, for a drawing.

    Args:
        pairs: from `paired.frame`.
        rows: from `beside`, of the same protocol.
    """
    if pairs.empty:
        return pairs
    keys = [*(name for name in CELL if name != "contrast"), "model", "weights"]
    for contrast in ("original", "weighted"):
        cells = rows.loc[rows["contrast"] == contrast, [*keys, "ci_low", "ci_high", "published"]]
        pairs = pairs.merge(cells.set_index(keys).add_suffix(f"_{contrast}").reset_index(), how="left", on=keys)
    return pairs.assign(published_difference=pairs["published_weighted"] - pairs["published_original"])
