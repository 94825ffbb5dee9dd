"""The image that integrated gradients and DeepLIFT compare with, and the completeness of their explanations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wcx.errors import WcxError, choose
from wcx.images import BASELINES, IMAGENET_MEAN, IMAGENET_STD, Normalized, make_baseline
from wcx.methods.base import call, evaluated

SPACES = ("normalized", "pixel")


def check(baseline: str | Tensor, space: str) -> None:
    """Raise a WcxError for an unknown name of a baseline or a space."""
    choose("space", space, SPACES)
    if not isinstance(baseline, Tensor):
        choose("baseline", baseline, BASELINES)


def reference(model: nn.Module, images: Tensor, baseline: str | Tensor, space: str, sigma: float) -> Tensor:
    """Return the reference image of each image, (N, channels, H, W), in the model's input space.

    Args:
        baseline: zeros, blur, mean (of each channel of the image), or a tensor in the model's input space that
            broadcasts to the images.
        space: where "zeros" are zeros. ``normalized``: the mean colour, which is 0 for a model of normalised input and
            `mean` for a `wcx.models.Normalized`; ``pixel``: black, which is 0 for a `Normalized` and -mean / std of
            ImageNet for any other model. Blur and mean commute with the normalisation, a tensor is taken as it is.
        sigma: of the blur, in pixels of an image of side 224.

    Raises:
        WcxError: the tensor does not broadcast to the images; zeros that are not known for images of so many channels.
    """
    if isinstance(baseline, Tensor):
        try:
            return baseline.detach().to(images, copy=True).expand_as(images)
        except RuntimeError as error:
            raise WcxError(
                f"baseline of shape {tuple(baseline.shape)} does not broadcast to images {tuple(images.shape)}."
            ) from error
    if baseline != "zeros":
        zero = torch.zeros(1)
    elif space == "pixel":
        zero = of_pixels(model, images, 0.0, "baseline=<a tensor>")
    else:
        zero = of_mean(model, images)
    return make_baseline(baseline, images, sigma=sigma, zero=zero)


def of_pixels(model: nn.Module, images: Tensor, value: float, instead: str) -> Tensor:
    """Return pixels of the same `value` in [0, 1] in all channels, (1,) or (3,), in the model's input space.

    Raises:
        WcxError: images of other than three channels for a model that does not say how pixels are normalised; `instead` is
            what else can be given.
    """
    if _wrapper(model) is not None:
        return torch.tensor([value])
    if images.shape[1] != len(IMAGENET_MEAN):
        line = (
            f"images of {_channels(images.shape[1])}: black and white are known for ImageNet's three alone; explain "
            f"wcx.models.Normalized(model, mean=[...], std=[...]), which takes pixels in [0, 1], or give {instead}."
        )
        raise _unfit(model, images, line)
    return (value - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)


def of_mean(model: nn.Module, images: Tensor) -> Tensor:
    """Return the mean colour, a number or one a channel, in the model's input space.

    Raises:
        WcxError: the model's mean has another number of channels than the images.
    """
    wrapper = _wrapper(model)
    mean = torch.zeros(1) if wrapper is None else wrapper.mean.flatten()
    if len(mean) not in (1, images.shape[1]):
        line = (
            f"images of {_channels(images.shape[1])} for a model whose mean has {_channels(len(mean))}; give images of so many, "
            "or baseline=<a tensor>."
        )
        raise _unfit(model, images, line)
    return mean


def _unfit(model: nn.Module, images: Tensor, line: str) -> WcxError:
    """Return an error that says `line`, or raise another: that the model does not take such images at all is the nearer mistake."""
    with evaluated(model), torch.no_grad():
        call(model, images)
    return WcxError(line)


def _channels(count: int) -> str:
    return f"{count} channel{'s' * (count != 1)}"


def _wrapper(model: nn.Module) -> Normalized | None:
    return next((module for module in model.modules() if isinstance(module, Normalized)), None)


def residual(total: Tensor, v: Tensor, change: Tensor) -> Tensor:
    """Return by how much explanations miss sum_s v_s (y_s(image) - y_s(reference)): (K, N), float64.

    Args:
        total: the explanations' sums, (K, N), float64.
        v: (K, N, C).
        change: y(image) - y(reference), (N, C).
    """
    return total - (v.double() * change.double()).sum(2)
