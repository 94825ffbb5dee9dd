"""Gradient (Simonyan et al. 2013), and SmoothGrad (Smilkov et al. 2017) as an option."""

from __future__ import annotations

from torch import Tensor, nn

from wcx.methods.base import Method, Run, as_images
from wcx.methods.paths import InputRun, PathRun, smoothing


class Gradient(Method):
    """phi = gradient of sum_s v_s y_s with respect to the image.

    Args:
        samples: 0 for the gradient at the image; S >= 1 for its mean over S noisy copies (SmoothGrad).
        noise: standard deviation of the noise, as a share of the image's range (max - min).
        seed: of the noise; the same pattern for every image.
        batch_size: of SmoothGrad, at most so many noisy images at once (but at least one copy of all).
    """

    space = "input"
    times_input = False

    def __init__(self, samples: int = 0, noise: float = 0.15, seed: int = 0, batch_size: int = 32) -> None:
        self.version = 2 if samples else 1  # 2: no two noisy copies in one batch of a network that mixes images
        self.samples, self.noise, self.seed, self.batch_size = samples, noise, seed, batch_size

    def run(self, model: nn.Module, images: Tensor, layer: str | nn.Module | None = None) -> Run:
        """See `Method.run`; `layer` plays no part."""
        images = as_images(images)
        if not self.samples:
            return InputRun(model, images, times_input=self.times_input)
        images = images.clone()  # for later: the caller may write into them
        cloud = smoothing(images, self.samples, self.noise, self.seed, times_input=self.times_input)
        return PathRun(model, images, cloud, self.batch_size)
