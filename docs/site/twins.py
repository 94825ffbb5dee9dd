"""Make docs/tables/twins*.csv, and twins' numbers in figures.csv, from records: then leaderboard.py, then `wcx report docs=true`.

python docs/site/twins.py results            # of `make twins` on parts, whatever networks and methods there are: what a table
                                             # has of others stays, and the numbers of sentences about all of them, too
python docs/site/twins.py results random     # and of the network of random weights, in a results folder of its own
python docs/site/twins.py --methods results [table command]  # of one network, in a table of its own: every method; lines stay, too
python docs/site/twins.py --funnybirds16 results
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from wcx.records import Shard
from wcx.report import opened, sections
from wcx.report.opened import Opened
from wcx.report.twins import numbers, paired

TABLES = Path(__file__).resolve().parents[1] / "tables"
CONTROLS = tuple(numbers.LINES.values())
NAMES = {
    "gradcam": "GradCAM",
    "xgradcam": "XGradCAM",
    "lrp": "LRP",
    "deeplift": "DeepLIFT",
    "rise": "RISE",
    "smoothgrad": "SmoothGrad",
}
LINE = ["network", "method", "contrast"]
SEED = ", seed "  # between a network and the seed of its training
MAPS = ("verified", *numbers.LINES)  # the readings of a table: maps, and the controls beside them
METHODS = (
    *("gradcam", "linear_approximation", "xgradcam", "gradient", "smoothgrad", "input_x_gradient"),
    *("integrated_gradients", "lrp", "deeplift", "occlusion", "rise"),
)
SHARED = ("gradcam", "linear_approximation")  # what every network was asked
BOTH = {"original", "mean", "max", "weighted"}
COMMAND = "make twins MODELS={model} METHODS=... CONTRASTS='original mean max weighted' LIMIT={limit} ARGS=model.layer={layer}"
FUNNYBIRDS = "wcx twins datasets=[funnybirds16] models=[mobilenet_v2] model.layer={layer} chance=200"


def _cells(shards: list[Shard]) -> list[Opened]:
    return [Opened(shard, rows) for shard in shards if (rows := opened.rows(shard, [])) is not None]


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def method_name(method: str, options: str = "") -> str:
    """Return the name in the tables of a method with these options, see `Opened.options`."""
    return (
        "SmoothGrad" if method == "gradient" and "samples=" in options else NAMES.get(method, method.replace("_", " "))
    )


def _line(row: pd.Series) -> dict[str, str]:
    """Return the labels of a row's line: network, method with its layer, contrast."""
    name = method_name(row["method"], row["options"])
    training = "" if pd.isna(row["seed"]) else f"{SEED}{int(row['seed'])}"  # of a file none is known
    network = row["model"] + (", random weights" if row["is_random"] else training)
    return {
        "network": network,
        "method": name + (f", {row['layer']}" if row["layer"] else ""),
        "contrast": row["contrast"] or "none",
    }


def _rows(chosen: pd.DataFrame, column: str, word: str = "") -> Iterator[dict[str, str]]:
    """Yield mean and ends of the interval of each number, and n."""
    for _, row in chosen.iterrows():
        on_parts = row["dataset"] == "Parts"
        what = "parts, factorial families" if on_parts else "FunnyBirds16 (our renderings)"
        accuracy = "" if pd.isna(row["accuracy"]) else f", accuracy {row['accuracy']:.3f}"
        facts = {
            "setting": f"{what}{accuracy}, n = {row['n']} images with a verified question, intervals over images",
            "command": (COMMAND if on_parts else FUNNYBIRDS).format(
                model=row["model"], layer=row["layer"] or "...", limit=json.loads(row["limit"])[0]
            ),
        }
        numbers = {"mean": row["mean"], "low": row["ci_low"], "high": row["ci_high"]}
        for part, value in [*((part, _number(number)) for part, number in numbers.items()), ("n", str(row["n"]))]:
            yield _line(row) | {"column": row[column] + word, "part": part, "value": value} | facts


def write(name: str, rows: Iterable[dict[str, object]], keys: list[str] = LINE) -> pd.DataFrame:
    """Write a table, with those lines of the earlier one that these rows do not have, see `merged`; return it."""
    path, table = TABLES / f"{name}.csv", pd.DataFrame(rows)
    earlier = pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else pd.DataFrame()
    whole = merged(earlier, table, keys)
    whole.to_csv(path, index=False)
    print(f"{name}.csv: {len(whole)} numbers, {len(table)} of these records")
    return whole


