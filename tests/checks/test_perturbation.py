"""The check of the perturbation: what it compares with is the formula, and a mistake shows."""

from __future__ import annotations

import copy
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import wcx
from tests import nets
from tests.checks.asked import small
from wcx.checks.base import unfolded
from wcx.checks.perturbation import SCALARS, PerturbationPrecision, agreement, explanation
from wcx.errors import WcxError
from wcx.experiments.images import Item
from wcx.images import Normalized

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def net() -> nn.Module:
    return Normalized(nets.conv_batchnorm()).eval()


@pytest.fixture
def items() -> list[Item]:
    pixels = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    pixels[:, :, :4] = pixels[:, :, :4].round()  # pixels at both ends of [0, 1]
    return [Item(i, f"{i}.jpg", i % 6, image) for i, image in enumerate(pixels)]


def exact(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


@pytest.mark.parametrize("contrast", SCALARS)
def test_each_formula_is_its_contrast(contrast: str, net: nn.Module, items: list[Item]) -> None:
    options = {"gamma": 0.6, "k": 3} if contrast == "finer" else {}
    image: Tensor = items[0].pixels.double()
    maps = wcx.explain(exact(net), image[None], 2, "gradient", contrast, contrast_options=options)[0]
    torch.testing.assert_close(explanation(exact(net), image, 2, contrast), maps, rtol=1e-9, atol=1e-15)


def test_a_contrast_without_a_formula_is_one_line(net: nn.Module, items: list[Item]) -> None:
    with pytest.raises(WcxError, match=r"contrast of the reference in float64 'weigthed'\. Did you mean 'weighted'"):
        explanation(exact(net), items[0].pixels.double(), 2, "weigthed")


def compared(folder: Path) -> PerturbationPrecision:
    """The check on the small network."""
    job = next(iter(PerturbationPrecision.jobs(small(folder))))
    check = job.opened(job.cells)
    assert isinstance(check, PerturbationPrecision)
    return check


def test_verify_compares_with_float64(net: nn.Module, items: list[Item], tmp_path: Path) -> None:
    """Also: another network, standing for any mistake, shows."""
    rows = compared(tmp_path).rows(items[:2])
    assert len(rows) == 5
    frame = pd.concat([unfolded(pd.DataFrame(cell), ["precision", "iterations"]) for cell in rows.values()])
    assert len(frame) == 2 * 5 * 3 * 2
    tolerance = frame.precision.map({"float32": 1e-5, "bfloat16": 0.1})
    assert (frame.error_y_t.abs() < tolerance).all()
    assert (frame[frame.precision == "float32"].elsewhere < 0.01).all()
    wrong = compared(tmp_path)
    wrong.__dict__["_exact"] = exact(nn.Sequential(net, nn.Softmax(1)))
    errors = [row[f"error_y_t/float32/{n}"] for n in (1, 2, 10) for row in wrong.rows(items[:1])[wrong.cells[0]]]
    assert max(map(abs, errors)) > 1e-2


def test_precisions_and_numbers_of_steps_are_never_pooled() -> None:
    """The summary of verify, and of the lines of one precision that of the rows of that precision alone."""
    shares = {"float32": (0.0, 0.25), "bfloat16": (0.5, 1.0)}
    rows = pd.DataFrame(
        {"network": "a", "contrast": "weighted", "precision": precision, "iterations": n, "elsewhere": share / n}
        | {f"{kind}_{score}": share for kind in ("error", "gain") for score in ("y_t", "p_t")}
        for precision, pair in shares.items()
        for n in (1, 2)
        for share in pair
    )
    summary = agreement(rows).set_index(["precision", "iterations"])
    assert len(summary) == 4
    assert (summary.n == 2).all()
    assert summary.elsewhere["float32", 1] == 0.125
    assert summary.elsewhere["bfloat16", 1] == 0.75
    assert summary.elsewhere_max["float32", 2] == 0.125
    assert summary.y_t_error_median["bfloat16", 2] == 0.75
    assert summary.y_t_off["float32", 2] == summary.y_t_bar["float32", 2] == 0.125
