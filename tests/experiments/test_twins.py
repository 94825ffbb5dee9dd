"""Twins against loops written from the definitions: permutations for Shapley values, one map and one question at a time."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
from scipy.ndimage import sobel
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

import wcx
from wcx import datasets, methods
from wcx.datasets.parts import discriminating_parts
from wcx.errors import WcxError
from wcx.experiments import Cell, Subject, images
from wcx.experiments._games import log_odds, shapley
from wcx.experiments._scoring import centre, edges
from wcx.experiments.images import Item
from wcx.experiments.twins import PartTwins, Settings
from wcx.images import Normalized
from wcx.models import load as load_model
from wcx.models.small_cnn import SmallCNN
from wcx.pipeline import Job

METHODS, CONTRASTS = ("gradcam", "gradient"), ("original", "max", "weighted")
CELLS = [Cell(m, c) for m in METHODS for c in CONTRASTS]
LAYER = "features.4"


@pytest.fixture(scope="module")
def birds() -> datasets.ImageDataset:
    return datasets.load("parts", "x", test_per_class=1, families="factorial")


@pytest.fixture(scope="module")
def items(birds: datasets.ImageDataset) -> list[Item]:
    return list(images.read(birds, [0, 9, 21], needs_twins=True))


@pytest.fixture(scope="module")
def model(items: list[Item]) -> nn.Module:
    """A network that knows its way about a few scenes: their eight twins, learnt by heart."""
    torch.manual_seed(0)
    network = Normalized(SmallCNN(32))
    pixels = torch.cat([torch.cat([item.pixels[None], item.twins.pixels]) for item in items])
    labels = torch.tensor([label for item in items for label in (item.label, *item.twins.labels)])
    labels[10] = labels[8]  # but for two that it takes for others
    labels[16] = labels[17]
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(pixels), labels).backward()
        optimizer.step()
    return network.eval()


def experiment(model: nn.Module, cells: list[Cell] = CELLS, **settings: object) -> PartTwins:
    created = {cell.method: methods.create(cell.method) for cell in cells}
    return PartTwins(Subject(model, LAYER, created, batch_size=2), cells, Settings(**{"chance": 50} | settings))


@pytest.fixture(scope="module")
def rows(model: nn.Module, items: list[Item]) -> dict[Cell, list[dict[str, float]]]:
    return experiment(model).rows(items)


def test_shapley_values_are_means_over_all_orders_and_sum_to_the_whole() -> None:
    parts, rng = ("a", "b", "c"), np.random.default_rng(0)
    sets = [frozenset(s) for n in range(4) for s in itertools.combinations(parts, n)]
    values = {s: torch.tensor(rng.normal()) for s in sets}
    phi = shapley(values, parts)
    for part in parts:
        gains = []
        for order in itertools.permutations(parts):
            before = frozenset(order[: order.index(part)])
            gains.append(float(values[before] - values[before | {part}]))
        assert float(phi[part]) == pytest.approx(np.mean(gains))
    assert float(sum(phi.values())) == pytest.approx(float(values[frozenset()] - values[frozenset(parts)]), abs=1e-5)


def test_without_all_twins_an_effect_is_that_of_the_single_swap() -> None:
    values = {frozenset(): torch.tensor(2.0), frozenset("a"): torch.tensor(0.5), frozenset("b"): torch.tensor(3.0)}
    assert shapley(values, ("a", "b")) == {"a": 1.5, "b": -1.0}


def test_an_image_takes_eight_forward_passes_whatever_the_maps(model: nn.Module, items: list[Item]) -> None:
    for cells in (CELLS, CELLS[:1]):
        tried = experiment(model, cells, chance=0)
        tried.rows(items)
        assert tried.subject.passes["evaluation"] == 8 * len(items)
        groups = len({cell.method for cell in cells})
        assert tried.subject.passes["forward"] == groups * len(items), "those that gradients are taken of"
        assert tried.subject.passes["backward"] <= tried.passes()["backward"] * len(items)


def answers(model: nn.Module, birds: datasets.ImageDataset, item: Item) -> tuple[Tensor, dict[frozenset[str], int]]:
    """Logits of every species in the image's scene, (32, C), and the class of each twin."""
    names = birds.class_names
    family = [c for c in range(32) if names[c].rpartition("-")[2] == names[item.label].rpartition("-")[2]]
    scenes = torch.stack([birds.transform(birds.counterfactual(item.index, c)) for c in family])
    logits = torch.full((32, 32), torch.nan, dtype=torch.float64)
    with torch.no_grad():
        logits[family] = model(scenes).double()
    return logits, {frozenset(discriminating_parts(names[item.label], names[c])): c for c in family}


