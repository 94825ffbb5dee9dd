"""Gather docs/tables/leaderboard.csv from the other tables of docs/: run this, then `wcx report docs=true`.

A line a method and contrast, a column a benchmark. A line without the benchmark's number has none there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

TABLES = Path(__file__).resolve().parents[1] / "tables"
METHODS = {
    "GradCAM": "gradcam",
    "linear approximation": "linear approx.",
    "XGradCAM": "xgradcam",
}  # twins' name: Table 1's
OTHERS = (
    "LRP",
    "DeepLIFT",
    "gradient",
    "input x gradient",
    "integrated gradients",
    "occlusion",
    "RISE",
)  # of the input
CONTROLS = ("random maps", "centred Gaussian", "Sobel edges", "painted truth")
CONTRASTS = ("original", "mean", "max", "weighted", "none")
QUESTIONS = {"q1": "pairs (Q1)", "q3": "two foils, both right (Q3)", "q4_siblings": "all siblings (Q4)"}
KEYS = ["method", "contrast"]


def _read(name: str) -> pd.DataFrame:
    """Return a table of docs/tables; an empty one where there is none."""
    path = TABLES / f"{name}.csv"
    return pd.read_csv(path, keep_default_na=False) if path.is_file() else pd.DataFrame()


def _twins(name: str, where: str) -> pd.DataFrame:
    """Return the share of questions whose top part is right, of a table of the experiment twins."""
    frame = _read(name)
    if frame.empty:
        return frame
    label, layer = frame["method"].str.split(", ", n=1, expand=True).reindex(columns=[0, 1]).to_numpy().T
    frame = frame.assign(method=label, layer=layer, column=frame["column"].map(QUESTIONS))
    first = frame["layer"].isin([frame["layer"].iloc[0], None]) & frame["network"].eq(frame["network"].iloc[0])
    rows = frame[first & frame["method"].isin([*METHODS, *OTHERS, *CONTROLS]) & frame["column"].notna()]
    return rows.assign(column=where + ": " + rows["column"])


def _parts() -> pd.DataFrame:
    """Return the agreement of t_1's map with where t_1 and t_2 differ by CUB's attributes, of the network with most images."""
    frame = _read("part_attributes")
    frame = frame[(frame["network"] == "mobilenet_v2, quick") & (frame["truth"] == "l1")]
    frame = frame[frame["column"] == "tau: map (interval)"]
    contrasts = frame["contrast"].map({"original": "original", "weighted, foils t_2": "weighted"})
    names = {"gradcam": "GradCAM", "linear_approximation": "linear approximation"}
    rows = frame.assign(method=frame["method"].map(names), contrast=contrasts)
    rows = rows[contrasts.notna()].replace({"part": {"map": "mean"}})
    return rows.assign(column=f"CUB parts, mobilenet_v2: tau (n = {frame['n'].iloc[0]})")


def _gain() -> pd.DataFrame:
    """Return Table 1's gain on AlexNet and CUB: positive features kept minus negative ones, the mean over t_1 and t_2."""
    frame = _read("table1_sign")
    frame = frame[(frame["network"] == "alexnet") & (frame["dataset"] == "CUB-200") & (frame["part"] != "")]
    sign = np.where(frame["column"].str.startswith("positive"), 1.0, -1.0)
    gain = frame.assign(value=frame["value"] * sign / frame["target"].nunique())
    summed = gain.groupby(["method", "part"], as_index=False).agg(
        {"value": "sum", "command": "first", "setting": "first"}
    )
    names = {table: name for name, table in METHODS.items()}
    rows = summed.assign(
        method=summed["method"].map(names), contrast=summed["part"], value=summed["value"].round(3), part="mean"
    )
    return rows[rows["method"].notna()].assign(column="CUB, alexnet: Table 1's gain (n = 181)")


def gathered() -> pd.DataFrame:
    """Return the leaderboard, a row a number, with Kendall's W of its columns."""
    parts = [
        *(_twins(name, "parts") for name in ("twins", "twins_methods")),
        _twins("twins_funnybirds16", "FunnyBirds16"),
        _parts(),
        _gain(),
    ]
    whole = pd.concat([part for part in parts if not part.empty]).drop_duplicates([*KEYS, "column", "part"])
    whole = whole.assign(value=whole["value"].astype(float))[[*KEYS, "column", "part", "value", "setting", "command"]]
    order = {name: place for place, name in enumerate([*METHODS, *OTHERS, *CONTROLS, *CONTRASTS])}
    return whole.sort_values(KEYS, key=lambda names: names.map(order), kind="stable")


def text(frame: pd.DataFrame) -> str:
    """Return the leaderboard as CSV, two decimals."""
    return str(frame.to_csv(index=False, float_format="%.2f"))


def concordance(frame: pd.DataFrame) -> float:
    """Return Kendall's W between the columns, over the lines that have all of them, with ties at their mean rank.

    W = 12 S / (m^2 (n^3 - n) - m sum of T), S the squared deviations of the rank sums, T = t^3 - t of each group of ties.
    """
    means = frame[frame["part"] == "mean"]
    ranks = means.pivot(index=KEYS, columns="column", values="value").dropna().rank()
    n, m = ranks.shape
    ties = sum(int(t**3 - t) for column in ranks for t in ranks[column].value_counts())
    sums = ranks.sum(axis=1)
    return float(12 * ((sums - sums.mean()) ** 2).sum() / (m**2 * (n**3 - n) - m * ties))


if __name__ == "__main__":
    frame = gathered()
    (TABLES / "leaderboard.csv").write_text(text(frame), encoding="utf-8")
    complete = frame[frame["part"] == "mean"].pivot(index=KEYS, columns="column", values="value").dropna()
    figures = pd.read_csv(TABLES / "figures.csv", dtype=str, keep_default_na=False).set_index("quantity")
    figures.loc["leaderboard_w", ["value", "n"]] = [f"{concordance(frame):.2f}", str(len(complete))]
    figures.loc["leaderboard_lines", ["value", "n"]] = str(len(complete))
    figures.reset_index().to_csv(TABLES / "figures.csv", index=False)
    print(f"Kendall's W = {concordance(frame):.2f} over {len(complete)} lines; {TABLES / 'leaderboard.csv'}")
