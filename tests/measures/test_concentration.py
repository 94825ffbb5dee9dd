"""The share of a map's absolute mass in its 5 % largest pixels, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tests import nets
from wcx import measures, methods
from wcx.experiments import Cell, Subject
from wcx.experiments.images import Item
from wcx.experiments.masking import Masking, Settings
from wcx.images import Normalized


def test_by_hand() -> None:
    concentration = measures.get("concentration")()
    flat, point, nothing = torch.ones(10, 10), torch.zeros(10, 10), torch.zeros(10, 10)
    point[3, 4] = -2.0
    falling = torch.arange(100.0, 0.0, -1.0).reshape(10, 10) * -1
    values = concentration(
        torch.stack([flat, point, nothing, falling]).view(2, 2, 10, 10), torch.full((2, 4), math.nan)
    )
    assert values.dtype == torch.float64
    assert float(values[0, 0]) == pytest.approx(0.05)
    assert float(values[0, 1]) == 1.0
    assert math.isnan(values[1, 0])
    assert float(values[1, 1]) == pytest.approx((100 + 99 + 98 + 97 + 96) / 5050)


def test_it_stands_in_the_records_where_it_is_asked_for() -> None:
    settings = Settings(select="all", measures=("localisation", "concentration"), baselines=("zeros",))
    subject = Subject(Normalized(nets.conv_batchnorm()).eval(), "2", {"gradcam": methods.create("gradcam")})
    cell = Cell("gradcam", "weighted")
    [row] = Masking(subject, [cell], settings).rows([Item(0, "a", 0, torch.rand(3, 16, 16))])[cell]
    assert {"concentration/t_1", "concentration/t_2"} <= set(row) & set(Masking.columns(settings))
    assert 0.05 <= row["concentration/t_1"] <= 1
    assert not [name for name in Masking.columns(Settings()) if name.startswith("concentration")]
