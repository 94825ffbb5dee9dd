"""Gather docs/tables/leaderboard.csv from the other tables of docs/: run this, then `wcx report docs=true`.

A line a method and contrast, a column a benchmark. A line without the benchmark's number has none there.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

TABLES = Path(__file__).resolve().parents[1] / "tables"
METHODS = ("GradCAM", "linear approximation", "XGradCAM")  # of a layer
OTHERS = (
    "LRP",
    "DeepLIFT",
    "gradient",
    "SmoothGrad",
    "input x gradient",
    "integrated gradients",
    "occlusion",
    "RISE",
)  # of the input
CONTROLS = ("random maps", "centred Gaussian", "Sobel edges", "painted truth")
CONTRASTS = ("original", "mean", "max", "weighted", "none")
QUESTIONS = {
    "q1": "pairs (Q1)",
    "q2": "two or three parts (Q2)",
    "q3": "two foils, both right (Q3)",
    "q4_siblings": "all siblings (Q4)",
    "q5, tau": "mistakes (Q5), tau",
    "q5, sign": "mistakes (Q5), sign",
}
AGREEMENT = "class agreement"  # no rank: less is no better by itself
KEYS = ["method", "contrast"]
PARTS = ("mean", "low", "high", "n")


def _read(name: str) -> pd.DataFrame:
    """Return a table of docs/tables; an empty one where there is none."""
    path = TABLES / f"{name}.csv"
    return pd.read_csv(path, keep_default_na=False) if path.is_file() else pd.DataFrame()


def _twins(name: str, where: str) -> pd.DataFrame:
    """Return the share of questions whose top part is right, of the first network and layer of a table of the experiment twins."""
    frame = _read(name)
    if frame.empty:
        return frame
    label, layer = frame["method"].str.split(", ", n=1, expand=True).reindex(columns=[0, 1]).to_numpy().T
    frame = frame.assign(method=label, layer=layer, question=frame["column"])
    first = frame["layer"].isin([frame[frame["layer"] != "input"]["layer"].dropna().iloc[0], None])
    asked = frame["question"].isin(QUESTIONS) & frame["method"].isin([*METHODS, *OTHERS, *CONTROLS])
    rows = frame[first & asked & frame["network"].eq(frame["network"].iloc[0])]
    return rows.assign(column=where + ": " + rows["question"].map(QUESTIONS))


def _parts() -> pd.DataFrame:
    """Return the agreement of t_1's map with where t_1 and t_2 differ by CUB's attributes, of the network with most images."""
    frame = _read("part_attributes")
    frame = frame[(frame["network"] == "mobilenet_v2, quick") & (frame["truth"] == "l1")]
    frame = frame[frame["column"] == "tau: map (interval)"]
    contrasts = frame["contrast"].map({"original": "original", "weighted, foils t_2": "weighted"})
    names = {"gradcam": "GradCAM", "linear_approximation": "linear approximation"}
    rows = frame.assign(method=frame["method"].map(names), contrast=contrasts)
    rows = rows[contrasts.notna()].replace({"part": {"map": "mean"}})
    return _counted(rows.assign(column="CUB parts, mobilenet_v2: tau"))


def _faithfulness(name: str, column: str, dataset: str, heading: str) -> pd.DataFrame:
    """Return a number of a table of docs/site/faithfulness.py."""
    frame = _read(name)
    if frame.empty:
        return frame
    return _counted(frame[(frame["column"] == column) & (frame["dataset"] == dataset)].assign(column=heading))


def _counted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers of a table that has n as a label, with n as a number of its own."""
    means = rows[rows["part"] == "mean"]
    return pd.concat([rows, means.assign(part="n", value=means["n"])])


def headed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers with the most frequent n in their column's heading; n stays beside those of another."""
    counts = frame[frame["part"] == "n"].astype({"value": int})
    most = counts.groupby("column")["value"].agg(lambda numbers: numbers.mode().iloc[0])
    is_told = (frame["part"] == "n") & (frame["value"].astype(float) == frame["column"].map(most))
    return frame[~is_told].assign(column=frame["column"] + ", n = " + frame["column"].map(most).astype(str))


def gathered() -> pd.DataFrame:
    """Return the leaderboard, a row a number."""
    tables = [
        *(_twins(name, "parts") for name in ("twins_methods", "twins")),
        _twins("twins_mistakes", "parts"),
        _twins("twins_funnybirds16", "FunnyBirds16"),
        _parts(),
        _faithfulness("table1_gain", "gain", "CUB-200", "CUB, alexnet: Table 1's gain"),
        _faithfulness("insertion_deletion", "SRG, log-odds", "CUB-200", "CUB, alexnet: SRG"),
        _faithfulness("insertion_deletion", "SRG, log-odds", "Parts", "parts: SRG"),
        _faithfulness("class_agreement", "class_agreement", "CUB-200", f"CUB, alexnet: {AGREEMENT}"),
        _faithfulness("class_agreement", "class_agreement", "Parts", f"parts: {AGREEMENT}"),
    ]
    lines = pd.concat([table for table in tables if not table.empty], ignore_index=True)
    whole = headed(lines.drop_duplicates([*KEYS, "column", "part"]))
    whole = whole.assign(value=whole["value"].astype(float))[[*KEYS, "column", "part", "value", "setting", "command"]]
    order = {
        "method": (*METHODS, *OTHERS, *CONTROLS),
        "contrast": CONTRASTS,
        "column": whole["column"].unique(),
        "part": PARTS,
    }
    places = {label: {name: place for place, name in enumerate(names)} for label, names in order.items()}
    return whole.sort_values(list(order), key=lambda names: names.map(places[names.name]), kind="stable")


def text(frame: pd.DataFrame) -> str:
    """Return the leaderboard as CSV: two decimals, and n as it is counted."""
    values = frame["value"].map("{:.2f}".format).where(frame["part"] != "n", frame["value"].map("{:.0f}".format))
    return str(frame.assign(value=values).to_csv(index=False))


def ranks(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the ranks of the lines that have every column but class agreement, (lines, columns), ties at their mean rank."""
    means = frame[(frame["part"] == "mean") & ~frame["column"].str.contains(AGREEMENT)]
    return means.pivot(index=KEYS, columns="column", values="value").dropna().rank()


def concordance(frame: pd.DataFrame) -> float:
    """Return Kendall's W between the columns of `ranks`.

    W = 12 S / (m^2 (n^3 - n) - m sum of T), S the squared deviations of the rank sums, T = t^3 - t of each group of ties.
    """
    table = ranks(frame)
    n, m = table.shape
    ties = sum(int(t**3 - t) for column in table for t in table[column].value_counts())
    sums = table.sum(axis=1)
    return float(12 * ((sums - sums.mean()) ** 2).sum() / (m**2 * (n**3 - n) - m * ties))


if __name__ == "__main__":
    frame = gathered()
    (TABLES / "leaderboard.csv").write_text(text(frame), encoding="utf-8")
    count = str(len(ranks(frame)))
    figures = pd.read_csv(TABLES / "figures.csv", dtype=str, keep_default_na=False).set_index("quantity")
    figures.loc["leaderboard_w", ["value", "n"]] = [f"{concordance(frame):.2f}", count]
    figures.loc["leaderboard_lines", ["value", "n"]] = count
    figures.reset_index().to_csv(TABLES / "figures.csv", index=False)
    print(f"Kendall's W = {concordance(frame):.2f} over {count} lines; {TABLES / 'leaderboard.csv'}")
