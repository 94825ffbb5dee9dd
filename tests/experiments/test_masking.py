"""The masking engine against a naive loop: one image, one cell, one mask, one fresh forward pass at a time."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wcx
from tests import nets
from wcx import methods
from wcx.errors import DataError, WcxError
from wcx.experiments import Cell, Subject
from wcx.experiments.images import Item
from wcx.experiments.masking import Masking, Settings
from wcx.images import Normalized, make_baseline

CELLS = [
    Cell(m, c) for m in ("gradcam", "linear_approximation", "xgradcam") for c in ("original", "mean", "max", "weighted")
]
PAIRS = [("gradcam", "original"), ("gradcam", "weighted")]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Normalized(nets.conv_batchnorm()).double().eval()


@pytest.fixture(scope="module")
def items() -> list[Item]:
    pixels = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return [Item(i, f"{i}.jpg", i % 3, p, box=np.array([2.0, 3.5, 8.0, 9.0])) for i, p in enumerate(pixels)]


def engine(model: nn.Module, cells: Sequence[Cell] = CELLS, batch_size: int = 4, **settings: object) -> Masking:
    made = {cell.method: methods.create(cell.method) for cell in cells}
    options = {"threshold": 0.15} | settings
    return Masking(Subject(model, "2", made, batch_size=batch_size), cells, Settings(**options))


def naive(model: Normalized, pixels: Tensor, cell: Cell, index: int, s: Settings) -> dict[str, float]:
    """What most people would write, from the paper's sentences."""
    y = model(pixels[None])[0].detach()
    t = y.argsort(descending=True)[: s.targets]
    row = {}

    @functools.cache
    def attribution(contrast: str, i: int) -> Tensor:
        small = wcx.explain(model, pixels[None], int(t[i]), cell.method, contrast, layer="2", foils=s.foils)
        return wcx.upsample(small, pixels.shape[1:], s.align_corners)[0]

    for i in range(s.targets):
        phi = attribution(cell.contrast, i)
        for kept in ("positive", "negative"):
            if s.mask == "sign":
                hidden = phi < 0 if kept == "positive" else phi > 0
            else:
                pair = [attribution(name, i) for name in s.equal_pair]
                count = round(s.fraction * phi.numel())
                if s.mask == "equal" and kept == "positive":
                    count = min(int((p > 0).sum()) for p in pair)
                elif s.mask == "equal":
                    count = max(int((p < 0).sum()) for p in pair) - s.equal_n_minus_one
                ranked = sorted(range(phi.numel()), key=lambda p: (float(phi.flatten()[p]), p))
                chosen = ranked[:count] if kept == "positive" else ranked[phi.numel() - count :]
                hidden = torch.tensor([p in set(chosen) for p in range(phi.numel())]).reshape(phi.shape)
            row[f"masked_fraction/t_{i + 1}/{kept}"] = float(hidden.double().mean())
            for name in s.baselines:
                sigma = s.blur_sigma
                if isinstance(sigma, tuple):
                    sigma = np.random.default_rng([s.seed, index]).uniform(*sigma)
                zero = model.mean.flatten() if s.baseline_space == "normalized" else 0.0
                other = make_baseline(name, pixels[None], sigma=sigma, kernel=s.blur_kernel, zero=zero)[0]
                changed = torch.where(hidden, other, pixels)
                z = model(changed[None])[0].detach()
                rival = t[1] if i == 0 else t[0]
                row[f"relative_probability/t_{i + 1}/{name}/{kept}"] = float(
                    z[t[i]].exp() / (z[t[i]].exp() + z[rival].exp())
                )
    return row


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"select": "all", "targets": 3, "align_corners": True, "baseline_space": "pixel"},
        {"mask": "equal"},
        {
            "mask": "equal",
            "equal_n_minus_one": True,
            "equal_pair": ("original", "probability"),
            "blur_sigma": (10.0, 20.0),
        },
        {"mask": "fraction", "fraction": 0.3, "foils": 2},
    ],
    ids=["paper", "all three targets", "equal", "authors' code", "fraction"],
)
def test_equals_the_naive_loop(model: Normalized, items: list[Item], settings: dict) -> None:
    e, items = engine(model, **settings), items[:5]  # more than a batch
    rows = e.rows(items)
    checked = 0
    for cell in CELLS:
        for item, row in zip(items, rows[cell], strict=True):
            p = model(item.pixels[None])[0].detach().softmax(0).sort(descending=True).values
            assert row["above_threshold"] == bool(p[1] > 0.15)
            assert row["p_t2"] == pytest.approx(float(p[1]), rel=1e-12)
            if not (row["above_threshold"] or e.settings.select == "all"):
                assert not any(key.startswith("masked") for key in row)
                continue
            for key, value in naive(model, item.pixels, cell, item.index, e.settings).items():
                assert row[key] == pytest.approx(value, rel=1e-9), (cell, item.index, key)  # float64, other batch sizes
                checked += 1
    assert checked > 500


