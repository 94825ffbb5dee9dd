"""Part attributes against scipy's tau-b and loops written from the formulas; chance, selection, mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

import wcx
from tests import nets
from wcx import methods
from wcx.cli import application, opening
from wcx.datasets.anatomy import REGIONS, Anatomy
from wcx.errors import WcxError
from wcx.experiments import Cell, Subject
from wcx.experiments.images import Item
from wcx.experiments.part_attributes import PartAttributes, Settings, at_regions, top_third
from wcx.images import Normalized

CELLS = [Cell(m, c) for m in ("gradcam", "gradient") for c in ("original", "weighted")]
CLASSES = 5
BOX = np.array([1.0, 2.0, 12.0, 8.0])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Normalized(nets.conv_batchnorm()).double().eval()


@pytest.fixture(scope="module")
def items(model: nn.Module) -> list[Item]:
    rng = np.random.default_rng(0)
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    outputs = model(pixels[:1]).shape[1]
    tables = {rule: rng.integers(0, 4, (CLASSES, CLASSES, 12)) / 4 for rule in ("l1", "scout")}  # with ties
    tables = {rule: (table + table.transpose(1, 0, 2)) / 2 for rule, table in tables.items()}
    classes = {output: output % CLASSES for output in range(outputs)}
    items = []
    for i, image in enumerate(pixels):
        regions = rng.choice(12, size=9)  # some twice, some not visible
        anatomy = Anatomy(rng.uniform(0, 16, (9, 2)), regions, tables, classes)
        items.append(Item(i, f"{i}.jpg", 0, image, BOX, anatomy=anatomy))
    return items


def experiment(model: nn.Module, **settings: object) -> PartAttributes:
    created = {cell.method: methods.create(cell.method) for cell in CELLS}
    return PartAttributes(Subject(model, "2", created, batch_size=3), CELLS, Settings(**{"threshold": 0.0} | settings))


def disc_mean(phi: Tensor, x: float, y: float, radius: float) -> float:
    inside = [
        float(phi[r, c])
        for r in range(16)
        for c in range(16)
        if (c + 0.5 - x) ** 2 + (r + 0.5 - y) ** 2 <= radius**2 or (r, c) == (int(y), int(x))
    ]
    return sum(inside) / len(inside)


@pytest.mark.parametrize("foils", [1, None])
@pytest.mark.parametrize("truth", ["l1", "scout"])
def test_equals_the_formulas(model: nn.Module, items: list[Item], truth: str, foils: int | None) -> None:
    rows = experiment(model, radius=0.2, truth=truth, foils=foils).rows(items)
    for cell in CELLS:
        for item, row in zip(items, rows[cell], strict=True):
            logits = model(item.pixels[None])
            t, s = (int(k) for k in logits[0].argsort(descending=True)[:2])
            layer = "2" if cell.method == "gradcam" else None
            asked = [s] if foils == 1 else None
            phi = wcx.explain(model, item.pixels[None], t, *cell, foils=asked, layer=layer)
            phi = wcx.upsample(phi, (16, 16))[0] if layer else phi[0].sum(0)
            by_region: dict[int, list[float]] = {}
            for (x, y), region in zip(item.anatomy.points, item.anatomy.regions, strict=True):
                by_region.setdefault(int(region), []).append(disc_mean(phi, x, y, 0.2 * 12))
            seen = sorted(by_region)
            values = [sum(by_region[region]) / len(by_region[region]) for region in seen]
            a, b = item.anatomy.classes[t], item.anatomy.classes[s]
            d = item.anatomy.differences[truth][a, b][seen]
            assert (row["t_1"], row["t_2"], row["regions"], row["known"]) == (t, s, len(seen), 1)
            assert row["tau/map"] == pytest.approx(kendalltau(values, d).statistic, abs=1e-12)
            third = sorted(d, reverse=True)[: -(-len(seen) // 3)]
            assert row["top/map"] == float(d[int(np.argmax(values))] >= third[-1])


def test_permuted_regions_are_chance(model: nn.Module, items: list[Item]) -> None:
    """The expected tau-b of a random order is 0, and the expected top the share of regions in the third; 5 standard errors."""
    rows = experiment(model, chance=4000).rows(items)[CELLS[0]]
    for item, row in zip(items, rows, strict=True):
        seen = sorted(set(item.anatomy.regions.tolist()))
        d = torch.tensor(item.anatomy.differences["l1"][row["t_1"] % CLASSES, row["t_2"] % CLASSES][seen])
        third = float((d >= d.sort(descending=True).values[-(-len(seen) // 3) - 1]).double().mean())
        assert abs(row["tau/permuted"]) < 5 * 0.4 / 4000**0.5
        assert abs(row["top/permuted"] - third) < 5 * 0.5 / 4000**0.5


def test_a_map_that_is_the_truth_is_right(items: list[Item]) -> None:
    item = items[0]
    d = torch.tensor(item.anatomy.differences["l1"][0, 1])
    assert float(top_third(d[None], d[None])) == 1
    assert float(top_third(-d[None], d[None])) < 1


def test_a_tie_counts_by_its_share_and_no_difference_is_no_question() -> None:
    d = torch.tensor([[0.9, 0.5, 0.1]], dtype=torch.float64)
    assert float(top_third(torch.tensor([[2.0, 2.0, 1.0]], dtype=torch.float64), d)) == 0.5
    assert float(top_third(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64), torch.full_like(d, 0.3))) != 1
    assert torch.isnan(top_third(d, torch.full_like(d, 0.3))).all()


def test_a_point_always_has_its_pixel(items: list[Item]) -> None:
    phi = torch.arange(256, dtype=torch.float64).view(16, 16)
    anatomy = Anatomy(np.array([[3.9, 7.2]]), np.array([2]), {}, {})
    values = at_regions(phi, Item(0, "a", 0, items[0].pixels, BOX, anatomy=anatomy), 1e-6)
    assert float(values[2]) == 7 * 16 + 3
    assert values.isnan().sum() == 11


def test_outputs_that_are_no_classes_have_no_scores(model: nn.Module, items: list[Item]) -> None:
    strange = [
        Item(0, "0.jpg", 0, items[0].pixels, BOX, anatomy=Anatomy(*list(vars(items[0].anatomy).values())[:3], {}))
    ]
    row = experiment(model).rows(strange)[CELLS[0]][0]
    assert row["known"] == 0
    assert row["above_threshold"]
    assert "tau/map" not in row


def test_the_rows_end_with_the_last_that_is_wanted(model: nn.Module, items: list[Item]) -> None:
    whole, part = experiment(model).rows(items), experiment(model).rows(items, most=2)
    assert [len(column) for column in part.values()] == [2] * 4
    assert part[CELLS[0]][1] == whole[CELLS[0]][1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truth": "l2"}, "unknown truth 'l2'.*l1, scout"),
        ({"radius": 0}, "radius = 0 is no share"),
        ({"chance": 0}, "chance = 0 is no number of permutations"),
        ({"threshold": 1}, "threshold = 1 is no probability"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(WcxError, match=message):
        Settings(**settings)


def test_a_dataset_without_parts_is_one_line(tmp_path: Path) -> None:
    asked = ["experiment=part_attributes", "model.weights=random", "device=cpu", f"paths.results_dir={tmp_path}"]
    with pytest.raises(
        WcxError, match=r"needs the points of parts .* dataset parts as it was opened lacks; give dataset=cub"
    ):
        opening.job([application.compose(asked)])


def test_the_bird_network_knows_species_beyond_those_with_images(shared: Path, tmp_path: Path) -> None:
    """Its file maps 170 of CUB's 200 classes; 16 of the 22 that have images here."""
    asked = ["experiment=part_attributes", "dataset=cub", "model=mobilenet_v2_inat_birds", "device=cpu"]
    asked += [f"paths.{key}_dir={shared / key}" for key in ("data", "weights")]
    job = opening.job([application.compose([*asked, f"paths.results_dir={tmp_path}"])])
    [item] = job.read([0])
    assert len(item.anatomy.classes) == 170
    assert item.anatomy.classes[item.label] == 0
    assert len(REGIONS) == item.anatomy.differences["scout"].shape[2]
