"""Make docs/tables/tail*.csv, and tail's numbers in figures.csv, from records of two recipes: then `wcx report docs=true`.

python docs/site/tail.py results_of_head results_of_tail checkpoints_of_head checkpoints_of_tail
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from wcx import records
from wcx.report import opened
from wcx.report.masking import paper
from wcx.statistics import bootstrap

sys.path.insert(0, str(Path(__file__).parent))
from twins import put, write

RECIPES = ("head", "tail")
NAMED = {
    "CUB-200": "cub",
    "Flower-102": "flowers102",
    "Food-101": "food101",
    "Stanford Cars": "cars",
}  # in the paper: here
METHODS = {"gradcam": "gradcam", "linear_approximation": "linear approx."}
SHOWN = list(product(NAMED, ("alexnet", "vgg16"), (0,)))  # in the long table
CELLS = list(product(("t_1", "t_2"), ("blur", "zeros", "mean"), ("positive", "negative")))
COMMAND = "python scripts/table1.py datasets=[{}] models=[{}] seeds=[{}] masks=[sign,equal]"
MASKS = ("sign", "equal")
WHAT = "subset of the test images, those that both networks selected, evaluation passes in"
Training = tuple[str, str, int]  # dataset, network, seed
Key = tuple[str, Training, str, str, str]  # recipe, training, mask, method, contrast


def read(folders: dict[str, Path]) -> tuple[dict[Key, pd.DataFrame], set[str]]:
    """Return the selected images' rows by recipe, training, mask, method and contrast, and the precisions there are."""
    frames: dict[Key, pd.DataFrame] = {}
    precisions: dict[Training, str] = {}
    for recipe, folder in folders.items():
        for shard in records.find(folder):
            cell = opened.Opened(shard, shard.read())
            training = (shard.labels["dataset"], shard.key[1], int(cell.seed or 0))
            rows = cell.rows[cell.rows["above_threshold"].astype(bool)].set_index("id")
            key = (recipe, training, cell.settings["mask"], *shard.key[2:])
            if len(rows) > len(frames.get(key, ())):  # a longer run of the same cell takes the place of a shorter
                frames[key] = rows
                precisions[training] = cell.settings.get("evaluation_precision", "float32")
    return frames, precisions


class Beside:
    """Head and tail on the images that both networks selected, of one training, mask and method."""

    def __init__(self, frames: dict[Key, pd.DataFrame], training: Training, mask: str, method: str) -> None:
        ids = pd.Index.intersection(*(frames[recipe, training, mask, method, "original"].index for recipe in RECIPES))
        self.frames = {
            (recipe, contrast): frames[recipe, training, mask, method, contrast].loc[ids]
            for recipe, contrast in product(RECIPES, ("original", "weighted"))
        }
        self.dataset, self.key, self.method, self.n = training[0], (*training[1:], mask, method), method, len(ids)

    def step(self, recipe: str) -> np.ndarray:
        """Return (n,): weighted - original in the direction of the kept features, mean over the cells."""
        w, o = self.frames[recipe, "weighted"], self.frames[recipe, "original"]
        columns = [f"relative_probability/{'/'.join(cell)}" for cell in CELLS]
        sign = np.array([1 if kept == "positive" else -1 for *_, kept in CELLS])
        return ((w[columns] - o[columns]).to_numpy() * sign).mean(axis=1)

    def change(self) -> tuple[float, float, float]:
        """Return tail's step minus head's, with the ends of its bootstrap interval over images."""
        change = self.step("tail") - self.step("head")
        low, high = bootstrap(change, ("tail", *self.key))
        return float(change.mean()), float(low), float(high)

    def hidden(self, recipe: str, contrast: str) -> float:
        """Return how much is hidden where positive features are kept, in percent."""
        return (
            100
            * self.frames[recipe, contrast][["masked_fraction/t_1/positive", "masked_fraction/t_2/positive"]]
            .to_numpy()
            .mean()
        )

    def inside(self, recipe: str, contrast: str) -> float:
        """Return the share of positive attribution inside the object's box, NaN where the dataset has none."""
        return float(self.frames[recipe, contrast].filter(like="inside_box/").mean().mean())

    def cells(self, recipe: str, published: pd.DataFrame) -> pd.DataFrame:
        """Return a row a cell of Table 1, ours beside the paper's."""
        rows = [
            (
                self.dataset,
                self.method,
                *cell,
                contrast,
                self.frames[recipe, contrast][f"relative_probability/{'/'.join(cell)}"].mean(),
            )
            for contrast, cell in product(("original", "weighted"), CELLS)
        ]
        names = ["dataset", "method", "target", "baseline", "features_kept", "contrast"]
        return pd.DataFrame(rows, columns=[*names, "here"]).merge(published, on=names)


