"""Fig. 3 from the records of the sign_perturbation experiment: every file of it, and the lines for the screen.

One figure a dataset, method and protocol (epsilon, target rule, precision, foils; iteration counts stand side by side in one):
fig3.png and .pdf show the one with the most networks, contrasts and images; the others are named by what differs
(fig3-eps0.001.png). The tables hold them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from wcx import records
from wcx.records import Shard
from wcx.report import fig3_cells, fig3_plot, fig3_tables
from wcx.report.fig3_cells import Part
from wcx.report.fig3_tables import CORRELATION, HEADER, PAIRED
from wcx.report.recorded import INTERVALS, unchecked

__all__ = ["CORRELATION", "HEADER", "PAIRED", "table", "text", "write_all"]

_TABLES = {"": fig3_tables.changes, "_paired": fig3_tables.paired, "_correlation": fig3_tables.correlations}


def table(shards: Sequence[Shard]) -> pd.DataFrame:
    """Return the rows of fig3.csv: columns `HEADER`, one row a (dataset, model, method, contrast, epsilon, iterations).

    Raises:
        WcxError: two sets of records that would be the same line.
    """
    made = fig3_cells.parts(fig3_cells.read(shards))
    return _joined([fig3_tables.changes(part) for part in made]) if made else pd.DataFrame(columns=list(HEADER))


def text(table: pd.DataFrame) -> str:
    """Return the table for a screen."""
    shown = ["dataset", "model", "method", "contrast", "epsilon", "iterations", "n"]
    shown += ["delta_logit", "delta_probability", "delta_accuracy", "weights", "subset"]
    return table[shown].to_string(index=False, float_format="{:.4g}".format)


def write_all(shards: Sequence[Shard], results_dir: Path, refused: list[str] | None = None) -> list[str]:
    """Write fig3.csv, fig3_paired.csv, fig3_correlation.csv, and the figures as .png and .pdf.

    Args:
        shards: of the sign_perturbation experiment, with some rows each.
        results_dir: where the files go; figures of earlier records there are removed.
        refused: where a line goes for each shard that is not what was written; None raises.

    Returns:
        lines for the screen: the tables, what was found and counted, the files.

    Raises:
        WcxError: as `table`.
    """
    results_dir.mkdir(parents=True, exist_ok=True)
    cells = fig3_cells.read(shards, refused)
    parts = fig3_cells.parts(cells)
    if not parts:
        return ["no records of an image that could be read: no Fig. 3"]
    frames = {name: [build(part) for part in parts] for name, build in _TABLES.items()}
    files = []
    for name, tables in frames.items():
        files.append(results_dir / f"fig3{name}.csv")
        records.write(files[-1], _joined(tables).to_csv(index=False, float_format="%.6g"))
    for old in [*results_dir.glob("fig3.p*"), *results_dir.glob("fig3-*.p*")]:
        old.unlink()
    for i, part in enumerate(parts):
        stem = results_dir / ("fig3" if i == 0 else f"fig3-{part.name}")
        files += fig3_plot.write(part, _caption(part), stem)
    lines = [
        line
        for part, *tables in zip(parts, *frames.values(), strict=True)
        for line in _lines(part, dict(zip(_TABLES, tables, strict=True)))
    ]
    return [*lines, *unchecked([cell.shard for cell in cells]), "Fig. 3: " + ", ".join(map(str, files))]


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([one for one in tables if len(one)] or tables[:1], ignore_index=True)


def _lines(part: Part, tables: dict[str, pd.DataFrame]) -> list[str]:
    blocks = [f"\n{part.title}", *_notes(part), _changes(tables[""])]
    if len(tables["_paired"]):
        blocks += [_paired(tables["_paired"]), *_findings(tables["_paired"])]
    return [*blocks, _correlation(tables["_correlation"]), *_zero_gradients(part)]


def _changes(frame: pd.DataFrame) -> str:
    """Return the mean changes for a screen: a line a network and contrast, a block of columns an iteration count."""
    names = {"delta_probability": "p_t", "delta_accuracy": "accuracy", "delta_logit": "y_t"}
    keys = ["weights", "model", "contrast"]
    wide = frame.rename(columns=names).pivot(index=keys, columns="iterations", values=list(names.values()))
    wide = wide.reindex(pd.MultiIndex.from_frame(frame[keys].drop_duplicates()))
    wide = wide.swaplevel(axis=1)[[(n, name) for n in sorted(set(frame["iterations"])) for name in names.values()]]
    several = frame.groupby("model")["weights"].nunique().max() > 1
    wide = wide if several else wide.droplevel("weights")
    return "mean changes after so many iterations\n" + wide.to_string(float_format=lambda value: f"{value:+.4f}")


def _paired(frame: pd.DataFrame) -> str:
    """Return weighted minus the others at the most iterations, for a screen."""
    most = frame[frame["iterations"] == frame["iterations"].max()]
    shown = pd.DataFrame({"network": most["model"], "minus": most["minus"], "n": most["n"]})
    for name, title in (("probability", "p_t"), ("accuracy", "accuracy"), ("logit", "y_t")):
        ends = most[[f"difference_{name}{end}" for end in ("", "_ci_low", "_ci_high")]].itertuples(index=False)
        shown[title] = [f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" for mean, low, high in ends]
    head = f"weighted minus each other contrast, paired over images, {most['iterations'].iloc[0]} iterations"
    return f"{head} (all counts: fig3_paired.csv)\n{shown.to_string(index=False)}"


def _findings(frame: pd.DataFrame) -> list[str]:
    """Return in how many conditions weighted is ahead of each other contrast, a sentence each."""
    found = []
    for other, rows in frame.groupby("minus", sort=False):
        counts = []
        for name, title in (("probability", "p_t"), ("accuracy", "accuracy"), ("logit", "y_t")):
            ahead, behind = rows[f"difference_{name}"] > 0, rows[f"difference_{name}"] < 0
            sure = (rows[f"difference_{name}_ci_low"] > 0, rows[f"difference_{name}_ci_high"] < 0)
            counts.append(
                f"{title} {ahead.sum()} ahead ({sure[0].sum()} surely), {behind.sum()} behind ({sure[1].sum()} surely)"
            )
        found.append(f"weighted against {other} in {len(rows)} conditions: {'; '.join(counts)}")
    return [*found, "surely: the interval leaves out 0, each condition by itself"]


def _correlation(frame: pd.DataFrame) -> str:
    """Return the correlations for a screen."""

    def text(row: pd.Series, name: str) -> str:
        if pd.isna(row[f"r_{name}"]):
            return "-"
        return f"{row[f'r_{name}']:+.3f} [{row[f'r_{name}_ci_low']:+.3f}, {row[f'r_{name}_ci_high']:+.3f}]"

    rows = [
        (row["model"], row["conditions"], text(row, "probability"), text(row, "logit")) for _, row in frame.iterrows()
    ]
    shown = pd.DataFrame(rows, columns=["network", "conditions", "with p_t", "with y_t"])
    head = (
        "correlation over the conditions (contrast x iterations) of the change of accuracy with that of p_t and of y_t"
    )
    note = "\n-: not defined, one of the two is the same in every condition" if "-" in shown.to_numpy() else ""
    return f"{head}\n{shown.to_string(index=False)}{note}"


def _zero_gradients(part: Part) -> list[str]:
    """Return a line for each cell that met a gradient of exactly zero."""
    lines = []
    for panel in part.panels:
        for contrast, cell in panel.cells.items():
            counts = cell.zero_gradients()
            if any(counts.values()):
                images, steps = (", ".join(map(str, numbers)) for numbers in (counts.values(), counts))
                lines.append(
                    f"{panel.model}, {contrast}: gradient exactly zero at some step for {images} of {len(cell.rows)} images "
                    f"({steps} iterations)"
                )
    return lines


def _notes(part: Part) -> list[str]:
    """Return what is to be said of images and weights: first what is true of all networks, then what differs."""
    said: list[tuple[str, list[str]]] = []
    for panel in part.panels:
        cells = panel.cells.values()
        skipped = max(cell.skipped for cell in cells)
        notes = [
            f"n = {'/'.join(map(str, dict.fromkeys(len(cell.rows) for cell in cells)))} images",
            panel.first.weights,
        ]
        notes += dict.fromkeys(str(cell.about()["subset"]) for cell in cells)
        notes += [f"skipped as unreadable: {skipped}"] if skipped else []
        said.append((panel.model, [note for note in notes if note]))
    shared = [note for note in said[0][1] if all(note in notes for _, notes in said)]
    groups: dict[str, list[str]] = {}
    for model, notes in said:
        groups.setdefault("; ".join(note for note in notes if note not in shared), []).append(model)
    own = [f"{', '.join(models)}: {note}" for note, models in groups.items() if note]
    return [line for line in ("; ".join(shared), ". ".join(own)) if line]


def _caption(part: Part) -> list[str]:
    what = "Changes under gradient-sign perturbation, a group of bars a contrast, a colour an iteration count. Lines: intervals."
    return [f"{part.title}. {what}", *_notes(part), *_zero_gradients(part), INTERVALS]
