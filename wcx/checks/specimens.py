"""The networks that the oracle and the cost are about, each with images for it.

Two are small, of random weights, for noise: every layer that matters to the theory in milliseconds.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from wcx import models
from wcx.checks.base import Request
from wcx.datasets import ImageDataset
from wcx.experiments import images
from wcx.images import Normalized, Transform, device_of
from wcx.models import LoadedModel

CLASSES = 6  # of the small networks


def conv_batchnorm(seed: int = 0) -> nn.Module:
    """A conv net with BatchNorm of random statistics, biases and in-place ReLUs, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(inplace=True)),
            nn.Conv2d(12, 10, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(10 * 16, 20),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(20, CLASSES),
        )
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.get_buffer("running_mean"), std=0.2)
                nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias, std=0.2)
    return net.eval()


def bias_free(seed: int = 1) -> nn.Module:
    """A ReLU net without biases: homogeneous (section 4)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 10, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(10 * 16, CLASSES, bias=False),
        ).eval()


def noise(n: int = 3, size: int = 16, seed: int = 3) -> Tensor:
    """Return normalised-looking images (n, 3, size, size), float32."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


SMALL = {"conv_batchnorm": conv_batchnorm, "bias_free": bias_free}
TRAINED = ("squeezenet1_1", "mobilenet_v2")
CONVOLUTIONS = ("vgg16", "alexnet")
RANDOM = ("resnet18", "densenet161", "googlenet", "mobilenet_v3_small", "efficientnet_b1", "mnasnet1_0")
NETWORKS = (*SMALL, *TRAINED, *CONVOLUTIONS, *RANDOM)
SIDES = {"vgg16": 64, "densenet161": 64, "squeezenet1_1": 128, "mobilenet_v2": 128}  # pixels; of the others 96


class Noise(ImageDataset):
    """What the small networks get: numbers around 0, as normalised images have."""

    def __init__(self, count: int) -> None:
        self._pixels = noise(count)
        ids, classes = list(map(str, range(count))), list(map(str, range(CLASSES)))
        shape = Transform("squash", self._pixels.shape[-1])
        super().__init__("noise", "test", None, ids, [0] * count, class_names=classes, transform=shape)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """Return (float32 (3, 16, 16), 0)."""
        return self._pixels[i], 0


def opened(request: Request, name: str, count: int) -> tuple[ImageDataset, LoadedModel, int | None]:
    """Return images for one of `NETWORKS`, the network, and the side that the images are to be reduced to.

    The small networks get `count` images of noise as it is (None), all others photographs of the ImageNet sample.
    squeezenet1_1 and mobilenet_v2 come with their weights, vgg16 and alexnet with their convolutions below a fresh
    classifier, the others with random weights.
    """
    if name in SMALL:
        net = SMALL[name]()
        bare = Normalized(net, (0.0,) * 3, (1.0,) * 3).eval()
        loaded = LoadedModel(net, bare, name, None, None, "random", False, models.weights_hash(net.state_dict()), {})
        return Noise(count), loaded, None
    dataset, side = request.images("imagenet", name), SIDES.get(name, 96)
    if name in TRAINED:
        return dataset, request.network(name, dataset), side
    loaded = request.fresh(name, "auto" if name in CONVOLUTIONS else "random")
    if name in CONVOLUTIONS:
        return dataset, replace(loaded, weights=f"{loaded.weights}, fresh classifier"), side
    (first,) = images.order(len(dataset), 1, request.seed)
    pixels = dataset[first][0][None].to(device_of(loaded.net))
    calibrate(loaded.net, loaded.model.normalise(reduced(pixels, side)))
    return dataset, replace(loaded, weights_hash=models.weights_hash(loaded.net.state_dict())), side


def reduced(pixels: Tensor, side: int | None) -> Tensor:
    """Return images (N, 3, H, W) at side x side pixels; as they are for None."""
    if side is None or pixels.shape[-2:] == (side, side):
        return pixels
    return nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)


@torch.no_grad()
def calibrate(net: nn.Module, normalised: Tensor) -> None:
    """Give a random network's BatchNorms the statistics of a noisy image, without which deep ones fade or explode.

    Args:
        net: changed in place.
        normalised: an image in its input space, (1, 3, H, W).
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, *normalised.shape[1:], generator=generator).to(normalised)
    net(normalised + noise)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