def line(cells: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield (column, part, value) of cells beside the paper's."""
    gap = (cells["here"] - cells["paper"]).abs()
    wide = cells.pivot_table(
        index=["method", "target", "baseline", "features_kept"], columns="contrast", values=["here", "paper"]
    )
    sign = np.where(wide.index.get_level_values("features_kept") == "positive", 1, -1)
    steps = {where: wide[where]["weighted"] - wide[where]["original"] for where in ("here", "paper")}
    yield "r with the paper", "", f"{cells['here'].corr(cells['paper']):.3f}"
    yield "difference: mean, largest", "mean", f"{gap.mean():.3f}"
    yield "difference: mean, largest", "largest", f"{gap.max():.3f}"
    for contrast in ("original", "weighted"):
        yield "of original, of weighted", contrast, f"{gap[cells['contrast'] == contrast].mean():.3f}"
    yield "the paper's sign", "count", str(int((steps["here"] * steps["paper"] > 0).sum()))
    yield "the paper's sign", "of", str(len(wide))
    for where, values in steps.items():
        yield "step: here, in the paper", where, f"{(sign * values).mean():.3f}"


def compared(frames: dict[Key, pd.DataFrame]) -> dict[tuple[Training, str, str], Beside]:
    """Return what is there of both recipes, by training, mask and method."""
    asked = {key[1:] for key in frames}
    trainings = sorted({training for training, *_ in asked})
    cells = list(product(RECIPES, MASKS, METHODS, ("original", "weighted")))
    full = [t for t in trainings if all((recipe, t, *rest) in frames for recipe, *rest in cells)]
    return {key: Beside(frames, *key) for key in product(full, MASKS, METHODS)}


def beside_the_paper(
    beside: dict[tuple[Training, str, str], Beside], precisions: dict[Training, str]
) -> Iterator[dict[str, object]]:
    """Yield the numbers of the table that has the paper's, too."""
    published = paper.read(paper.FOLDER, paper.PAPER).rename(columns={"relative_probability": "paper"})
    published = published.drop(columns=["model", "relative_probability_unmasked"])
    groups = [[name] for name in METHODS] + [list(METHODS)]
    for training, mask, methods, recipe in product(SHOWN, MASKS, groups, RECIPES):
        if (training, mask, methods[0]) not in beside:
            continue
        pairs = [beside[training, mask, method] for method in methods]
        values = list(line(pd.concat([pair.cells(recipe, published) for pair in pairs])))
        for contrast in ("original", "weighted"):
            hidden, inside = (
                np.mean([getattr(pair, name)(recipe, contrast) for pair in pairs]) for name in ("hidden", "inside")
            )
            values.append(("hidden, positive kept: original, weighted", contrast, f"{hidden:.0f}"))
            if np.isfinite(inside):
                values.append(("inside the box: original, weighted", contrast, f"{inside:.2f}"))
        word = METHODS[methods[0]] if len(methods) == 1 else "both"
        dataset, network, seed = training
        label = {
            "dataset": dataset,
            "network": network,
            "mask": mask,
            "method": word,
            "recipe": recipe,
            "n": pairs[0].n,
        }
        command = COMMAND.format(NAMED[dataset], network, seed)
        stated = {"setting": f"seed {seed}, {WHAT} {precisions[training]}", "command": command}
        yield from (label | {"column": column, "part": part, "value": value} | stated for column, part, value in values)


def over_seeds(
    beside: dict[tuple[Training, str, str], Beside], precisions: dict[Training, str]
) -> Iterator[dict[str, object]]:
    """Yield tail's step minus head's: each training with its interval over images, and over trainings (Student's t)."""
    trainings = list(dict.fromkeys(training for training, *_ in beside))
    networks = dict.fromkeys(training[:2] for training in trainings)
    for (dataset, model), mask, method in product(networks, MASKS, METHODS):
        seeds = [training for training in trainings if training[:2] == (dataset, model)]
        changes = np.array([beside[training, mask, method].change() for training in seeds])
        values = [
            (f"seed {seed}", part, f"{end:+.3f}")
            for (*_, seed), ends in zip(seeds, changes, strict=True)
            for part, end in zip(("mean", "low", "high"), ends, strict=True)
        ]
        values += [(f"seed {t[-1]}", "n", str(beside[t, mask, method].n)) for t in seeds]
        if len(seeds) > 1:
            mean, deviation = changes[:, 0].mean(), stats.sem(changes[:, 0])
            half = stats.t.ppf(0.975, len(seeds) - 1) * deviation
            ends = {"mean": mean, "low": mean - half, "high": mean + half}
            values += [("over the seeds", part, f"{end:+.3f}") for part, end in ends.items()]
        label = {"dataset": dataset, "network": model, "mask": mask, "method": METHODS[method]}
        stated = {
            "setting": f"{WHAT} {precisions[seeds[0]]}",
            "command": COMMAND.format(NAMED[dataset], model, ",".join(str(seed) for *_, seed in seeds)),
        }
        yield from (label | {"column": column, "part": part, "value": value} | stated for column, part, value in values)


def main() -> None:
    """Write the tables and the numbers of sentences."""
    frames, precisions = read(dict(zip(RECIPES, map(Path, sys.argv[1:3]), strict=True)))
    beside = compared(frames)
    write("tail", beside_the_paper(beside, precisions), ["dataset", "network"])
    write("tail_seeds", over_seeds(beside, precisions), ["dataset", "network"])
    accuracies = pd.concat(pd.read_csv(Path(folder) / "accuracies.csv") for folder in sys.argv[3:5])
    for dataset, folder in NAMED.items():
        trained = accuracies[(accuracies["dataset"] == folder) & accuracies["recipe"].isin(RECIPES)]
        begin = "tail" if folder == "cub" else f"tail_{folder}"
        numbers: dict[str, object] = {
            f"{begin}_{r.model}_{r.recipe}_{r.seed}": f"{r.accuracy:.3f}" for r in trained.itertuples()
        }
        for ((name, model, seed), mask, method), recipe in product(beside, RECIPES):
            if name == dataset:
                pair = beside[(name, model, seed), mask, method]
                numbers[f"{begin}_{model}_n_{seed}"] = pair.n
                hidden = f"{begin}_{model}_hidden_{recipe}_{seed}_{mask}_{method}"
                numbers[hidden] = f"{pair.hidden(recipe, 'original'):.0f}"
        if len(trained):
            what = (
                f"{dataset}, subset: test accuracy on all of its test images; percent hidden, original, positive kept, "
                "of images that both selected"
            )
            command = f"python scripts/finetune.py dataset={folder} model=... recipe=..."
            put(
                numbers,
                f"{begin}_({'|'.join(set(trained['model']))})_",
                int(trained["test_images"].iloc[0]),
                what,
                command,
            )


if __name__ == "__main__":
    main()