def test_no_pass_is_done_twice(model: Normalized, items: list[Item]) -> None:
    """One forward an image, one backward per (target, contrast), one pass per distinct mask that hides something."""
    e = engine(model, select="all")
    calls: list[int] = []
    handle = model.model[9].register_forward_hook(lambda module, args, output: calls.append(len(output)))
    rows = e.rows(items)
    handle.remove()
    distinct = 0
    for item in items:
        y = model(item.pixels[None])[0].detach()
        t = y.argsort(descending=True)[:2]
        seen = set()
        for cell in CELLS:
            for i in range(2):
                phi = wcx.upsample(wcx.explain(model, item.pixels[None], int(t[i]), *cell, layer="2"), (16, 16))[0]
                seen |= {tuple(h.flatten().tolist()) for h in (phi < 0, phi > 0) if bool(h.any())}
        distinct += len(seen) * 3
    assert e.subject.passes == {"forward": 7, "backward": 7 * 2 * 4, "masked": distinct}
    assert sum(calls) == 7 + distinct
    assert max(calls) == e.subject.batch_size
    full = 7 * len(CELLS) * 2 * 2 * 3
    assert distinct <= full - 7 * 3 * 2 * 3, "max: t_1-positive and t_2-negative are one mask, and so are the other two"
    assert len(rows) == len(CELLS)


def test_an_image_below_the_threshold_costs_one_pass(model: Normalized, items: list[Item]) -> None:
    e = engine(model, threshold=0.99)
    e.rows(items)
    assert e.subject.passes == {"forward": 7}


def test_exponentials_never_overflow(items: list[Item]) -> None:
    """The authors' code divides exponentials, which overflows for logits above 88 in float32."""
    net = nets.conv_batchnorm()
    net[9].weight.data *= 3000
    rows = engine(Normalized(net.float()), select="all").rows([Item(i.index, i.id, 0, i.pixels.float()) for i in items])
    for row in rows[CELLS[0]]:
        assert max(row["y_t1"], -row["y_t2"]) > 88
        assert row["relative_probability_unmasked/t_1"] + row["relative_probability_unmasked/t_2"] == pytest.approx(1)
        assert 0 <= row["relative_probability/t_1/blur/positive"] <= 1


def test_an_unreadable_image_keeps_its_row(model: Normalized, items: list[Item]) -> None:
    broken = Item(99, "99.jpg", 1, None, error=DataError("cannot read 99.jpg"))
    rows = engine(model).rows([items[0], broken, items[1]])
    for cell in CELLS:
        assert [row["skipped"] for row in rows[cell]] == [False, True, False]
        assert [row["index"] for row in rows[cell]] == [0, 99, 1]
    without = engine(model).rows([items[0], items[1]])
    assert rows[CELLS[0]][2] == pytest.approx(without[CELLS[0]][1])


def test_ends_with_the_last_image_wanted(model: Normalized, items: list[Item]) -> None:
    whole = engine(model).rows(items)[CELLS[0]]
    above = [i for i, row in enumerate(whole) if row["above_threshold"]]
    assert len(above) >= 3
    for most in (1, 2, len(above)):
        rows = engine(model, batch_size=2).rows(items, most)[CELLS[0]]
        assert len(rows) == above[most - 1] + 1
        assert sum(row["above_threshold"] for row in rows) == most


def test_localisation_is_the_share_of_positive_attribution_inside_the_box(model: Normalized, items: list[Item]) -> None:
    rows = engine(model, select="all", align_corners=True).rows(items[:1])
    for cell in CELLS:
        t = int(rows[cell][0]["t_1"])
        phi = wcx.upsample(wcx.explain(model, items[0].pixels[None], t, *cell, layer="2"), (16, 16), True)[0].clamp(
            min=0
        )
        fine = phi.repeat_interleave(2, 0).repeat_interleave(2, 1)  # the box 2, 3.5, 8, 9 lies on half pixels
        expected = float(fine[7:25, 4:20].sum() / fine.sum())
        assert rows[cell][0]["inside_box/t_1"] == pytest.approx(expected, rel=1e-9)
        assert rows[cell][0]["box_fraction"] == pytest.approx(72 / 256)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask": "sgin"}, "Did you mean 'sign'"),
        ({"targets": 1}, "at least 2"),
        ({"targets": 7}, "the model has 6 classes"),
        ({"threshold": 1.5}, "no probability"),
        ({"baselines": ("blurr",)}, "Did you mean 'blur'"),
        ({"fraction": 0}, "share of the pixels"),
    ],
)
def test_wrong_settings_are_one_clear_line(model: Normalized, items: list[Item], settings: dict, message: str) -> None:
    with pytest.raises(WcxError, match=message):
        engine(model, **settings).rows(items)


def test_logits_that_are_no_numbers_are_an_error_and_not_an_empty_table(model: Normalized, items: list[Item]) -> None:
    model = copy.deepcopy(model)
    next(model.parameters()).data.fill_(torch.nan)
    with pytest.raises(WcxError, match="logits hold NaN or infinite values: the weights or the images are damaged"):
        Masking(
            Subject(model, None, {"gradcam": methods.create("gradcam")}), [Cell("gradcam", "mean")], Settings()
        ).rows(items)
