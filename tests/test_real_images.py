"""What is promised of explanations, on real photographs and a network with its real weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wcx
from wcx import datasets, models


@pytest.fixture(scope="module")
def photographs(shared: Path) -> Tensor:
    data = datasets.load("imagenet", shared / "data" / "imagenet", "test", transform={"kind": "crop"})
    return torch.stack([data[i][0] for i in range(0, 960, 30)])


@pytest.fixture(scope="module")
def squeezenet(shared: Path) -> nn.Module:
    return models.load("squeezenet1_1", weights_dir=shared / "weights").model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
def test_alone_and_in_a_batch_of_32(
    photographs: Tensor, squeezenet: nn.Module, dtype: torch.dtype, tolerance: float
) -> None:
    """Relative L2 of activation methods, of the photographs' middles; the issue's tolerances. In float64 the input methods too."""
    model, images = squeezenet.to(dtype), photographs[..., 48:176, 48:176].to(dtype)
    inputs = ["gradient", "input_x_gradient"] if dtype == torch.float64 else []
    for method in ["gradcam", "linear_approximation", "xgradcam", *inputs]:
        names = ["original", "weighted"]
        together = wcx.explain(model, images, 1, method, names)
        for i in (0, 31):
            alone = wcx.explain(model, images[i : i + 1], 1, method, names)[:, 0]
            error = (alone - together[:, i]).flatten(1).norm(dim=1) / alone.flatten(1).norm(dim=1)
            assert bool((error <= tolerance).all()), (method, i)


def test_squeezenet_is_the_network_that_we_think_it_is(photographs: Tensor, squeezenet: nn.Module) -> None:
    """weights/SOURCE.md: 0.660 top-1 on these images."""
    with torch.no_grad():
        predicted = squeezenet.float()(photographs).argmax(1)
    assert float((predicted == torch.arange(0, 960, 30)).double().mean()) > 0.45
    assert wcx.Explainer(squeezenet)(photographs[:1]).layer == "features.12"
