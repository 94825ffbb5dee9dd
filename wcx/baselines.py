"""Baselines: what takes the place of masked pixels (section 5.2.2), or what a path starts from.

The blur and the channel mean are linear and keep constants, so they commute with normalisation; `zeros` does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wcx.errors import WcxError, choose

NAMES = ("blur", "zeros", "mean")
_SIDE = 224  # kernel and sigma are stated for this image side and scale with it


def make(
    name: str,
    images: Tensor,
    *,
    sigma: float | Tensor = 15.0,
    kernel: int = 101,
    zero: Sequence[float] | Tensor | float = 0.0,
) -> Tensor:
    """Return the baseline called `name` for images (N, C, H, W).

    Args:
        name: blur, zeros or mean.
        sigma: of the blur, in pixels of an image of side 224; one for all, or one an image (N,).
        kernel: the blur's width in pixels of an image of side 224.
        zero: what "zero" is in the space of the images, one value or one a channel: 0 for black pixels, the dataset's mean colour
            in pixel space for zeros of the normalised space.

    Raises:
        WcxError: unknown name.
    """
    if choose("baseline", name, NAMES) == "blur":
        return blur(images, sigma, kernel)
    if name == "mean":
        return channel_mean(images)
    return torch.as_tensor(zero, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1).expand_as(images)


def drawn_sigma(sigma: float | Sequence[float], seed: int, index: int) -> float:
    """Return the blur's sigma for image `index`: as given, or drawn uniformly from a pair (low, high), seeded per image."""
    if isinstance(sigma, (int, float)):
        return float(sigma)
    return float(np.random.default_rng([seed, index]).uniform(*sigma))


def channel_mean(images: Tensor) -> Tensor:
    """Return each image's mean of each channel, (N, C, H, W)."""
    return images.mean((2, 3), keepdim=True).expand_as(images)


def blur(images: Tensor, sigma: float | Tensor = 15.0, kernel: int = 101) -> Tensor:
    """Return images (N, C, H, W) blurred by a Gaussian with reflect padding.

    Separable, as two matrix products an image: torchvision's gaussian_blur convolves in 2-d, 101 x 101 taps here, and knows
    one sigma a batch.

    Args:
        images: (N, C, H, W).
        sigma: in pixels of an image of side 224, scaled with the image's side; one, or one an image (N,).
        kernel: the width in pixels of an image of side 224, scaled likewise and made odd.

    Raises:
        WcxError: sigma is not positive.
    """
    sigmas = torch.as_tensor(sigma, dtype=torch.float64).expand(len(images))
    if not bool((sigmas > 0).all()):
        raise WcxError(f"blur: sigma = {float(sigmas.min())} is not positive; give a width in pixels, such as 15.")
    rows, columns = (_blur_matrices(side, sigmas, kernel).to(images)[:, None] for side in images.shape[2:])
    return rows @ images @ columns.mT


def _blur_matrices(side: int, sigmas: Tensor, kernel: int) -> Tensor:
    """Return for each sigma the (side, side) matrix that blurs a line of `side` pixels."""
    radius = min(round(kernel * side / _SIDE) // 2, side - 1)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets / (sigmas[:, None] * side / _SIDE)) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    source = (torch.arange(side)[:, None] + offsets).abs()
    source = (side - 1) - (side - 1 - source).abs()  # reflected at both ends, the border pixel not repeated
    matrices = torch.zeros(len(sigmas), side, side, dtype=torch.float64)
    return matrices.scatter_add_(2, source.expand(len(sigmas), -1, -1), weights[:, None].expand(-1, side, -1))
