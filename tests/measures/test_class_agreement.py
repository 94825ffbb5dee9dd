"""The share that the 5 % largest pixels of two classes' maps have in common, by sets of pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests import nets
from wcx import measures, methods
from wcx.experiments import Cell, Subject
from wcx.experiments.images import Item
from wcx.experiments.masking import Masking, Settings
from wcx.images import Normalized


def largest(phi: Tensor) -> set[int]:
    values = phi.flatten().tolist()
    return set(sorted(range(len(values)), key=lambda i: (-values[i], i))[: round(0.05 * len(values))])


def test_by_sets_of_pixels() -> None:
    agreement = measures.get("class_agreement")()
    maps = torch.randn(6, 3, 20, 30, generator=torch.Generator().manual_seed(2))
    maps[1, 1] = maps[1, 0]
    maps[2, 1] = -maps[2, 0]
    maps[3] = maps[3].clamp(min=1.5)  # fewer than 5 % of the pixels above the bottom: of equals the first
    maps[4, 1] = 2 * maps[4, 0] + 0.1 * maps[4, 1]
    maps[5, 0] = 0.25  # no largest pixels
    values = agreement(maps, torch.full((6, 4), math.nan))
    expected = [len(largest(a) & largest(b)) / 30 for a, b, _ in maps[:5]]
    assert values.dtype == torch.float64
    assert values[:5, 0].tolist() == pytest.approx(expected, abs=1e-15)
    assert expected[1:3] == [1.0, 0.0]
    assert 0.1 < expected[4] < 1
    assert math.isnan(values[5, 0])


def test_it_stands_in_the_records_where_it_is_asked_for() -> None:
    """The maps of max are each other's negative: no pixel in common. Those of three targets: still t_1 and t_2."""
    settings = Settings(select="all", measures=("class_agreement",), baselines=("zeros",), targets=3)
    subject = Subject(Normalized(nets.conv_batchnorm()).eval(), "2", {"gradcam": methods.create("gradcam")})
    cells = [Cell("gradcam", "max"), Cell("gradcam", "original")]
    rows = Masking(subject, cells, settings).rows([Item(0, "a", 0, torch.rand(3, 16, 16))])
    assert rows[cells[0]][0]["class_agreement"] == 0
    assert 0 <= rows[cells[1]][0]["class_agreement"] <= 1
    assert Masking.columns(settings).count("class_agreement") == 1


def test_it_needs_no_pass_of_a_hidden_image() -> None:
    """Without baselines there is none, and the measure is the same."""
    rows = []
    for baselines in ((), ("zeros",)):
        subject = Subject(Normalized(nets.conv_batchnorm()).eval(), "2", {"gradcam": methods.create("gradcam")})
        settings = Settings(select="all", measures=("class_agreement",), baselines=baselines)
        items = [Item(i, str(i), 0, torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(i))) for i in (0, 1)]
        rows.append(Masking(subject, [Cell("gradcam", "mean")], settings).rows(items)[Cell("gradcam", "mean")])
        assert (subject.passes["masked"] == 0) == (not baselines)
    without, with_zeros = rows
    assert [row["class_agreement"] for row in without] == [row["class_agreement"] for row in with_zeros]
