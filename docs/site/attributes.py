"""Make lines of docs/tables/part_attributes.csv, and their tests' numbers in figures.csv: then `wcx report docs=true`.

python docs/site/attributes.py results...    # of one network; the lines of others stay, the tests are a family of its own
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from wcx import records
from wcx.experiments.part_attributes import READINGS, SCORES
from wcx.report import opened
from wcx.statistics import bootstrap, holm, sign_flip

sys.path.insert(0, str(Path(__file__).parent))
from twins import put, write

SETTING = (
    "CUB's subset, all test images with p_t2 > 0.1 whose t_1 and t_2 are both CUB's, map of t_1, radius 0.05, "
    "95 % bootstrap over images"
)
COMMAND = (
    "wcx part_attributes datasets=[cub] models=[{}] methods=[gradcam,linear_approximation] contrasts=[original,weighted] "
    "foils={} truth={}"
)
LINE = ["network", "truth", "contrast", "method"]


def cells(folders: list[str]) -> Iterator[tuple[dict[str, str], str, pd.DataFrame]]:
    """Yield a line's labels, its command and its selected images; of maps without a foil one is enough."""
    seen = set()
    for folder in folders:
        for shard in records.find(Path(folder)):
            cell = opened.Opened(shard, shard.read())
            foils = "all others" if cell.settings["foils"] is None else "t_2"
            contrast = shard.key[3] if shard.key[3] == "original" else f"{shard.key[3]}, foils {foils}"
            network = f"{shard.key[1]}, {shard.labels['recipe']}"
            line = dict(zip(LINE, (network, cell.settings["truth"], contrast, shard.key[2]), strict=True))
            if tuple(line.values()) not in seen:
                seen.add(tuple(line.values()))
                foils = "null" if cell.settings["foils"] is None else str(cell.settings["foils"])
                rows = cell.rows[cell.rows["above_threshold"].astype(bool)].set_index("id")
                yield line, COMMAND.format(shard.key[1], foils, cell.settings["truth"]), rows


def numbers(line: dict[str, str], rows: pd.DataFrame) -> Iterator[tuple[str, str, float]]:
    """Yield (column, part, value) of a line."""
    for score in SCORES:
        low, high = bootstrap(rows[f"{score}/map"], (*line.values(), score))
        ends = {"map": rows[f"{score}/map"].mean(), "low": float(low), "high": float(high)}
        yield from ((f"{score}: map (interval)", part, value) for part, value in ends.items())
        for reading in READINGS[1:]:
            yield f"{score}: permuted / other pairs", reading.replace("_", " "), rows[f"{score}/{reading}"].mean()


def main() -> None:
    """Write the lines and the tests' numbers."""
    table, against, frames = [], [], {}
    for line, command, rows in cells(sys.argv[1:]):
        known = rows[rows[[f"{score}/map" for score in SCORES]].notna().all(axis=1)]
        frames[tuple(line.values())] = known
        facts, stated = {"selected": len(rows), "n": len(known)}, {"setting": SETTING, "command": command}
        table += [
            line | facts | {"column": column, "part": part, "value": f"{value:.3f}"} | stated
            for column, part, value in numbers(line, known)
        ]
        for score in SCORES:
            chances = known[[f"{score}/{reading}" for reading in READINGS[1:]]].to_numpy()
            against += list(sign_flip(known[[f"{score}/map"]].to_numpy() - chances, (*line.values(), score)))
    contrasts = []
    for key, score in product((key for key in frames if key[2] != "original"), SCORES):
        maps = [frames[*key[:2], name, key[3]][f"{score}/map"] for name in (key[2], "original")]
        contrasts.append(float(sign_flip((maps[0] - maps[1]).dropna(), (*key, score))))
    write("part_attributes", table, ["network"])
    made = pd.DataFrame(table)
    begin = f"attributes_{made['network'].iloc[0].partition(',')[0]}"
    corrected, pairs = holm(against), holm(contrasts)
    figures: dict[str, object] = {
        f"{begin}_n": made["n"].max(),
        f"{begin}_tests": len(against),
        f"{begin}_significant": int((corrected < 0.05).sum()),
        f"{begin}_least_p": f"{np.nanmin(against):.3f}",
        f"{begin}_least_holm": f"{np.nanmin(corrected):.2f}",
        f"{begin}_contrasts": len(contrasts),
        f"{begin}_contrasts_significant": int((pairs < 0.05).sum()),
        f"{begin}_tau_most": max(
            row["value"] for row in table if row["column"].startswith("tau") and row["part"] == "high"
        ),
    }
    put(figures, None, made["n"].max(), SETTING, " ; ".join(dict.fromkeys(made["command"])))
    print(figures)


if __name__ == "__main__":
    main()
