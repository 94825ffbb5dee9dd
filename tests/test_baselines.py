"""Baselines against torchvision's blur and by hand."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from wcx.errors import WcxError
from wcx.images import blur, make_baseline
from wcx.models import IMAGENET_MEAN, Normalized


def images(h: int = 224, w: int = 224, n: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


FLOAT32 = 2e-5  # the oracle sums 10,000 products in float32, its kernel too


def oracle(x: torch.Tensor, kernel: list[int], sigma: list[float]) -> torch.Tensor:
    return F.gaussian_blur(x.float(), kernel, sigma).double()


def test_blur_is_the_gaussian_blur() -> None:
    x = images(n=1)
    torch.testing.assert_close(blur(x), oracle(x, [101, 101], [15.0, 15.0]), rtol=0, atol=FLOAT32)


def test_blur_with_a_sigma_for_each_image() -> None:
    x = images(112, 112)
    both = blur(x, torch.tensor([10.0, 20.0]))
    for i, sigma in enumerate((5.0, 10.0)):  # half the side, half the width
        torch.testing.assert_close(both[i], oracle(x[i], [51, 51], [sigma, sigma]), rtol=0, atol=FLOAT32)


@pytest.mark.parametrize(("h", "w"), [(112, 56), (33, 64), (1, 5)])
def test_blur_scales_with_the_side(h: int, w: int) -> None:
    x = images(h, w, 1)
    kernel = [2 * min(round(101 * side / 224) // 2, side - 1) + 1 for side in (w, h)]
    expected = oracle(x, kernel, [15 * w / 224, 15 * h / 224])
    torch.testing.assert_close(blur(x), expected, rtol=0, atol=FLOAT32)


def test_blur_and_mean_commute_with_normalisation_and_zeros_does_not() -> None:
    normal = Normalized(torch.nn.Identity()).double()
    x = images(32, 32)
    for name in ("blur", "mean"):
        torch.testing.assert_close(normal(make_baseline(name, x)), make_baseline(name, normal(x)), rtol=0, atol=1e-12)
    zero = torch.zeros_like(x)
    torch.testing.assert_close(
        normal(make_baseline("zeros", x, zero=IMAGENET_MEAN)), zero, rtol=0, atol=1e-6
    )  # float32 buffers
    assert torch.equal(make_baseline("zeros", x), zero)


def test_mean_is_each_images_own() -> None:
    x = images(8, 8)
    assert torch.allclose(make_baseline("mean", x)[1, 2], x[1, 2].mean().expand(8, 8))


def test_wrong_input_is_one_clear_line() -> None:
    with pytest.raises(WcxError, match="Did you mean 'zeros'"):
        make_baseline("zeroes", images(8, 8))
    with pytest.raises(WcxError, match="sigma = 0"):
        blur(images(8, 8), 0)