def write_by_method(name: str, rows: Iterable[dict[str, object]]) -> None:
    """Write a table as `write` does, its lines in the order of the methods, controls last."""
    order = {name: place for place, name in enumerate((*map(method_name, METHODS), *CONTROLS))}
    whole = write(name, rows)
    places = whole["method"].str.partition(", ")[0].map(order)
    whole.iloc[places.argsort(kind="stable")].to_csv(TABLES / f"{name}.csv", index=False)


def merged(earlier: pd.DataFrame, table: pd.DataFrame, keys: list[str] = LINE) -> pd.DataFrame:
    """Return a table with those lines of an earlier one that it has no number of, by their keys; equal first keys together."""
    new = table.drop_duplicates([name for name in table if name not in ("value", "setting", "command")])
    if earlier.empty:
        return new
    kept = earlier[~pd.MultiIndex.from_frame(earlier[keys]).isin(pd.MultiIndex.from_frame(new[keys]))]
    lines = pd.concat([earlier, new])[keys].drop_duplicates()
    place = {first: place for place, first in enumerate(lines[keys[0]].unique())}
    lines = lines.sort_values(keys[0], key=lambda column: column.map(place), kind="stable")
    return lines.merge(pd.concat([kept, new]), on=keys)[list(table)]


def put(made: dict[str, object], prefix: str | None, n: int, setting: str, command: str) -> None:
    """Put the numbers of sentences into figures.csv, in the place of those of the same name, or that begin alike."""
    path = TABLES / "figures.csv"
    figures = pd.read_csv(path, dtype=str, keep_default_na=False)
    text = "".join(template.read_text(encoding="utf-8") for template in path.parents[1].glob("*.md.j2"))
    asked = {name: value for name, value in made.items() if re.search(rf"figures\.{name}\b", text)}
    kept = figures[~figures["quantity"].isin(made)]
    if prefix is not None:
        kept = kept[~kept["quantity"].str.match(prefix)]
    rows = [
        {"quantity": name, "value": str(value), "n": str(n), "setting": setting, "command": command}
        for name, value in asked.items()
    ]
    pd.concat([kept, pd.DataFrame(rows)]).to_csv(path, index=False)
    print(f"figures.csv: {len(rows)} numbers: {', '.join(asked)}")


def parts(shards: list[Shard]) -> None:
    """Write the tables of the drawn birds."""
    tables = {table.name: table for table in sections.of("twins", shards).tables}
    frame = numbers.frame(_cells(shards))
    frame = frame[~frame["is_random"]].sort_values(["model", "seed"], key=_order, kind="stable")
    frame["is_first"] = frame["weights_hash"].eq(frame["weights_hash"].iloc[0])
    top = frame[(frame["score"] == "top_mean") & (frame["question"] != "q5") & frame["reading"].isin(MAPS)]
    shared = top["method"].isin([*SHARED, *CONTROLS]) & (top["is_first"] | top["method"].isin(SHARED))
    singly = write("twins", _rows(top[shared], "question"))
    write("twins_trainings", trainings(singly))
    if frame["model"].iloc[0] == "small_cnn":
        _of_first(frame[frame["is_first"] & frame["method"].isin([*SHARED, *CONTROLS])])
    facts = tables["twins_questions"].complete
    facts = facts[~facts["is_random"] & (facts["n"] > 0)]
    present = {f"{model}{SEED}{int(seed)}" for model, seed in zip(facts["model"], facts["seed"], strict=True)}
    absent = set(singly["network"]) - present
    print(
        "numbers of sentences about all networks:", f"as they were, no records of {sorted(absent)}" if absent else "new"
    )
    images = int(facts[facts["question"] == "q1"]["n"].max())
    setting = "twins, parts with factorial families, test images"
    put(_accuracies(facts), None, images, setting, "make twins")
    prefix, others = (
        ("twins_added_", "twins_added_") if absent else ("twins_", "twins_(?!random|added|methods|minutes|.*_accuracy)")
    )
    put(_counted(facts, tables["twins_paired"].complete, prefix), others, images, setting, "make twins")


def _range(counts: pd.Series) -> str:
    return " to ".join(str(n) for n in sorted({counts.min(), counts.max()}))


def _order(column: pd.Series) -> pd.Series:
    """Sort key: small_cnn, with which the others are compared, comes first."""
    return column.ne("small_cnn").astype(str) + column.astype(str) if column.name == "model" else column


