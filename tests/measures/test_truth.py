"""Scores against a known answer, each against its definition written slowly: pixel by pixel, pair by pair."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor

from wcx.measures import truth as scores
from wcx.measures.truth import Readings, Truth

PARTS, SIDE = 5, 14


class Scene:
    """A picture of parts (0 is background), some of whose pixels change; and what a `Truth` says of it."""

    def __init__(self, seed: int, tied: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.part = rng.integers(0, PARTS + 1, (SIDE, SIDE))
        self.part[self.part == 5] = 5 if seed % 2 else 0  # the last part is hidden in every second scene
        self.swapped = {0, 2}
        self.changed = np.isin(self.part, [1, 3]) & (rng.random((SIDE, SIDE)) < 0.8) | (rng.random((SIDE, SIDE)) < 0.05)
        self.effects = rng.normal(size=PARTS).round(0 if tied else 6)
        self.right = 2
        maps = rng.normal(size=(6, SIDE, SIDE))
        maps[1] = maps[1].round()  # ties
        maps[2] = maps[2].clip(min=0)
        maps[3] = 0.37  # flat
        maps[4] = -1.0
        maps[5] = self.changed
        self.maps = maps.astype(np.float32)
        kinds, cells = np.unique(self.part * 2 + self.changed, return_inverse=True)
        self.cells = torch.from_numpy(cells.ravel())
        members = torch.tensor([[kind // 2 - 1 == part for part in range(PARTS)] for kind in kinds]).double()
        sizes = torch.bincount(self.cells).double()
        flags = torch.tensor([part in self.swapped for part in range(PARTS)])
        self.visible = [part for part in range(PARTS) if (self.part == part + 1).sum() >= 4]
        candidates = torch.tensor([part in self.visible for part in range(PARTS)])
        changed = torch.tensor(kinds % 2 == 1)
        pixels = torch.from_numpy(self.changed.ravel().nonzero()[0])
        effects = torch.from_numpy(self.effects)
        self.mask = np.isin(self.part, [1, 3])
        mask = torch.tensor([kind // 2 in (1, 3) for kind in kinds])
        mask_pixels = torch.from_numpy(self.mask.ravel().nonzero()[0])
        self.truth = Truth(effects, candidates, flags, self.right, members, changed, mask, sizes, pixels, mask_pixels)

    def readings(self) -> Readings:
        return Readings.of(torch.from_numpy(self.maps).flatten(1), self.cells)

    def values(self, phi: np.ndarray, kind: str) -> dict[int, float]:
        """Mean or sum of a map over each visible part."""
        of = {"mean": np.mean, "sum": np.sum}[kind]
        return {part: float(of(phi.astype(float)[self.part == part + 1])) for part in self.visible}


def score(name: str, readings: Readings, truth: Truth) -> dict[str, Tensor]:
    rule = scores.get(name)()
    return dict(zip(rule.columns, rule(readings, truth).T, strict=True))


@pytest.fixture(params=range(4))
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene(request.param, tied=request.param > 1)


def test_the_top_part_is_the_visible_one_of_the_largest_value_and_ties_share_it(scene: Scene) -> None:
    measured = score("top_part", scene.readings(), scene.truth)
    main = max(scene.visible, key=lambda part: scene.effects[part])
    for k, phi in enumerate(scene.maps):
        for name, kind, right in (
            ("top_mean", "mean", scene.right),
            ("top_sum", "sum", scene.right),
            ("top_effect", "mean", main),
        ):
            values = scene.values(phi, kind)
            top = [part for part, value in values.items() if value > max(values.values()) - 1e-9]
            assert measured[name][k] == pytest.approx((right in top) / len(top)), (name, k)
    assert measured["top_mean"][3] == pytest.approx(1 / len(scene.visible)), "a flat map shows no part"


def test_tau_is_that_of_scipy(scene: Scene) -> None:
    measured = score("rank_correlation", scene.readings(), scene.truth)
    for (k, phi), kind in itertools.product(enumerate(scene.maps), ("mean", "sum")):
        values = [round(value, 9) for value in scene.values(phi, kind).values()]
        expected = kendalltau(values, scene.effects[scene.visible]).statistic
        assert float(measured[f"tau_{kind}"][k]) == pytest.approx(expected, nan_ok=True), (k, kind)


def test_sign_is_the_share_of_effects_with_the_maps_sign(scene: Scene) -> None:
    measured = score("sign", scene.readings(), scene.truth)["sign"]
    for k, phi in enumerate(scene.maps):
        asked = [part for part in scene.visible if scene.effects[part] != 0]
        expected = np.mean([np.sign(scene.values(phi, "mean")[part]) == np.sign(scene.effects[part]) for part in asked])
        assert float(measured[k]) == pytest.approx(expected)


@pytest.mark.parametrize(("column", "pixels"), [("auroc", "changed"), ("auroc_mask", "mask")])
def test_auroc_counts_pairs_of_pixels(scene: Scene, column: str, pixels: str) -> None:
    measured, chosen = score("auroc", scene.readings(), scene.truth)[column], getattr(scene, pixels)
    for k, phi in enumerate(scene.maps):
        inside, outside = phi[chosen], phi[~chosen]
        wins = [float(a > b) + 0.5 * float(a == b) for a, b in itertools.product(inside, outside)]
        assert float(measured[k]) == pytest.approx(np.mean(wins))


@pytest.mark.parametrize(("column", "pixels"), [("average_precision", "changed"), ("average_precision_mask", "mask")])
def test_average_precision_is_the_mean_of_the_precisions_at_each_pixel(scene: Scene, column: str, pixels: str) -> None:
    measured, chosen = score("average_precision", scene.readings(), scene.truth)[column], getattr(scene, pixels)
    for k, phi in enumerate(scene.maps):
        precisions = [chosen[phi >= value].mean() for value in phi[chosen]]
        assert float(measured[k]) == pytest.approx(np.mean(precisions))


def test_mass_and_leak_are_shares_of_the_positive_values(scene: Scene) -> None:
    measured = score("mass", scene.readings(), scene.truth)
    stays = np.isin(scene.part, [part + 1 for part in scene.visible if part not in scene.swapped])
    for k, phi in enumerate(scene.maps):
        positive = phi.astype(float).clip(min=0)
        if positive.sum() == 0:
            assert measured["mass"][k].isnan()
            continue
        share = positive[scene.changed].sum() / positive.sum()
        assert float(measured["mass"][k]) == pytest.approx(share / scene.changed.mean())
        assert float(measured["leak"][k]) == pytest.approx(positive[stays].sum() / positive.sum())
    assert float(measured["mass"][3]) == pytest.approx(1), "a flat map has its share"


@pytest.mark.parametrize("name", scores.names())
def test_the_painted_truth_reaches_the_ceiling(name: str) -> None:
    scene, rule = Scene(0), scores.get(name)()
    scene.truth.effects[scene.right] = scene.truth.effects.max() + 1
    for column, kind in zip(rule.columns, rule.painted, strict=True):
        painted = scene.truth.painted(kind)[None]
        sums = painted * scene.truth.sizes
        readings = Readings(sums, sums.clamp(min=0), painted[:, scene.cells].float())
        value = float(score(name, readings, scene.truth)[column])
        ceilings = {"mass": 1 / scene.changed.mean(), "leak": value}
        assert value == pytest.approx(ceilings.get(column, 1)), column


@pytest.mark.parametrize("name", scores.names())
def test_maps_of_known_ranks_read_by_other_cells_score_the_same(name: str) -> None:
    scene = Scene(1)
    maps = torch.randn(7, SIDE * SIDE, generator=torch.Generator().manual_seed(0))
    ranked = Readings.of(maps, torch.zeros_like(scene.cells)).rank().recut(scene.cells)
    plain = Readings.of(maps, scene.cells)
    for column, values in score(name, ranked, scene.truth).items():
        # sums of 200 numbers in float32
        assert torch.allclose(values, score(name, plain, scene.truth)[column], atol=1e-5), column
        assert torch.equal(
            score(name, plain.take(torch.tensor([5, 2])), scene.truth)[column],
            score(name, Readings.of(maps[[5, 2]], scene.cells), scene.truth)[column],
        )
