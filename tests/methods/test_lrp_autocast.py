"""LRP under autocast: rules divide by the sums that the network itself computed, of rounded images and weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import wcx

pytest.importorskip("zennit")
pytestmark = pytest.mark.usefixtures("one_thread")


def made() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), *head).eval()


def rounded(x: Tensor) -> Tensor:
    return x.bfloat16().float()


@pytest.mark.parametrize("composite", ["lrp_0", "epsilon_plus", "epsilon", "cp_lrp"])
def test_close_to_the_network_of_rounded_numbers(composite: str) -> None:
    """Of a sum near 0, rounded terms are far from it: relevance divided by the sum of the others was so, too."""
    images = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    model, coarse = made(), copy.deepcopy(made())
    for parameter in coarse.parameters():
        parameter.data = rounded(parameter.data)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run = wcx.Explainer(model, "lrp", composite=composite)(images)
        maps = run.explain(nn.functional.one_hot(torch.arange(4), 5).to(run.logits))
    again = wcx.Explainer(coarse, "lrp", composite=composite)(rounded(images))
    expected = again.explain(nn.functional.one_hot(torch.arange(4), 5).to(again.logits))
    assert maps.dtype == images.dtype
    assert (maps - expected).norm() < 0.05 * expected.norm()  # 0.4 % a number: eight bits