def trainings(singly: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Yield the lowest and the highest mean of the networks of a kind that were trained more than once."""
    means = singly[(singly["part"] == "mean") & ~singly["method"].str.startswith(CONTROLS)]
    means = means.assign(number=means["value"].astype(float), kind=means["network"].str.partition(SEED)[0])
    for (kind, method, contrast, question), group in means.groupby(
        ["kind", "method", "contrast", "column"], sort=False
    ):
        if len(group) < 2:
            continue
        facts = {
            "setting": f"{kind} on parts, factorial families, {len(group)} trainings",
            "command": f"make twins MODELS={kind} ARGS='seeds=[0,1,2] model.layer={method.partition(', ')[2]}' LIMIT=330",
        }
        label = {"network": kind, "method": method, "contrast": contrast, "column": question}
        for part, number in (("lowest", group["number"].min()), ("highest", group["number"].max())):
            yield label | {"part": part, "value": _number(number)} | facts


def _readings(frame: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Yield what the same maps are under other readings."""
    for reading, word in (("verified", "named foil"), ("others", "all others"), ("clipped", "clipped")):
        chosen = frame[
            (frame["score"] == "top_mean") & frame["question"].isin(["q1", "q3"]) & (frame["reading"] == reading)
        ]
        yield from _rows(chosen, "question", f", {word}")
    for reading, word in (("verified", "tau"), ("own", "tau, own question")):
        several = frame["question"].isin(["q4_siblings", "q4_pairs"])
        yield from _rows(
            frame[(frame["score"] == "tau_mean") & several & (frame["reading"] == reading)], "question", f", {word}"
        )


def _of_first(seed: pd.DataFrame) -> None:
    """Write the tables of the network with which the others are compared."""
    scores = ["tau_mean", "sign", "auroc", "average_precision", "mass", "leak"]
    chosen = seed[(seed["question"] == "q1") & seed["reading"].isin(MAPS) & seed["score"].isin(scores)]
    write("twins_scores", _rows(chosen, "score"))
    write("twins_readings", _readings(seed[seed["method"].isin(SHARED)]))


def methods(shards: list[Shard], name: str = "twins_methods", command: str = "") -> None:
    """Write the table of every method, of one network; command: that made the records, where it is not `make twins`."""
    frame = numbers.frame(_cells(shards))
    questions = ["q1", "q2", "q3", "q4_siblings", "q4_pairs"]
    asked = frame["question"].isin(questions) & (frame["score"] == "top_mean") & frame["reading"].isin(MAPS)
    chosen = _from_the_last(frame[asked])
    if chosen["weights_hash"].nunique() != 1:
        raise SystemExit(f"the records are of {chosen['weights'].unique()}; give a folder with those of one network.")
    rows = [row | ({"command": command} if command else {}) for row in _rows(chosen, "question")]
    counts = [row | {"column": "images", "part": ""} for row in rows if (row["column"], row["part"]) == ("q1", "n")]
    write_by_method(name, [*counts, *rows])
    accuracy = chosen["accuracy"].iloc[0]
    made: dict[str, object] = {} if pd.isna(accuracy) else {f"{name}_accuracy": f"{accuracy:.3f}"}
    asked_for = command or "wcx twins models=[small_cnn] methods=[...]"
    put(made, f"{name}_", int(chosen["n"].max()), rows[0]["setting"], asked_for)


def _accuracies(facts: pd.DataFrame) -> dict[str, object]:
    """Return the test accuracy of each network."""
    networks = facts.groupby(["model", "seed"])["accuracy"].first()
    return {f"twins_{model}_{int(seed)}_accuracy": f"{value:.3f}" for (model, seed), value in networks.items()}


def _counted(facts: pd.DataFrame, pairs: pd.DataFrame, prefix: str) -> dict[str, object]:
    """Return what sentences say of the questions and of the paired tests."""
    by_kind = dict(iter(facts.groupby("question")))
    made: dict[str, object] = {
        "images": _range(by_kind["q1"]["n"]),
        "known": by_kind["q4_siblings"]["n"].min(),
        "networks": len(facts[["model", "seed"]].drop_duplicates()),
        "other_part": f"{by_kind['q1']['other_part'].max():.3f}",
        "flip": f"{by_kind['q1']['flip'].min():.3f}",
        "m": int(pairs["m"].iloc[0]),
    }
    for (kind, minus), rows in pairs.groupby(["question", "minus"]):
        sure, name = rows["p_holm"] < 0.05, f"{kind}_{'original' if minus == paired.BASE else 'others'}"
        made |= {
            f"{name}_better": int((sure & (rows["difference"] > 0)).sum()),
            f"{name}_worse": int((sure & (rows["difference"] < 0)).sum()),
            f"{name}_of": len(rows),
        }
    return {prefix + name: value for name, value in made.items()}


def random(shards: list[Shard]) -> None:
    """Put the numbers of the network of random weights into figures.csv."""
    frame = numbers.frame(_cells(shards))
    top = frame[(frame["score"] == "top_mean") & (frame["reading"] == "all") & (frame["method"] == "gradcam")]
    made: dict[str, object] = {"twins_random_images": int(top["n"].max())}
    for _, row in top.iterrows():
        name = f"twins_random_{row['question'].removesuffix('_siblings')}_{row['contrast']}"
        made |= {name: _number(row["mean"]), f"{name}_interval": f"[{row['ci_low']:.2f}, {row['ci_high']:.2f}]"}
    setting = "twins, parts, small_cnn with random weights, GradCAM, all questions"
    n = int(top["n"].max())
    put(made, "twins_random_", n, setting, f"make twins LIMIT={n} ARGS='model.weights=random chance=0'")


def funnybirds16(shards: list[Shard]) -> None:
    """Write the tables of FunnyBirds16; what to recommend is chosen on the images 1 to 3 of each class, and reported on 4 to 6."""
    cells = _cells(shards)
    frame = numbers.frame(cells)
    frame = _from_the_last(frame[frame["reading"].isin(MAPS)])
    top = frame[(frame["score"] == "top_mean") & frame["question"].isin(["q1", "q3"])]
    write("twins_funnybirds16", _rows(top, "question"))
    scores = ["auroc", "auroc_mask", "average_precision", "average_precision_mask"]
    write("twins_funnybirds16_scores", _rows(frame[(frame["question"] == "q1") & frame["score"].isin(scores)], "score"))

    asked = {"q1": "top_mean/q1/verified", "q3": "top_mean/q3/verified"}
    halves = {}
    for cell in cells:
        rows = cell.rows[cell.rows["asked/q1"] > 0].sort_values("id")
        place = rows.groupby("label").cumcount()
        key = (numbers.layer(cell), cell.names["method"], cell.shard.key[3])
        halves[key] = [rows[mask][[*asked.values()]].mean() for mask in (place < 3, place >= 3)]
    chosen = max(halves, key=lambda key: halves[key][0].iloc[0])
    print("chosen on images 1 to 3:", *chosen, f"of {len(halves)} candidates")
    last = max((layer for layer, _, _ in halves), key=_place)
    reported = {"": chosen, "_gradcam": (chosen[0], "gradcam", chosen[2]), "_last": (last, chosen[1], chosen[2])}
    made: dict[str, object] = {
        f"funnybirds_chosen_{kind}": _number(halves[chosen][0][column]) for kind, column in asked.items()
    }
    for word, key in reported.items():
        made |= {f"funnybirds_reported{word}_{kind}": _number(halves[key][1][column]) for kind, column in asked.items()}
    setting = "FunnyBirds16, verified questions, images 1 to 3 (chosen) or 4 to 6 (reported) of each class"
    command = "wcx twins datasets=[funnybirds16] models=[mobilenet_v2]"
    put(made, "funnybirds_(chosen|reported)", 48, setting, command)
    rows = cells[0].rows
    counts = {
        "funnybirds_accuracy": f"{cells[0].facts()['accuracy']:.3f}",
        "funnybirds_asked": int(rows["asked/q1"].sum()),
        "funnybirds_verified": int(rows["verified/q1"].sum()),
        "funnybirds_images": int((rows["asked/q1"] > 0).sum()),
    }
    put(
        counts,
        "funnybirds_(?!chosen|reported)",
        len(rows),
        "FunnyBirds16, mobilenet_v2, recipe whole, seed 0; Q1",
        command,
    )


def _from_the_last(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("layer", key=lambda layers: -layers.map(_place), kind="stable")


def _place(layer: str) -> int:
    """Return 18 of features.18; -1 of none, or of one without a number at its end."""
    number = re.search(r"\d+$", layer)
    return int(number[0]) if number else -1


def _collected(folder: str) -> list[Shard]:
    shards, left_out = sections.collect("twins", Path(folder))
    print(*left_out, sep="\n")
    return shards


if __name__ == "__main__":
    if sys.argv[1] == "--funnybirds16":
        funnybirds16(_collected(sys.argv[2]))
    elif sys.argv[1] == "--methods":
        methods(_collected(sys.argv[2]), *sys.argv[3:])  # a table's name, and the command
    else:
        parts(_collected(sys.argv[1]))
        if len(sys.argv) > 2:
            random(_collected(sys.argv[2]))