def attribution(model: nn.Module, item: Item, cell: Cell, target: int, foils: list[int] | None) -> np.ndarray:
    layer = LAYER if cell.method == "gradcam" else None
    phi = wcx.explain(model, item.pixels[None], target, *cell, foils=foils, layer=layer)
    return (wcx.upsample(phi, 96)[0] if layer else phi[0].sum(0)).double().numpy()


def regions(
    birds: datasets.ImageDataset, item: Item, classes: dict[frozenset[str], int], d: frozenset[str]
) -> dict[str, np.ndarray]:
    """The region of each visible part: its pixels, with the twin's outline of swapped parts, which others lose."""
    masks = birds.part_masks(item.index)
    union = {}
    for part in sorted(d, key=list(masks).index):
        outline = birds.part_masks(item.index, classes[frozenset({part})])[part]
        others = np.any(
            [masks[other] for other in d if other != part] + [*union.values(), np.zeros((96, 96), bool)], axis=0
        )
        union[part] = masks[part] | (outline & ~others)
    taken = np.any([*union.values()], axis=0)
    whole = {part: union[part] if part in d else mask & ~taken for part, mask in masks.items()}
    return {part: mask for part, mask in whole.items() if mask.sum() >= 4}


def top(phi: np.ndarray, where: dict[str, np.ndarray], right: str, kind: str) -> float:
    values = {part: float(getattr(phi[mask], kind)()) for part, mask in where.items()}
    best = [part for part, value in values.items() if value >= max(values.values()) - 1e-9]
    return (right in best) / len(best)


