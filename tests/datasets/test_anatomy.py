"""CUB's parts and attributes: the tables against loops and scipy, the points against the files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from tests.datasets import trees
from wcx.datasets import anatomy, load
from wcx.datasets.cub import PARTS, Cub
from wcx.errors import DataError


@pytest.fixture(scope="module")
def cub(shared: Path) -> Cub:
    dataset = load("cub", shared / "data/cub")
    assert isinstance(dataset, Cub)
    return dataset


@pytest.fixture(scope="module")
def percentages(shared: Path) -> np.ndarray:
    return np.loadtxt(shared / "data/cub/CUB_200_2011/attributes/class_attribute_labels_continuous.txt")


def test_groups_are_those_of_the_shared_list(shared: Path) -> None:
    expected: dict[str, list[tuple[int, int]]] = {region: [] for region in anatomy.REGIONS}
    with (shared / "data/cub/attribute_group_parts.csv").open() as file:
        for row in csv.DictReader(file):
            regions = {name.removeprefix("left ").removeprefix("right ") for name in row["part_names"].split("|")}
            if row["coarse"] == "0":
                expected[regions.pop()].append((int(row["first_attribute"]), int(row["last_attribute"])))
    assert {region: sorted(map(tuple, own)) for region, (own, _) in anatomy.GROUPS.items()} == {
        region: sorted(groups) for region, groups in expected.items()
    }
    assert len(anatomy.REGIONS) == 12


def test_l1_is_the_largest_distance_of_a_group(percentages: np.ndarray) -> None:
    table = anatomy.l1(percentages)
    rng = np.random.default_rng(0)
    for _ in range(60):
        a, b = rng.integers(200, size=2)
        for place, (own, _) in enumerate(anatomy.GROUPS.values()):
            distances = []
            for first, last in own:
                p, q = percentages[a, first - 1 : last], percentages[b, first - 1 : last]
                distances.append(0.5 * sum(abs(x / p.sum() - y / q.sum()) for x, y in zip(p, q, strict=True)))
            assert table[a, b, place] == pytest.approx(max(distances), abs=1e-12)
    assert table.min() == 0
    assert table.max() <= 1 + 1e-12


def test_a_group_that_nobody_saw_has_no_share() -> None:
    percentages = np.zeros((2, 312))
    percentages[1, 120] = 40.0  # throat
    assert anatomy.l1(percentages)[0, 1, anatomy.REGIONS.index("throat")] == pytest.approx(0.5)


def test_scout_is_their_rule_on_15_parts(percentages: np.ndarray) -> None:
    """Theirs: 2 JS of softmaxes in nats, a mean over groups; the fifth of all entries that differs least is cut off."""
    chosen = percentages[::5]
    values = np.zeros((40, 40, 15))
    for part, region in enumerate(PARTS):
        own, added = anatomy.GROUPS[region]
        for first, last in [*own, *added]:
            p = softmax(chosen[:, first - 1 : last], axis=1)
            middle = (p[:, None] + p) / 2
            pairs = (rel_entr(p[:, None], middle) + rel_entr(p[None], middle)).sum(2)
            values[:, :, part] += pairs / len([*own, *added])
    threshold = np.sort(values, axis=None)[int(0.2 * values.size)]
    ours = anatomy.scout(chosen)[:, :, [anatomy.REGIONS.index(region) for region in PARTS]]
    clear = np.abs(values - threshold) > 1e-9  # rounding settles what lies on the threshold
    assert (ours == (values > threshold))[clear].all()
    assert clear.mean() > 0.99


def test_points_are_the_visible_ones_of_the_file(shared: Path, cub: Cub) -> None:
    rows = np.loadtxt(shared / "data/cub/CUB_200_2011/parts/part_locs.txt")
    numbers = dict(
        line.split()[::-1] for line in (shared / "data/cub/CUB_200_2011/images.txt").read_text().splitlines()
    )
    for i in (0, 100, 570):
        number = int(numbers[cub.ids[i].removeprefix("CUB_200_2011/images/")])
        stored = rows[(rows[:, 0] == number) & (rows[:, 4] == 1)]
        known, (width, height) = cub.anatomy(i), cub.image(i).size
        np.testing.assert_allclose(known.points, stored[:, 2:4] * [224 / width, 224 / height])
        assert [anatomy.REGIONS[region] for region in known.regions] == [PARTS[int(part) - 1] for part in stored[:, 1]]


def test_parts_are_in_the_order_of_the_file(shared: Path) -> None:
    lines = (shared / "data/cub/CUB_200_2011/parts/parts.txt").read_text().splitlines()
    names = [line.split(maxsplit=1)[1].removeprefix("left ").removeprefix("right ") for line in lines]
    assert tuple(names) == PARTS


def test_a_class_is_placed_by_its_name_or_its_number(cub: Cub) -> None:
    assert cub.place("Laysan Albatross") == cub.place("002.Laysan_Albatross") == 1
    assert cub.place("200.Common_Yellowthroat") == 199
    assert cub.place("Great Auk") is None


def test_a_crop_cuts_points_off(shared: Path, cub: Cub) -> None:
    cropped = load("cub", shared / "data/cub", transform={"kind": "crop", "resize": 448, "size": 64})
    assert isinstance(cropped, Cub)
    counts = [(len(cropped.anatomy(i).points), len(cub.anatomy(i).points)) for i in range(0, 60, 6)]
    assert all(few <= many for few, many in counts)
    assert sum(few for few, _ in counts) < sum(many for _, many in counts)


def test_without_its_files_there_is_no_anatomy(tmp_path: Path) -> None:
    trees.cub(tmp_path)
    dataset = load("cub", tmp_path)
    assert isinstance(dataset, Cub)
    assert not dataset.has_anatomy
    with pytest.raises(DataError, match=r"cannot read the list .*part_locs.txt"):
        dataset.anatomy(0)
