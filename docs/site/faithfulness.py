"""Make docs/tables/table1_gain.csv and insertion_deletion.csv from records: then leaderboard.py, then `wcx report docs=true`.

python docs/site/faithfulness.py results...

The gain is what Table 1 is about in one number: the relative probability with the positive features kept minus that with the
negative ones. SRG is insertion minus deletion. Both are the mean over an image's baselines and targets; intervals are 95 %
bootstrap over images, of the same resamples for all cells of a network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from twins import TABLES, method_name

from wcx import statistics
from wcx.report import sections, summary
from wcx.report.opened import Opened

BASE = "original"
VALUES = {
    "log_odds": "log-odds",
    "logit": "logit",
    "probability": "probability",
    "relative_probability": "relative probability",
    "contrast": "its own question",
}
GAIN, SRG = "gain", "SRG, log-odds"  # the leaderboard's columns
DIGITS = {"table1_gain": 3, "insertion_deletion": 2}
COMMANDS = {
    "table1_gain": "python scripts/table1.py datasets=[{dataset}] models=[{model}] methods=[...] contrasts=[...]",
    "insertion_deletion": "wcx insertion_deletion datasets=[{dataset}] models=[{model}] steps={steps} select={select}",
}


def gain(cell: Opened) -> pd.DataFrame:
    """Return Table 1's gain, a row an image above the threshold: of each target, and their mean."""
    rows = _measured(cell)
    kept = {sign: _means(cell, rows, f"relative_probability/{{}}/{{}}/{sign}") for sign in ("positive", "negative")}
    by_target = kept["positive"] - kept["negative"]
    return by_target.assign(**{GAIN: by_target.mean(axis=1)})[[GAIN, *by_target]]


def curves(cell: Opened) -> pd.DataFrame:
    """Return the areas under the curves, a row an image: the three of the log-odds, and SRG of every value function."""
    rows = _measured(cell)
    asked = [("srg", value) for value in VALUES] + [(curve, "log_odds") for curve in ("insertion", "deletion")]
    return pd.DataFrame(
        {
            f"{'SRG' if curve == 'srg' else curve}, {VALUES[value]}": _means(
                cell, rows, f"{curve}/{{}}/{{}}/{value}"
            ).mean(axis=1)
            for curve, value in asked
            if value in cell.settings["values"]
        }
    )


def _measured(cell: Opened) -> pd.DataFrame:
    """Return the rows that passes were spent on."""
    rows = cell.rows[~cell.rows["skipped"]].set_index("index")
    return rows if cell.settings["select"] == "all" else rows[rows["above_threshold"]]


def _means(cell: Opened, rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the mean over the baselines of numbers named by target and baseline: a column a target."""
    targets = [f"t_{place + 1}" for place in range(cell.settings["targets"])]
    baselines = cell.settings["baselines"]
    return pd.DataFrame(
        {target: rows[[name.format(target, baseline) for baseline in baselines]].mean(axis=1) for target in targets}
    )


def lines(cells: Iterable[Opened], measure: Callable[[Opened], pd.DataFrame]) -> Iterator[dict[str, object]]:
    """Yield mean and ends of the interval of each number of each cell; the first number minus that of original, too.

    Args:
        cells: of one experiment and protocol.
        measure: the numbers of a cell, a row an image.
    """
    measured = {
        (summary.protocol(cell.shard), *cell.network, *cell.shard.key[2:]): (cell, measure(cell)) for cell in cells
    }
    for (*network, method, contrast), (cell, numbers) in measured.items():
        first = numbers.columns[0]
        base = measured.get((*network, method, BASE))
        if contrast != BASE and base is not None:
            numbers.insert(1, f"{first}, minus original", numbers[first] - base[1][first])
        complete = numbers.dropna()
        low, high = statistics.bootstrap(complete.to_numpy(), [*cell.key()[:2], "faithfulness", len(complete)])
        label = {
            "dataset": cell.names["dataset"],
            "network": f"{cell.names['model']}, seed {cell.seed}",
            "n": len(complete),
            "method": method_name(method),
            "contrast": contrast,
        }
        ends = zip(complete.columns, complete.mean(), low, high, strict=True)
        for (column, *values), place in product(ends, range(3)):
            yield (
                label
                | {"column": column, "part": ("mean", "low", "high")[place], "value": values[place]}
                | _facts(cell)
            )


def _facts(cell: Opened) -> dict[str, str]:
    """Return what a cell was measured with."""
    settings = cell.settings
    baselines = ", ".join(settings["baselines"])
    select = "all images" if settings["select"] == "all" else f"images with p_t2 > {settings['threshold']:g}"
    steps = f"K = {settings['steps']}, " if "steps" in settings else f"mask={settings['mask']}, "
    name = "insertion_deletion" if "steps" in settings else "table1_gain"
    weights = "; ".join(filter(None, (cell.weights, cell.subset)))
    setting = f"{steps}{select}, foils: {cell.foils}, mean over {baselines} and t_1, t_2; {weights}"
    asked = {"dataset": cell.shard.key[0], "model": cell.names["model"]} | settings
    return {"setting": setting, "command": COMMANDS[name].format(**asked)}


def write(name: str, rows: Iterable[dict[str, object]]) -> None:
    """Write a table, unless it has no row."""
    table = pd.DataFrame(rows)
    if table.empty:
        print(f"{name}.csv: no records, stays as it is")
        return
    digits = DIGITS[name]
    table["value"] = table["value"].map(
        lambda value: f"{value:.{digits}f}".replace(f"-{0:.{digits}f}", f"{0:.{digits}f}")
    )
    table.to_csv(TABLES / f"{name}.csv", index=False)
    print(f"{name}.csv: {len(table)} numbers")


def records(experiment: str, folders: Iterable[str]) -> Iterator[Opened]:
    """Yield the records of an experiment; those of mask=sign alone, where masks differ."""
    for folder in folders:
        shards, left_out = sections.collect(experiment, Path(folder))
        print(*left_out, sep="\n")
        for shard in shards:
            if shard.parts["settings"].get("mask", "sign") == "sign":
                yield Opened(shard, shard.read())


if __name__ == "__main__":
    write("table1_gain", lines(records("masking", sys.argv[1:]), gain))
    write("insertion_deletion", lines(records("insertion_deletion", sys.argv[1:]), curves))