@pytest.mark.parametrize("place", range(3))
def test_top_parts_are_those_of_a_loop_over_questions(
    model: nn.Module, birds: datasets.ImageDataset, items: list[Item], rows: dict, place: int
) -> None:
    item = items[place]
    logits, classes = answers(model, birds, item)
    a, empty = item.label, frozenset[str]()
    predicted = int(logits[a].argmax())
    parts = birds.varying(item.index)
    single = [(part, classes[frozenset({part})]) for part in parts]
    siblings = [c for c in classes.values() if c != a]
    everyone = [c for c in range(32) if c != a]

    def effects(target: int, foils: list[int]) -> dict[str, float]:
        mask = torch.zeros(32, dtype=torch.bool)
        mask[foils] = True
        values = {s: log_odds(logits[c], target, mask) for s, c in classes.items()}
        return {part: float(value) for part, value in shapley(values, parts).items()}

    def g(image: int, foil: int) -> float:
        return float(logits[image, a] - logits[image, foil])

    for cell in CELLS:
        row = rows[cell][place]
        assert row["predicted"] == predicted
        seen: dict[str, list[float]] = defaultdict(list)
        credits: dict[str, tuple[float, bool]] = {}
        for part, c in single:
            phi, d = attribution(model, item, cell, a, [c]), frozenset({part})
            where = regions(birds, item, classes, d)
            if part not in where:
                continue
            is_verified = g(a, c) > 0 > g(c, c)
            value = top(phi, where, part, "mean")
            seen["top_mean/q1/all"].append(value)
            credits[part] = value, is_verified
            if g(a, c) > 0:
                seen["flip/q1"].append(float(g(c, c) < 0))
            if is_verified:
                seen["top_mean/q1/verified"].append(value)
                seen["top_sum/q1/verified"].append(top(phi, where, part, "sum"))
                seen["top_mean/q1/clipped"].append(top(phi.clip(min=0), where, part, "mean"))
                seen["top_mean/q1/others"].append(top(attribution(model, item, cell, a, None), where, part, "mean"))
                truth = effects(a, [c])
                seen["other_part/q1"].append(float(max(truth, key=lambda k: truth[k]) != part))
        for (x, is_x), (y, is_y) in itertools.combinations(credits.values(), 2):
            seen["top_mean/q3/all"].append(x * y)
            if is_x and is_y:
                seen["top_mean/q3/verified"].append(x * y)
        for d, c in classes.items():
            if len(d) > 1:
                where = regions(birds, item, classes, d)
                truth = {part: effects(a, [c]).get(part, 0.0) for part in where}
                value = top(attribution(model, item, cell, a, [c]), where, max(truth, key=lambda k: truth[k]), "mean")
                seen["top_mean/q2/all"].append(value)
                if g(a, c) > 0 > g(c, c):
                    seen["top_mean/q2/verified"].append(value)
        pairs = [[c, d] for (_, c), (_, d) in itertools.combinations(single, 2)]
        for kind, foils in [("q4_siblings", siblings), ("q4_all", everyone), *(("q4_pairs", pair) for pair in pairs)]:
            swapped = frozenset(parts) if kind != "q4_pairs" else frozenset(k for k, c in single if c in foils)
            where = {k: m for k, m in regions(birds, item, classes, swapped).items() if k in parts}
            truth = effects(a, foils)
            right = max(where, key=lambda k: truth[k])
            value = top(attribution(model, item, cell, a, foils), where, right, "mean")
            seen[f"top_mean/{kind}/all"].append(value)
            if predicted == a:
                seen[f"top_mean/{kind}/verified"].append(value)
        for name, values in seen.items():
            assert row[name] == pytest.approx(np.mean(values), abs=1e-6), (cell, name)
        assert row["verified/q1"] == len(seen.get("top_mean/q1/verified", []))
        assert row["verified/q3"] == len(seen.get("top_mean/q3/verified", []))
        assert ("top_mean/q4_all/verified" in row) == (predicted == a)
        assert ("tau_mean/q5/verified" in row) == (predicted != a and predicted in siblings)
    assert empty in classes


def test_q5_asks_why_the_wrong_class_is_predicted_and_not_the_true_one(
    model: nn.Module, birds: datasets.ImageDataset, items: list[Item], rows: dict
) -> None:
    wrong = [place for place, item in enumerate(items) if rows[CELLS[0]][place]["predicted"] != item.label]
    assert wrong, "the network was taught a mistake"
    for place in wrong:
        item, row = items[place], rows[Cell("gradient", "weighted")][place]
        logits, classes = answers(model, birds, item)
        b = int(row["predicted"])
        effects = shapley(
            {s: logits[c, b] - logits[c, item.label] for s, c in classes.items()}, birds.varying(item.index)
        )
        d = frozenset(discriminating_parts(birds.class_names[b], birds.class_names[item.label]))
        where = regions(birds, item, classes, d)
        phi = attribution(model, item, Cell("gradient", "weighted"), b, [item.label])
        asked = [part for part in effects if part in where]
        expected = np.mean([np.sign(phi[where[part]].sum()) == np.sign(float(effects[part])) for part in asked])
        assert row["sign/q5/verified"] == pytest.approx(expected)


def test_the_painted_truth_is_right_and_chance_is_what_random_maps_reach(rows: dict, items: list[Item]) -> None:
    for row in itertools.chain(*rows.values()):
        for name, value in row.items():
            score, _, reading = (*name.split("/"), "")[:3] if name.count("/") == 2 else ("", "", "")
            if reading == "ceiling" and score not in ("mass", "leak", "top_mean", "top_sum"):
                assert value == pytest.approx(1, abs=1e-9) or np.isnan(value), name
        for kind in ("mean", "sum"):
            ceiling = row.get(f"top_{kind}/q1/ceiling", np.nan)
            assert np.isnan(ceiling) or ceiling == pytest.approx(1 - row["other_part/q1"])
    row = rows[CELLS[0]][0]
    assert row["auroc/q1/chance"] == pytest.approx(0.5, abs=0.08)  # 50 smooth maps
    assert row["sign/q1/chance"] == pytest.approx(0.5, abs=0.15)
    assert 0.05 < row["top_mean/q1/chance"] < 0.3
    assert row["top_mean/q3/chance"] < row["top_mean/q1/chance"]


