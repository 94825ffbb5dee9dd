"""`wcx.benchmark`: any function's maps, scored as the experiment twins scores a method's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import wcx
from wcx import datasets, methods, models
from wcx.errors import WcxError
from wcx.experiments import images
from wcx.experiments.base import Cell, Subject
from wcx.experiments.twins import PartTwins, Settings
from wcx.models.small_cnn import small_cnn


@pytest.fixture(scope="module")
def birds() -> datasets.ImageDataset:
    return datasets.load("parts", ".", families="factorial", test_per_class=1)


@pytest.fixture(scope="module")
def network(birds: datasets.ImageDataset) -> nn.Module:
    torch.manual_seed(0)
    return small_cnn(len(birds.class_names)).eval()


def _gradcam(model: nn.Module, pixels: Tensor, targets: Tensor, foils: Tensor | None) -> Tensor:
    return wcx.explain(model, pixels, targets, "gradcam", "weighted", foils)


def test_a_function_gets_the_numbers_of_the_method_that_it_calls(birds, network, one_thread) -> None:
    scored = wcx.benchmark(_gradcam, network, birds, limit=6, chance=20, seed=3)

    cell = Cell("gradcam", "weighted")
    subject = Subject(network, None, {"gradcam": methods.create("gradcam")})
    items = list(images.read(birds, images.order(len(birds), 6, 3), needs_twins=True))
    rows = pd.DataFrame(PartTwins(subject, [cell], Settings(chance=20, seed=3)).rows(items)[cell])
    expected = rows.filter(regex=".+/.+/.+").dropna(axis=1, how="all").mean()
    measured = scored.set_index(scored[["score", "question", "reading"]].agg("/".join, axis=1))["mean"]
    pd.testing.assert_series_equal(
        measured, expected.astype(float), check_names=False, rtol=1e-3
    )  # float32 in other batches, ratios of small sums
    assert (scored["n"] <= 6).all()


def test_a_constant_map_has_numbers_and_no_chance_is_drawn(birds, network, one_thread) -> None:
    def constant(model: nn.Module, pixels: Tensor, targets: Tensor, foils: Tensor | None) -> Tensor:
        return torch.ones(len(pixels), 12, 12)

    scored = wcx.benchmark(constant, network, birds, limit=4, chance=0)
    assert not (scored["reading"] == "chance").any()
    assert np.isfinite(scored["mean"]).all()


def test_what_does_not_fit_is_one_line(birds, network) -> None:
    with pytest.raises(WcxError, match=r"dataset parts has no twins"):
        wcx.benchmark(_gradcam, network, datasets.load("parts", "."))
    with pytest.raises(WcxError, match=r"expected \(\d+, h, w\)"):
        wcx.benchmark(lambda model, pixels, targets, foils: pixels.mean((1, 2, 3)), network, birds, limit=1, chance=0)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (lambda *_: None, {}, "the function returned None; expected a tensor of maps"),
        (lambda _m, x, *_: torch.full((len(x), 4, 4), torch.nan), {}, "maps that hold NaN or infinite values"),
        ("gradcam", {}, "function is 'gradcam'; give one of"),
        (lambda *_: None, {"limit": 0}, "limit = 0: give a whole number"),
    ],
)
def test_a_function_of_no_maps_is_one_line(birds, network, function, options: dict[str, int], message: str) -> None:
    """NaN was scored, and None a traceback."""
    with pytest.raises(WcxError, match=message):
        wcx.benchmark(function, network, birds, **{"limit": 1, "chance": 0} | options)


def test_maps_of_numpy_are_maps_and_a_network_of_fewer_classes_is_named(birds, network) -> None:
    def constant(_model: nn.Module, pixels: Tensor, *_: object) -> np.ndarray:
        return np.ones((len(pixels), 12, 12), dtype=np.float32)

    assert np.isfinite(wcx.benchmark(constant, network, birds, limit=1, chance=0)["mean"]).all()
    with pytest.raises(WcxError, match=r"the model has 3 classes and the dataset \d+; give a network trained on it"):
        wcx.benchmark(
            constant, models.load("small_cnn", weights="random", num_classes=3).model, birds, limit=1, chance=0
        )
