"""The perturbation engine against float64 loops written from the formulas: one image, one contrast, one step at a time."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from tests import nets
from wcx import methods
from wcx.checks.perturbation import walk
from wcx.errors import DataError, WcxError
from wcx.experiments import Cell, Subject
from wcx.experiments.images import Item
from wcx.experiments.sign_perturbation import Settings, SignPerturbation
from wcx.images import Normalized

CONTRASTS = ("original", "mean", "max", "weighted", "probability")
FOUR = [Cell("gradient", name) for name in CONTRASTS[:4]]


@pytest.fixture(params=nets.ALL)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return Normalized(nets.ALL[request.param]()).double().eval()


@pytest.fixture
def net() -> nn.Module:
    return Normalized(nets.conv_batchnorm()).eval()


@pytest.fixture(scope="module")
def items() -> list[Item]:
    pixels = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    pixels[:, :, :4] = pixels[:, :, :4].round()  # pixels at both ends of [0, 1]
    return [Item(i, f"{i}.jpg", i % 6, p) for i, p in enumerate(pixels)]


def engine(model: nn.Module, cells: list[Cell] = FOUR, batch_size: int = 3, **settings: object) -> SignPerturbation:
    made = {cell.method: methods.create(cell.method) for cell in cells}
    options = {"epsilon": 0.05, "precision": "float64"} | settings
    return SignPerturbation(Subject(model, None, made, batch_size=batch_size), cells, Settings(**options))


@pytest.mark.parametrize("rule", ["label", "predicted"])
def test_equals_the_formulas_image_by_image(model: nn.Module, items: list[Item], rule: str) -> None:
    cells = [Cell("gradient", name) for name in CONTRASTS]
    rows = engine(model, cells, target_rule=rule).rows(items[:4])
    for cell, (i, item) in itertools.product(cells, enumerate(items[:4])):
        row, x0 = rows[cell][i], item.pixels.double()
        y = model(x0[None])[0].detach()
        t = item.label if rule == "label" else int(y.argmax())
        assert (row["target"], row["correct"]) == (t, int(y.argmax() == item.label))
        assert (row["y_t"], row["p_t"]) == pytest.approx((float(y[t]), float(y.softmax(0)[t])), rel=1e-12)
        for n in (1, 2, 10):
            after = model(walk(model, x0, t, cell.contrast, 0.05, n)[None])[0].detach()
            found = row[f"y_t/{n}"], row[f"p_t/{n}"]
            assert found == pytest.approx((float(after[t]), float(after.softmax(0)[t])), rel=1e-9), (cell, i, n)
            assert row[f"correct/{n}"] == int(after.argmax() == item.label)
            assert row[f"zero_gradient/{n}"] == 0


@pytest.mark.parametrize("epsilon", [1e-3, 0.3])
def test_stays_within_epsilon_and_in_the_unit_cube(net: nn.Module, items: list[Item], epsilon: float) -> None:
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().double()))
    engine(net, precision="float32", epsilon=epsilon, batch_size=7).rows(items)
    x0 = torch.stack([item.pixels for item in items]).double()
    changes = [(x - x0).abs() for x in seen]
    assert all(float(x.min()) >= 0 and float(x.max()) <= 1 for x in seen)
    assert max(float(change.max()) for change in changes) == pytest.approx(epsilon, abs=1e-7)


@pytest.mark.parametrize(
    ("chosen", "precision", "forward", "evaluation", "backward"),
    [(4, "float32", 41, 12, 44), (5, "float64", 51, 15, 55), (4, "bfloat16", 41, 13, 44), (1, "tf32", 11, 3, 11)],
)
def test_no_pass_is_done_twice(
    net: nn.Module, items: list[Item], chosen: int, precision: str, forward: int, evaluation: int, backward: int
) -> None:
    """4 contrasts, n = 1, 2, 10: 1 + 4 (1 + 2 + 10) = 53 forward and 4 (1 + 1 + 9) = 44 backward passes an image."""
    e = engine(net, [Cell("gradient", name) for name in CONTRASTS[:chosen]], precision=precision)
    forwards: list[bool] = []
    backwards: list[int] = []

    def watch(_: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        forwards.extend([output.requires_grad] * len(args[0]))
        if output.requires_grad:
            output.register_hook(lambda gradient: backwards.append(len(gradient)))

    e.subject.model.register_forward_hook(watch)
    e.rows(items)
    assert e.subject.passes == {"forward": 7 * forward, "evaluation": 7 * evaluation, "backward": 7 * backward}
    assert Counter(forwards) == {True: 7 * forward, False: 7 * evaluation}
    assert sum(backwards) == 7 * backward
    assert e.settings.passes(chosen) == {"forward": forward, "evaluation": evaluation, "backward": backward}


def test_a_row_depends_neither_on_its_batch_nor_on_the_other_contrasts(net: nn.Module, items: list[Item]) -> None:
    together = engine(net, batch_size=7).rows(items)
    alone = engine(net, FOUR[3:], batch_size=1).rows(items)
    for one, other in zip(together[FOUR[3]], alone[FOUR[3]], strict=True):
        assert (one.pop("id"), one) == (other.pop("id"), pytest.approx(other, rel=1e-9))  # float64
    company = engine(net, precision="float32").rows(items)
    assert engine(net, FOUR[3:], precision="float32").rows(items)[FOUR[3]] == company[FOUR[3]], "to the last bit"


def test_a_vanished_gradient_moves_nothing_and_is_counted(net: nn.Module, items: list[Item]) -> None:
    """The trap of section 5.1: float32's p_t (e_t - p) is exactly 0 where p_t is 1; weighted's cotangent is not."""
    net.model[9].weight.data *= 30000
    cells = [Cell("gradient", "probability"), Cell("gradient", "weighted")]
    rows = engine(net, cells, precision="float32", target_rule="predicted", iterations=(1, 2)).rows(items)
    gaps = net(torch.stack([item.pixels for item in items])).detach().topk(2).values.diff().abs()
    certain = [i for i, gap in enumerate(gaps) if gap > 110]  # above 103 the softmax of all foils is exactly 0
    assert len(certain) >= 2
    for i in certain:
        stuck, moved = (rows[cell][i] for cell in cells)
        assert (stuck["zero_gradient/1"], stuck["zero_gradient/2"]) == (1, 1)
        assert stuck["y_t/1"] == pytest.approx(stuck["y_t"], rel=1e-6)
        assert moved["zero_gradient/1"] == 0
        assert abs(moved["y_t/1"] - moved["y_t"]) > 1e-3


class Small(nn.Module):
    """A network that runs out of memory above so many images."""

    def __init__(self, net: nn.Module, most: int) -> None:
        super().__init__()
        self.net, self.most = net, most
        self.tried: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.tried.append(len(x))
        if len(x) > self.most and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(x)


def test_the_batch_is_halved_when_memory_is_short(net: nn.Module, items: list[Item]) -> None:
    small = Small(net, 2)
    e = engine(small, precision="float32", batch_size=7)
    rows = e.rows(items)
    assert small.tried[:3] == [7, 3, 1]
    assert e.subject.batch_size == 1
    assert e.subject.passes["backward"] == 7 * 44, "what was lost is not counted"
    for cell, those in engine(net, precision="float32", batch_size=1).rows(items).items():
        assert rows[cell] == those
    with pytest.raises(WcxError, match="out of memory on cpu with one image"):
        engine(Small(net, 0), precision="float32").rows(items)


def test_flags_and_model_come_back(net: nn.Module, items: list[Item]) -> None:
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    seen: set[tuple[bool, ...]] = set()
    net.register_forward_hook(lambda *_: seen.add(tuple(flag.allow_tf32 for flag in flags)))
    engine(net, precision="float32").rows(items[:1])
    assert seen == {(False, False)}
    engine(net, precision="tf32").rows(items[:1])
    assert seen == {(False, False), (True, True)}
    assert [flag.allow_tf32 for flag in flags] == before
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert next(engine(net).subject.model.parameters()).dtype == torch.float64
    assert next(net.parameters()).dtype == torch.float32


def test_bfloat16_updates_and_evaluates_in_float32(net: nn.Module, items: list[Item]) -> None:
    exact, coarse = (engine(net, precision=p, batch_size=7).rows(items)[FOUR[3]] for p in ("float64", "bfloat16"))
    for one, other in zip(exact, coarse, strict=True):
        assert other["y_t"] == pytest.approx(one["y_t"], abs=1e-5)
        assert other["y_t/10"] == pytest.approx(one["y_t/10"], abs=0.2)
        assert other["y_t/10"] != pytest.approx(one["y_t/10"], abs=1e-7)


def test_any_method_that_goes_back_to_the_input(net: nn.Module, items: list[Item]) -> None:
    """For positive pixels input_x_gradient has the gradient's sign."""
    positive = [Item(i.index, i.id, i.label, i.pixels.clamp(0.2, 0.8)) for i in items[:3]]
    cells = [Cell("gradient", "weighted"), Cell("input_x_gradient", "weighted"), Cell("deeplift", "probability")]
    rows = engine(net, cells, iterations=(1, 3)).rows(positive)
    assert rows[cells[0]] == rows[cells[1]]
    assert all(row["y_t/3"] != row["y_t"] for row in rows[cells[2]])


def test_an_unreadable_image_keeps_its_row(net: nn.Module, items: list[Item]) -> None:
    broken = Item(99, "99.jpg", 1, None, error=DataError("cannot read 99.jpg"))
    rows = engine(net).rows([items[0], broken, items[1]])[FOUR[0]]
    assert rows[1] == {"index": 99, "id": "99.jpg", "label": 1, "skipped": True}
    assert [row["skipped"] for row in rows] == [False, True, False]
    assert set(rows[0]) == set(Settings().columns())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_rule": "labels"}, "Did you mean 'label'"),
        ({"precision": "bf16"}, "unknown precision"),
        ({"epsilon": 0}, "no change of a pixel"),
        ({"iterations": (1, 0)}, "not numbers of steps"),
        ({"iterations": ()}, "not numbers of steps"),
    ],
)
def test_wrong_settings_are_one_clear_line(settings: dict, message: str) -> None:
    with pytest.raises(WcxError, match=message):
        Settings(**settings)


def test_logits_that_are_not_finite_are_refused(net: nn.Module, items: list[Item]) -> None:
    net.model[9].weight.data.fill_(torch.nan)
    with pytest.raises(WcxError, match="NaN or infinite"):
        engine(net).rows(items)