def test_the_second_pixels_are_those_that_show_the_part_in_the_image(
    model: nn.Module, birds: datasets.ImageDataset, items: list[Item], rows: dict
) -> None:
    cell = Cell("gradcam", "weighted")
    for item, row in zip(items, rows[cell], strict=True):
        _, classes = answers(model, birds, item)
        areas = []
        for part in birds.varying(item.index):
            swapped, mask = frozenset({part}), birds.part_masks(item.index)[part]
            if part not in regions(birds, item, classes, swapped):
                continue
            phi = attribution(model, item, cell, item.label, [classes[swapped]])
            u = mannwhitneyu(phi[mask], phi[~mask]).statistic if mask.any() else np.nan
            areas.append(u / (mask.sum() * (~mask).sum()) if mask.any() else np.nan)
        assert row["auroc_mask/q1/all"] == pytest.approx(np.nanmean(areas), abs=1e-6)


def test_edges_and_centre_are_those_of_their_formulas(items: list[Item]) -> None:
    pixels = items[0].pixels
    kernels = [sobel(pixels.double().mean(0).numpy(), axis, mode="nearest") for axis in (0, 1)]
    assert np.allclose(edges(pixels).numpy(), np.hypot(*kernels), atol=1e-5)
    middle = centre(pixels)
    assert middle.argmax() in (47 * 96 + 47, 47 * 96 + 48, 48 * 96 + 47, 48 * 96 + 48)
    assert float(middle[48, 0] / middle[48, 48]) == pytest.approx(np.exp(-2), rel=0.01), "two widths away"


def test_maps_of_single_foils_agree_under_max_and_weighted(rows: dict) -> None:
    for name in ("top_mean/q1/verified", "auroc/q2/verified", "tau_mean/q1/all", "top_mean/q3/all"):
        values = [[row.get(name) for row in rows[Cell("gradcam", contrast)]] for contrast in ("max", "weighted")]
        assert values[0] == pytest.approx(values[1], nan_ok=True)


def test_rows_hold_the_columns_and_what_is_not_asked_is_no_number(
    model: nn.Module, items: list[Item], rows: dict
) -> None:
    columns = PartTwins.columns(Settings(chance=50))
    assert len(set(columns)) == len(columns)
    assert not {name for row in itertools.chain(*rows.values()) for name in row} - set(columns)
    assert not [name for name in PartTwins.columns(Settings(chance=0)) if name.endswith("chance")]
    bare = [Item(0, "0", 0, items[0].pixels), Item(1, "1", 0, None)]
    skipped = experiment(model).rows(bare)[CELLS[0]]
    assert [row["skipped"] for row in skipped] == [False, True]
    assert all("predicted" not in row for row in skipped)


def test_rows_do_not_depend_on_the_batch(model: nn.Module, items: list[Item], rows: dict) -> None:
    alone = experiment(model).rows(items[1:2])
    for cell in CELLS:
        for name, value in alone[cell][0].items():
            if name.startswith(("tau", "sign", "auroc")):  # no ties that rounding decides
                assert value == pytest.approx(rows[cell][1][name], abs=1e-3, nan_ok=True), name


def test_images_without_twins_are_refused_in_one_line() -> None:
    dataset = datasets.load("parts", "x", test_per_class=1)
    loaded = load_model("small_cnn", weights="random", num_classes=20)
    with pytest.raises(
        WcxError, match=r"dataset parts as it was opened has none; give dataset=parts dataset\.families=factorial"
    ):
        Job(PartTwins, dataset, loaded, CELLS, Settings())
    with pytest.raises(WcxError, match="chance = -1 is no number of random maps"):
        Settings(chance=-1)
