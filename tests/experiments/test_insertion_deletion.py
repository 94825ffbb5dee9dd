"""Insertion and deletion against a loop written from the formulas: one image, one map, one step at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wcx
from tests import nets
from wcx import methods
from wcx.errors import WcxError
from wcx.experiments import Cell, Subject
from wcx.experiments.images import Item
from wcx.experiments.insertion_deletion import VALUES, InsertionDeletion, Settings
from wcx.images import Normalized, make_baseline

CELLS = [Cell(m, c) for m in ("gradcam", "gradient") for c in ("original", "max", "weighted")]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Normalized(nets.conv_batchnorm()).double().eval()


@pytest.fixture(scope="module")
def items() -> list[Item]:
    pixels = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return [Item(i, f"{i}.jpg", i % 3, p) for i, p in enumerate(pixels)]


def experiment(model: nn.Module, **settings: object) -> InsertionDeletion:
    created = {cell.method: methods.create(cell.method) for cell in CELLS}
    options = {"select": "all", "steps": 5, "baselines": ("zeros", "blur")} | settings
    return InsertionDeletion(Subject(model, "2", created, batch_size=4), CELLS, Settings(**options))


def by_hand(model: Normalized, pixels: Tensor, cell: Cell, rank: int, s: Settings, baseline: str) -> dict[str, list]:
    """g(I_k) and g(D_k), k = 0 ... K, of every value function."""
    y = model(pixels[None])[0].detach()
    t, s_ = (int(i) for i in y.argsort(descending=True)[[rank, 1 - rank]])
    phi = wcx.explain(model, pixels[None], t, *cell, layer="2" if cell.method == "gradcam" else None)
    phi = wcx.upsample(phi, (16, 16))[0] if cell.method == "gradcam" else phi[0].sum(0)
    v = wcx.cotangent(y[None], t, cell.contrast)[0]
    ranked = sorted(range(256), key=lambda p: (-float(phi.flatten()[p]), p))
    other = make_baseline(baseline, pixels[None], zero=model.mean.flatten())[0]
    others = [i for i in range(len(y)) if i != t]
    curves: dict[str, list] = {f"{curve}/{g}": [] for curve in ("insertion", "deletion") for g in VALUES}
    for k in range(s.steps + 1):
        top = torch.zeros(256, dtype=torch.bool)
        top[ranked[: round(256 * k / s.steps)]] = True
        for curve, image in (
            ("insertion", torch.where(top.view(16, 16), pixels, other)),
            ("deletion", torch.where(top.view(16, 16), other, pixels)),
        ):
            z = model(image[None])[0].detach()
            values = {"logit": z[t], "probability": z.exp()[t] / z.exp().sum(), "contrast": (v * z).sum()}
            values |= {"log_odds": z[t] - z[others].exp().sum().log()}
            values |= {"relative_probability": z[t].exp() / (z[t].exp() + z[s_].exp())}
            for g, value in values.items():
                curves[f"{curve}/{g}"].append(float(value))
    return curves


def test_equals_the_formulas(model: Normalized, items: list[Item]) -> None:
    subject = experiment(model)
    rows = subject.rows(items)
    checked = 0
    for cell in CELLS:
        for item, row in zip(items, rows[cell], strict=True):
            for rank in range(2):
                for baseline in ("zeros", "blur"):
                    curves = by_hand(model, item.pixels, cell, rank, subject.settings, baseline)
                    for g in VALUES:
                        inserted, deleted = curves[f"insertion/{g}"], curves[f"deletion/{g}"]
                        srg = sum(a - b for a, b in zip(inserted[1:-1], deleted[1:-1], strict=True)) / 5
                        expected = {
                            "insertion": np.trapezoid(inserted) / 5,
                            "deletion": np.trapezoid(deleted) / 5,
                            "srg": srg,
                        }
                        for curve, value in expected.items():
                            found = row[f"{curve}/t_{rank + 1}/{baseline}/{g}"]
                            assert found == pytest.approx(value, rel=1e-9, abs=1e-12)  # float64, other batch sizes
                            checked += 1
                        assert srg == pytest.approx(expected["insertion"] - expected["deletion"], abs=1e-12)
    assert checked == 6 * 3 * 2 * 2 * 5 * 3


def test_every_value_function_is_read_off_the_same_passes(model: Normalized, items: list[Item]) -> None:
    """And versions that agree share theirs: the top k of t_1 under max are the bottom k of t_2."""
    every, single = experiment(model), experiment(model, values=("logit",))
    every.rows(items)
    single.rows(items)
    assert every.subject.passes == single.subject.passes
    assert every.subject.passes["forward"] == 3 * 2, "gradcam's and gradient's"
    assert every.subject.passes["backward"] == 3 * 2 * 3 * 2
    assert every.subject.passes["evaluation"] < 3 * every.passes()["evaluation"]
    assert every.passes()["evaluation"] == (2 * 4 * 2 * 6 + 1) * 2


def test_columns_are_those_of_the_rows(model: Normalized, items: list[Item]) -> None:
    subject = experiment(model)
    rows = subject.rows(items)
    assert set(rows[CELLS[0]][0]) == set(subject.columns(subject.settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"steps": 1}, "at least 2"), ({"values": ()}, "give some of"), ({"values": ("logits",)}, "Did you mean 'logit'")],
)
def test_wrong_settings_are_one_clear_line(settings: dict, message: str) -> None:
    with pytest.raises(WcxError, match=message):
        Settings(**settings)
