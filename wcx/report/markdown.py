"""table1.md: Table 1 with intervals, masked shares and tests, for reading."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from wcx.report import layout
from wcx.report.layout import Grid, Part
from wcx.report.published import Comparison
from wcx.report.recorded import INTERVALS

_SIGN = {"positive": "+", "negative": "−"}
_LEGEND = (
    "Relative probability of t_i, `e^{y_ti} / (e^{y_t1} + e^{y_t2})`, on average over the n images selected; t_1 and t_2 are the "
    "most and the second most probable class. + / −: only positive / negative features are kept, which should raise / lower "
    "it; bold is the better. Masked: share of the pixels hidden, the same for all baselines: who hides more, changes more."
)


def document(parts: Sequence[Part], comparisons: Sequence[Comparison]) -> str:
    """Return the whole document: a section a protocol, and the comparison with the paper."""
    blocks = ["# Table 1", _LEGEND, INTERVALS]
    for part in parts:
        for grid in layout.grids(part.frames[""], part.name):
            blocks += [f"## {_text(grid.title)}", _networks(grid), _grid(grid)]
        blocks += [_text(sentence) + "." for sentence in layout.findings(part)]
        blocks += _tests(part.frames["paired"], part.name)
        blocks += _localisation(part.frames["localisation"], part.name)
        blocks += _strata(part.frames["strata"], part.name)
        blocks += _seeds(part.frames["seeds"], part.name)
    if comparisons:
        blocks += ["## Beside the paper", "![Ours against the paper, cell by cell](table1_vs_published.png)"]
        blocks += [_text(layout.capital(one.sentence)) for one in comparisons]
    return "\n\n".join(blocks) + "\n"


def _networks(grid: Grid) -> str:
    lines = [f"- {dataset}: n = {n} images; {_text('; '.join(notes))}" for dataset, n, notes in grid.networks]
    lines.append(f"- every number's interval stands in `table1.csv`; the widest is ± {grid.widest:.3f}")
    return "\n".join(lines)


def _grid(grid: Grid) -> str:
    head = ["dataset", *grid.stub, "unmasked"]
    head += [f"{b} {_SIGN[k]} {layout.CONTRASTS.get(c, c)}".strip() for b, k, c in grid.columns]
    head += [f"masked % {_SIGN[k]} {layout.CONTRASTS.get(c, c)}".strip() for k, c in grid.masked]
    rows = [
        [grid.networks[line.network][0], *line.labels, line.unmasked]
        + [f"**{value.text}**" if value.best else value.text for value in line.values]
        + line.masked
        for line in grid.lines
    ]
    return table(head, rows, len(grid.stub) + 1)


def _tests(frame: pd.DataFrame, protocol: str) -> list[str]:
    if frame.empty:
        return []
    head = [
        "dataset",
        "model",
        "method",
        "target",
        "baseline",
        "kept",
        "n",
        "original",
        "weighted",
        "masked % ori. → wtd.",
    ]
    rows = [
        [
            *_names(row),
            _SIGN[row["features_kept"]],
            str(row["n"]),
            *(_number(row[name]) for name in ("original", "weighted")),
            f"{100 * row['masked_original']:.0f} → {100 * row['masked_weighted']:.0f}",
            *_difference(row),
        ]
        for _, row in layout.told_apart(frame).iterrows()
    ]
    return [
        f"### Weighted − original ({_text(protocol)})",
        f"Paired over images: difference, 95 % interval, sign-flip p-value, and p corrected by Holm for the "
        f"m = {frame['m'].iloc[0]} cells of this table. {INTERVALS}",
        table([*head, *_DIFFERENCE], rows, 6),
    ]


def _localisation(frame: pd.DataFrame, protocol: str) -> list[str]:
    if frame.empty:
        return []
    head = ["dataset", "model", "method", "target", "n", "box", "original", "weighted", *_DIFFERENCE]
    rows = [
        [
            *_names(row),
            str(row["n"]),
            *(_number(row[name]) for name in ("box_fraction", "original", "weighted")),
            *_difference(row),
        ]
        for _, row in layout.told_apart(frame).iterrows()
    ]
    return [
        f"### Localisation ({_text(protocol)})",
        f"Share of the positive attribution inside the object's box, over the n images where both maps have any; box: the "
        f"box's share of the image, what chance would give. Corrected for m = {frame['m'].iloc[0]}. {INTERVALS}",
        table(head, rows, 4),
    ]


def _strata(frame: pd.DataFrame, protocol: str) -> list[str]:
    if frame.empty:
        return []
    keys = ["dataset", "model", "weights", "method", "target", "baseline", "features_kept"]
    contrasts = list(dict.fromkeys(frame["contrast"]))
    head = ["dataset", "model", "method", "target", "baseline", "kept"]
    head += [f"{stratum}: {name}" for stratum in ("above", "below") for name in ("n", "unmasked", *contrasts)]
    head += ["the reproduction's, above", "below"]
    rows = []
    for _, cells in layout.told_apart(frame).groupby(keys, sort=False):
        first = cells.iloc[0]
        row, theirs = [*_names(first), _SIGN[first["features_kept"]]], []
        for stratum in ("above", "below"):
            some = cells[cells["stratum"] == stratum].set_index("contrast")
            row += [str(some["n"].iloc[0]), _number(some["relative_probability_unmasked"].iloc[0])]
            row += [_number(some["relative_probability"].get(name, float("nan"))) for name in contrasts]
            known = some["reproduction"].reindex(["original", "weighted"])
            theirs.append("-" if known.isna().any() else " / ".join(map(_number, known)))
        rows.append(row + theirs)
    return [
        f"### Above and below the threshold ({_text(protocol)})",
        "Strata of p_t2. The reproduction's numbers (original / weighted) are of its own network, `vgg16_bn`, with a threshold "
        f"of 0.1. Intervals: `table1_strata.csv`. {INTERVALS}",
        table(head, rows, 6),
    ]


def _seeds(frame: pd.DataFrame, protocol: str) -> list[str]:
    if frame.empty:
        return []
    head = ["dataset", "model", "method", "target", "baseline", "kept", "contrast", "seeds", "n", "mean", "sd"]
    rows = [
        [
            *_names(row),
            _SIGN[row["features_kept"]],
            row["contrast"],
            row["seeds"],
            str(row["n"]),
            *(_number(row[name]) for name in ("relative_probability", "sd")),
            _interval(row),
            *(_number(row[name]) for name in ("lowest", "highest")),
        ]
        for _, row in frame.iterrows()
    ]
    return [
        f"### Across fine-tuning seeds ({_text(protocol)})",
        "Mean over the seeds of each network's mean; the interval (Student's t over seeds) covers another training, and "
        "with a limit other images, as each seed draws its own. n: images, all seeds together.",
        table([*head, "95 % interval", "lowest", "highest"], rows, 8),
    ]


_DIFFERENCE = ("difference", "95 % interval", "p", "p Holm")


def _difference(row: pd.Series) -> list[str]:
    return [f"{row['difference']:+.3f}", _interval(row), _p(row["p"]), _p(row["p_holm"])]


def _interval(row: pd.Series) -> str:
    return f"[{row['ci_low']:.3f}, {row['ci_high']:.3f}]"


def _p(p: float) -> str:
    return "-" if pd.isna(p) else f"{p:.1g}" if p < 0.001 else f"{p:.3f}"


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


def _names(row: pd.Series) -> list[str]:
    """Return dataset, model, method, target and, where the row has one, baseline."""
    names = [row["dataset"], row["model"], layout.METHODS.get(row["method"], row["method"]), row["target"]]
    return [*names, row["baseline"]] if "baseline" in row else names


def table(head: Sequence[str], rows: Iterable[Sequence[str]], stub: int) -> str:
    """Return a Markdown table; the first `stub` columns are words, the others numbers."""
    rule = ["---"] * stub + ["---:"] * (len(head) - stub)
    return "\n".join(f"| {' | '.join(_text(cell) for cell in row)} |" for row in [head, rule, *rows])


def _text(text: str) -> str:
    """Escape what Markdown would read as markup: underscores between letters are none, so that t_1 stays as it is."""
    return text.replace("|", "\\|").replace("<", "&lt;")
