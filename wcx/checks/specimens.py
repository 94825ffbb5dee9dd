"""The networks that are checked, each with images in its input space."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wcx.checks import networks
from wcx.checks.cells import Request
from wcx.experiments import images
from wcx.images import device_of

SMALL = {"conv_batchnorm": networks.conv_batchnorm, "bias_free": networks.bias_free}
TRAINED = ("squeezenet1_1", "mobilenet_v2")
CONVOLUTIONS = ("vgg16", "alexnet")
RANDOM = ("resnet18", "densenet161", "googlenet", "mobilenet_v3_small", "efficientnet_b1", "mnasnet1_0")
NETWORKS = (*SMALL, *TRAINED, *CONVOLUTIONS, *RANDOM)
SIDE = {"vgg16": 64, "densenet161": 64, "squeezenet1_1": 128, "mobilenet_v2": 128}  # pixels; of the others 96


@dataclass
class Specimen:
    """A network in eval mode and images in its input space, both float32.

    Attributes:
        name: of the network.
        weights: the label for tables.
        net: normalised images -> logits.
        images: (N, 3, H, W), normalised.
        layer: the activation layer, or None (found).
    """

    name: str
    weights: str
    net: nn.Module
    images: Tensor
    layer: str | None = None

    def to(self, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
        """Return a copy of the network, and the images, in another dtype."""
        return copy.deepcopy(self.net).to(dtype), self.images.to(dtype)


def specimen(request: Request, name: str, count: int, side: int | None = None) -> Specimen:
    """Return one of `NETWORKS` with `count` images.

    The small networks get noise, all others photographs of the ImageNet sample at `side` pixels (default: `SIDE`).
    squeezenet1_1 and mobilenet_v2 come with their weights, vgg16 and alexnet with their convolutions below a fresh
    classifier, the others with random weights.
    """
    if name in SMALL:
        return Specimen(name, "random", SMALL[name](), networks.images(count))
    dataset = request.images("imagenet", name)
    if name in TRAINED:
        loaded = request.network(name, dataset)
    else:
        loaded = request.fresh(name, "auto" if name in CONVOLUTIONS else "random")
    shape = (side or SIDE.get(name, 96),) * 2
    pixels = torch.stack([dataset[i][0] for i in images.order(len(dataset), count, request.seed)])
    if pixels.shape[-2:] != shape:
        pixels = nn.functional.interpolate(pixels, shape, mode="bilinear", antialias=True)
    normalised = loaded.model.normalise(pixels.to(device_of(loaded.net)))
    if name in RANDOM:
        calibrate(loaded.net, normalised)
    label = f"{loaded.weights}, fresh classifier" if name in CONVOLUTIONS else loaded.weights
    return Specimen(name, label, loaded.net, normalised, loaded.layer)


@torch.no_grad()
def calibrate(net: nn.Module, normalised: Tensor) -> None:
    """Give a random network's BatchNorms the statistics of noisy images, without which deep ones fade or explode."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, *normalised.shape[1:], generator=generator).to(normalised)
    net(normalised[:1] + noise)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
