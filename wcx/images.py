"""[0, 1] pixels: from an image file to a network's input and its logits, and what takes the place of pixels (baselines)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from wcx.errors import WcxError, choose

if TYPE_CHECKING:
    from PIL import Image  # imported where it is needed: an explanation needs no Pillow

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BASELINES = ("blur", "zeros", "mean")
_SIDE = 224  # kernel and sigma are stated for this image side and scale with it


class Normalized(nn.Module):
    """`model` behind the normalisation it was trained with: takes [0, 1] pixels.

    Attributes:
        model: the inner network; layer names refer to it.
        mean, std: float32 buffers (channels, 1, 1), not part of the state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    @property
    def zero(self) -> list[float]:
        """The pixel value, one a channel, of zero in the normalised space: the mean colour."""
        return [float(value) for value in self.mean.flatten()]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return the inner network's input (N, channels, H, W) for pixels (N, channels, H, W) in [0, 1]."""
        return (pixels - self.mean) / self.std

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, C) of pixels (N, channels, H, W) in [0, 1]; see `logits_of`."""
        return logits_of(self.model(self.normalise(pixels)))


def logits_of(output: object) -> Tensor:
    """Return the logits in what a network returned.

    That is the tensor itself; the entry `logits` or `out` of a mapping (transformers' ModelOutput is one), an attribute
    `logits`, or the first item of a tuple (GoogLeNet has auxiliary logits behind it); anything else is a WcxError.
    """
    if isinstance(output, Mapping):
        output = next((output[key] for key in ("logits", "out") if key in output), output)
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    if isinstance(output, Tensor):
        return output
    entries = f" with {', '.join(map(repr, output)) or 'no entry'}" if isinstance(output, Mapping) else ""
    raise WcxError(
        f"the network returns a {type(output).__name__}{entries}; expected logits (N, C), alone, as the entry 'logits' or "
        f"'out' of a dict, or first in a tuple."
    )


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's parameters (or buffers) are; the CPU for one that has none."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))


@dataclass(frozen=True)
class Transform:
    """From a PIL image to the pixels that a network sees: bilinear with antialiasing, values in [0, 1], not normalised.

    Args:
        kind: "squash" resizes to size x size whatever the aspect ratio (the masking protocol); "crop" resizes the short
            side to `resize` and cuts the central size x size (the usual ImageNet transform); "squash_crop" resizes to
            resize x resize and cuts likewise.
        size: side of the result, in pixels.
        resize: length of the short side (of both) before the crop, in pixels; "squash" ignores it.
    """

    channels: ClassVar[int] = 3

    kind: str = "squash"
    size: int = 224
    resize: int = 256

    def __post_init__(self) -> None:
        choose("transform", self.kind, ("squash", "crop", "squash_crop"))
        if self.size < 1 or (self.kind != "squash" and self.resize < self.size):
            raise WcxError(f"transform: size {self.size} must be at least 1 and at most resize {self.resize}.")

    @property
    def resampling(self) -> Image.Resampling:
        """Pillow's name of the interpolation."""
        from PIL import Image

        return Image.Resampling.BILINEAR

    def __call__(self, image: Image.Image) -> Tensor:
        """Return float32 (channels, size, size) in [0, 1] from an RGB image: what torchvision's transforms give, bit for bit.

        Of a strip (more than 20 times as long as wide) only the square in its middle is resized, within 1/255 of that:
        the whole strip would take gigabytes.
        """
        width, height = self._resized(*image.size)
        x0, y0 = self._offset(width, height)
        right, bottom = x0 + self.size, y0 + self.size
        if max(width, height) > 20 * min(width, height):
            x, y = image.width / width, image.height / height
            box = (x0 * x, y0 * y, min(right * x, image.width), min(bottom * y, image.height))
            image = image.resize((self.size, self.size), self.resampling, box=box)
        else:
            image = image.resize((width, height), self.resampling).crop((x0, y0, right, bottom))
        values = torch.from_numpy(np.array(image)).reshape(self.size, self.size, self.channels)
        return values.movedim(2, 0).to(torch.float32) / 255

    def box(self, box: Sequence[float], width: int, height: int) -> np.ndarray:
        """Map a box of a width x height image onto the transformed image.

        Args:
            box: x, y, w, h in pixels (x and y of the upper left corner).

        Returns:
            float64 (4,): x, y, w, h in pixels of the result, cut off at its edges (w or h is 0 where nothing is left).
        """
        new_width, new_height = self._resized(width, height)
        x0, y0 = self._offset(new_width, new_height)
        x, y, w, h = (float(v) for v in box)
        xs = np.clip(np.array([x, x + w]) * new_width / width - x0, 0, self.size)
        ys = np.clip(np.array([y, y + h]) * new_height / height - y0, 0, self.size)
        return np.array([xs[0], ys[0], xs[1] - xs[0], ys[1] - ys[0]])

    def point(self, x: float, y: float, width: int, height: int) -> tuple[float, float]:
        """Map a point of a width x height image onto the transformed image; it may lie outside of it."""
        new_width, new_height = self._resized(width, height)
        x0, y0 = self._offset(new_width, new_height)
        return x * new_width / width - x0, y * new_height / height - y0

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the resized image, before the crop; the long side is rounded as torchvision does."""
        if self.kind != "crop":
            side = self.size if self.kind == "squash" else self.resize
            return side, side
        short = min(width, height)
        return int(self.resize * width / short), int(self.resize * height / short)

    def _offset(self, width: int, height: int) -> tuple[int, int]:
        """Return left and top of the central square of a resized image."""
        return round((width - self.size) / 2), round((height - self.size) / 2)


@dataclass(frozen=True)
class Preset(Transform):
    """A `Transform` of another interpolation, as some of torchvision's networks were trained with.

    Args:
        interpolation: bilinear, bicubic, ...
    """

    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        from PIL import Image

        super().__post_init__()
        choose("interpolation", self.interpolation, (method.name.lower() for method in Image.Resampling))

    @property
    def resampling(self) -> Image.Resampling:
        """Pillow's name of the interpolation."""
        from PIL import Image

        return Image.Resampling[self.interpolation.upper()]


@dataclass(frozen=True)
class Grey(Transform):
    """A `Transform` to one channel, for networks that take one: Pillow's L of the image, before it is resized."""

    channels: int = 1  # type: ignore[misc]  # a field: caches and records of it are others than those in colour

    def __call__(self, image: Image.Image) -> Tensor:
        """Return float32 (1, size, size) in [0, 1]; see `Transform`."""
        return super().__call__(image.convert("L"))


def make_baseline(
    name: str,
    images: Tensor,
    *,
    sigma: float | Sequence[float] | Tensor = 15.0,
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
    return replacement(name, images, sigma, kernel, zero).expand_as(images)


def replacement(
    name: str,
    images: Tensor,
    sigma: float | Sequence[float] | Tensor = 15.0,
    kernel: int = 101,
    zero: Sequence[float] | Tensor | float = 0.0,
) -> Tensor:
    """Return what `make_baseline` does, in a shape that broadcasts to the images': of a constant colour only the colour."""
    if choose("baseline", name, BASELINES) == "blur":
        return blur(images, sigma, kernel)
    if name == "mean":
        return images.mean((2, 3), keepdim=True)
    return torch.as_tensor(zero, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1)


def drawn_sigma(sigma: float | Sequence[float], seed: int, index: int) -> float:
    """Return the blur's sigma for image `index`: as given, or drawn uniformly from a pair (low, high), seeded per image."""
    low, high = sigma_range(sigma)
    return low if isinstance(sigma, (int, float)) else float(np.random.default_rng([seed, index]).uniform(low, high))


def sigma_range(sigma: float | Sequence[float]) -> tuple[float, float]:
    """Return the lowest and the highest sigma of a blur.

    Raises:
        WcxError: neither a positive number nor a pair of them, the lower first.
    """
    ends = tuple(float(end) for end in (sigma if isinstance(sigma, Sequence) else (sigma, sigma)))
    if len(ends) != 2 or not 0 < ends[0] <= ends[1]:
        raise WcxError(f"blur_sigma = {sigma!r}; give a width in pixels, or a range [lowest, highest].")
    return ends


def blur(images: Tensor, sigma: float | Sequence[float] | Tensor = 15.0, kernel: int = 101) -> Tensor:
    """Return images (N, C, H, W) blurred by a Gaussian with reflect padding.

    Separable, as two matrix products an image: torchvision's gaussian_blur convolves in 2-d, 101 x 101 taps here, and knows
    one sigma a batch.

    Args:
        images: (N, C, H, W).
        sigma: in pixels of an image of side 224, scaled with the image's side; one, or one an image (N,).
        kernel: the width in pixels of an image of side 224, scaled likewise and made odd.

    Raises:
        WcxError: sigma is not positive, or kernel below 1.
    """
    widths = sigma.flatten().tolist() if isinstance(sigma, Tensor) else np.ravel(sigma).tolist()
    if not all(width > 0 for width in widths):  # NaN is not
        raise WcxError(f"blur: sigma = {min(widths)} is not positive; give a width in pixels, such as 15.")
    if not kernel >= 1:
        raise WcxError(f"blur: kernel = {kernel} is no width in pixels; give one such as 101.")
    sigmas = torch.tensor(widths[:1] if len(set(widths)) == 1 else widths, dtype=torch.float64)
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
