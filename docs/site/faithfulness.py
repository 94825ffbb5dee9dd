"""Make table1_gain.csv, class_agreement.csv and insertion_deletion.csv of docs/tables from records.

python docs/site/faithfulness.py results...  # what a table has of others stays; then leaderboard.py, then `wcx report docs=true`

The gain is what Table 1 is about in one number: the relative probability with the positive features kept minus that with the
negative ones; of records with the measure class_agreement that measure is read instead. SRG is insertion minus deletion. Gain and
SRG are the mean over an image's baselines and targets; intervals are 95 % bootstrap over images, of the same resamples for all
cells of a network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from twins import TABLES, merged, method_name

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
GAIN, SRG, AGREEMENT = "gain", "SRG, log-odds", "class_agreement"  # the leaderboard's columns
LINE = ["dataset", "network", "method", "contrast"]
DIGITS = {"table1_gain": 3, "class_agreement": 2, "insertion_deletion": 2}
COMMANDS = {
    "table1_gain": "python scripts/table1.py datasets=[{dataset}] models=[{model}] methods=[...] contrasts=[...]",
    "class_agreement": "wcx masking datasets=[{dataset}] models=[{model}] measures=[class_agreement] select={select}",
    "insertion_deletion": "wcx insertion_deletion datasets=[{dataset}] models=[{model}] steps={steps} select={select}",
}


def gain(cell: Opened) -> pd.DataFrame:
    """Return Table 1's gain, a row an image above the threshold: of each target, and their mean."""
    rows = _measured(cell)
    kept = {sign: _means(cell, rows, f"relative_probability/{{}}/{{}}/{sign}") for sign in ("positive", "negative")}
    by_target = kept["positive"] - kept["negative"]
    return by_target.assign(**{GAIN: by_target.mean(axis=1)})[[GAIN, *by_target]]


def class_agreement(cell: Opened) -> pd.DataFrame:
    """Return what the largest pixels of t_1's and t_2's maps have in common, a row an image."""
    return _measured(cell)[[AGREEMENT]]


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
        (summary.protocol(cell.shard), *cell.network, _method(cell), cell.shard.key[3]): (cell, measure(cell))
        for cell in cells
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
            "method": method,
            "contrast": contrast,
        }
        ends = zip(complete.columns, complete.mean(), low, high, strict=True)
        for (column, *values), place in product(ends, range(3)):
            yield (
                label
                | {"column": column, "part": ("mean", "low", "high")[place], "value": values[place]}
                | _facts(cell)
            )


def _method(cell: Opened) -> str:
    return method_name(cell.shard.key[2], cell.options)


def _facts(cell: Opened) -> dict[str, str]:
    """Return what a cell was measured with."""
    settings, name = cell.settings, "table1_gain"
    read = f"mask={settings.get('mask')}, "
    if "steps" in settings:
        name, read = "insertion_deletion", f"K = {settings['steps']}, "
    over = f", mean over {', '.join(settings['baselines'])} and t_1, t_2"
    if AGREEMENT in settings.get("measures", ()):
        name, read, over = AGREEMENT, "", ""
    select = "all images" if settings["select"] == "all" else f"images with p_t2 > {settings['threshold']:g}"
    weights = "; ".join(filter(None, (cell.weights, cell.subset)))
    setting = f"{read}{select}, foils: {cell.foils}{over}; {weights}"
    asked = {"dataset": cell.shard.key[0], "model": cell.names["model"]} | settings
    return {"setting": setting, "command": COMMANDS[name].format(**asked)}


def write(name: str, rows: Iterable[dict[str, object]]) -> None:
    """Write a table, with those lines of the earlier one that these rows do not have; not if there is no row."""
    table = pd.DataFrame(rows)
    if table.empty:
        print(f"{name}.csv: no records, stays as it is")
        return
    digits = DIGITS[name]
    table["value"] = table["value"].map(
        lambda value: f"{value:.{digits}f}".replace(f"-{0:.{digits}f}", f"{0:.{digits}f}")
    )
    path = TABLES / f"{name}.csv"
    earlier = pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else pd.DataFrame()
    whole = merged(earlier, table, LINE)
    whole.to_csv(path, index=False)
    print(f"{name}.csv: {len(whole)} numbers, {len(table)} of these records")


def records(experiment: str, folders: Iterable[str]) -> Iterator[Opened]:
    """Yield the records of an experiment; those of mask=sign alone, where masks differ."""
    for folder in folders:
        shards, left_out = sections.collect(experiment, Path(folder))
        print(*left_out, sep="\n")
        for shard in shards:
            if shard.parts["settings"].get("mask", "sign") == "sign":
                yield Opened(shard, shard.read())


if __name__ == "__main__":
    masked = list(records("masking", sys.argv[1:]))
    compared = [cell for cell in masked if AGREEMENT in cell.settings["measures"]]
    write("table1_gain", lines((cell for cell in masked if cell not in compared), gain))
    write("class_agreement", lines(compared, class_agreement))
    write("insertion_deletion", lines(records("insertion_deletion", sys.argv[1:]), curves))
