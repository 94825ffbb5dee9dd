"""table1.tex: Table 1 in the paper's layout, for a document that uses the packages booktabs and graphicx."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from wcx.report import layout
from wcx.report.layout import Grid, Line, Part
from wcx.report.published import Comparison

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$",
}  # fmt: skip

_FORMULA = r"\b(p_)?t_?(\d)\b"


def document(parts: Sequence[Part], comparisons: Sequence[Comparison]) -> str:
    """Return one table environment a model and protocol; the comparison with the paper stands in comments."""
    head = ["% Made by wcx from its records; needs \\usepackage{booktabs,graphicx}."]
    head += [f"% {one.sentence}" for one in comparisons]
    grids = [grid for part in parts for grid in layout.grids(part.frames[""], part.name)]
    return "\n\n".join(["\n".join(head), *map(_table, grids)]) + "\n"


def escape(text: str) -> str:
    """Return plain text as LaTeX shows it; t_1, p_t2 and the like become formulas."""
    words, formulas = re.split(_FORMULA, text), re.findall(_FORMULA, text)
    made = ["".join(_ESCAPES.get(character, character) for character in words[0])]
    for (p, index), word in zip(formulas, words[3::3], strict=True):
        made.append(f"$p_{{t_{index}}}$" if p else f"$t_{index}$")
        made += [_ESCAPES.get(character, character) for character in word]
    return "".join(made)


def _table(grid: Grid) -> str:
    stub = 1 + len(grid.stub)
    columns = "l" * stub + "c" + "c" * len(grid.columns) + "r" * len(grid.masked)
    body = []
    for network, lines in groupby(grid.lines, key=lambda line: line.network):
        body += [r"\midrule", *_network(grid, network, list(lines))]
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{_caption(grid)}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *_head(grid, stub),
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
        ]
    )


def _caption(grid: Grid) -> str:
    networks = "; ".join(f"{dataset} ($n = {n}$): {escape(', '.join(notes))}" for dataset, n, notes in grid.networks)
    return (
        f"Relative probability of $t_i$ when only positive (Pos.) or negative (Neg.) features are kept; the better of the "
        f"compared contrasts in bold. Masked: per cent of the pixels hidden. {escape(grid.title)}. {networks}. 95\\,\\% "
        f"bootstrap intervals over images (at most $\\pm{grid.widest:.3f}$, all in table1.csv) cover the sampling of images "
        f"for one trained network, not another training."
    )


def _head(grid: Grid, stub: int) -> list[str]:
    """Return the lines above the numbers: baselines, features kept, contrasts."""
    keys = [(layout.BASELINES.get(b, b), layout.KEPT[k], layout.CONTRASTS.get(c, c)) for b, k, c in grid.columns]
    keys += [(r"Masked", layout.KEPT[k], layout.CONTRASTS.get(c, c)) for k, c in grid.masked]
    lines = []
    for level in (0, 1):
        cells, rules, column = [""] * stub + [r"$p_{t_i}$" if level == 0 else ""], [], stub + 2
        for name, some in groupby(keys, key=lambda key: key[: level + 1]):
            width = len(list(some))
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(name[-1])}}}")
            rules += [rf"\cmidrule(lr){{{column}-{column + width - 1}}}"] if width > 1 else []
            column += width
        lines += [" & ".join(cells) + r" \\", *(["".join(rules)] if rules else [])]
    if any(contrast for *_, contrast in keys):
        lines.append(" & ".join([""] * (stub + 1) + [escape(contrast) for *_, contrast in keys]) + r" \\")
    return lines


def _network(grid: Grid, network: int, lines: list[Line]) -> list[str]:
    """Return the lines of one dataset: its name in the first, n in the second, a method's name in its first."""
    dataset, n, _ = grid.networks[network]
    names = [escape(dataset), f"($n = {n}$)"]
    made, before = [], ("",)
    for i, line in enumerate(lines):
        labels = [escape(label) for label in line.labels]
        shown = [label if line.labels[: j + 1] != before[: j + 1] else "" for j, label in enumerate(labels)]
        values = [rf"\textbf{{{value.text}}}" if value.best else value.text.replace("-", "--") for value in line.values]
        cells = [names[i] if i < len(names) else "", *shown, line.unmasked, *values, *line.masked]
        made.append(" & ".join(cells) + r" \\")
        before = line.labels
    return made
