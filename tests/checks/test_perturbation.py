"""The check of the perturbation: what it compares with is the formula, and a mistake shows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import wcx
from tests import nets
from wcx.checks.perturbation import SCALARS, compare, explanation, part_ways
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


def test_verify_compares_with_float64(net: nn.Module, items: list[Item]) -> None:
    """Also: another network, standing for any mistake, shows."""
    rows = compare(net, exact(net), items[:2], 0.05)
    assert len(rows) == 2 * 5 * 3 * 2
    for row in rows:
        tolerance = {"float32": 1e-5, "bfloat16": 0.1}[row["precision"]]
        assert abs(row["error_y_t"]) < tolerance
        assert row["precision"] == "bfloat16" or row["elsewhere"] < 0.01
    wrong = compare(net, exact(nn.Sequential(net, nn.Softmax(1))), items[:1], 0.05)
    assert max(abs(row["error_y_t"]) for row in wrong) > 1e-2
    ways = part_ways(net, items, 0.05)
    assert [row["index"] for row in ways] == [item.index for item in items]
    assert max(row["apart"] for row in ways) < 0.01, "moderate p_t: proportional in float32, too"
