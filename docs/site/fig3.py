"""Make docs/tables/fig3_newer*.csv from results folders of Fig. 3, one an epsilon: then `wcx report docs=true`.

python docs/site/fig3.py results_of_one_epsilon results_of_another
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from twins import write

ITERATIONS = 10  # of the bars in the table
BARS = {"delta_probability": ("p_t", "+.3f"), "delta_accuracy": ("accuracy", "+.3f"), "delta_logit": ("y_t", "+.1f")}
CLAIMS = {
    "difference_probability": "weighted ahead in p_t: of 9, surely",
    "difference_accuracy": "in accuracy",
    "difference_logit": "in y_t",
}
CORRELATIONS = {"r_probability": "r of accuracy with p_t", "r_logit": "with y_t"}
COMMAND = "python scripts/fig3.py models=[{}] epsilon={:g} limit={}"
PANEL = ["model", "epsilon"]


def label(panel: pd.Series) -> dict[str, object]:
    """Return a line's labels."""
    return {"network": panel["model"], "epsilon": f"{panel['epsilon']:g}", "n": int(panel["n"])}


def stated(panel: pd.Series, end: str) -> dict[str, object]:
    """Return where a number is from."""
    setting = f"{panel['weights']}, {panel['precision']}, t: the {panel['target_rule']}, {panel['subset']}{end}"
    return {"setting": setting, "command": COMMAND.format(panel["model"], panel["epsilon"], panel["n"])}


def bars(folder: Path) -> Iterator[dict[str, object]]:
    """Yield the mean changes after `ITERATIONS` iterations."""
    table = pd.read_csv(folder / "fig3.csv")
    for _, bar in table[table["iterations"] == ITERATIONS].iterrows():
        for name, (column, form) in BARS.items():
            value = {"column": column, "part": "", "value": format(bar[name], form)}
            yield label(bar) | {"contrast": bar["contrast"]} | value | stated(bar, f", {ITERATIONS} iterations")


def claims(folder: Path) -> Iterator[dict[str, object]]:
    """Yield how often weighted is ahead of the others, surely so (the interval leaves out 0), or behind, and the correlations."""
    pairs, correlations = (pd.read_csv(folder / f"fig3_{name}.csv") for name in ("paired", "correlation"))
    for _, panel in correlations.iterrows():
        rows = pairs[(pairs[PANEL] == panel[PANEL]).all(axis=1)]
        end = f"; over {rows['minus'].nunique()} contrasts x {rows['iterations'].nunique()} numbers of iterations"
        values = []
        for name, column in CLAIMS.items():
            ahead, behind = rows[name] > 0, rows[name] < 0
            counts = {"ahead": ahead, "surely": ahead & (rows[f"{name}_ci_low"] > 0), "behind": behind}
            values += [(column, part, str(int(count.sum()))) for part, count in counts.items()]
        for name, column in CORRELATIONS.items():
            ends = {"r": panel[name], "low": panel[f"{name}_ci_low"], "high": panel[f"{name}_ci_high"]}
            values += [(column, part, f"{value:+.2f}") for part, value in ends.items()]
        for column, part, value in values:
            yield label(panel) | {"column": column, "part": part, "value": value} | stated(panel, end)


def main() -> None:
    """Write both tables; what they have of networks that the folders do not hold stays."""
    for name, make in (("fig3_newer", bars), ("fig3_newer_claims", claims)):
        write(name, (row for folder in sys.argv[1:] for row in make(Path(folder))), ["network", "epsilon"])


if __name__ == "__main__":
    main()
