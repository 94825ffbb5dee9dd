"""A request on small networks and drawn images, for the tests of the checks; not a test itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tests import nets
from wcx.checks import Request
from wcx.datasets import ImageDataset
from wcx.images import Normalized
from wcx.models import LoadedModel, weights_hash


class Drawn(ImageDataset):
    """Seeded pixels in [0, 1], some of them at both ends."""

    def __init__(self, name: str = "imagenet", count: int = 7) -> None:
        self.pixels = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(5))
        self.pixels[:, :, :4] = self.pixels[:, :, :4].round()
        labels = [i % nets.CLASSES for i in range(count)]
        super().__init__(name, "test", None, [f"{i}.jpg" for i in range(count)], labels, class_names=list("abcdef"))

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.pixels[i], self.labels[i]


def loaded(name: str = "small", sharp: float = 1.0) -> LoadedModel:
    """A small network whose logits are `sharp` times as far apart."""
    net = nets.conv_batchnorm()
    last = net[9]
    assert isinstance(last, nn.Linear)
    last.weight.data *= sharp
    model = Normalized(net).eval()
    return LoadedModel(net, model, name, "3", None, "random", False, weights_hash(net.state_dict()), {})


@dataclass(frozen=True)
class Small(Request):
    """Whatever is asked for, it is the small network on drawn images."""

    sharp: float = 1.0

    def images(self, dataset: str, model: str) -> ImageDataset:
        return Drawn(dataset)

    def network(self, model: str, dataset: ImageDataset | None = None) -> LoadedModel:
        return loaded(model, self.sharp)

    def fresh(self, model: str, weights: str) -> LoadedModel:
        return loaded(model)


def small(folder: Path, sharp: float = 1.0, **lists: list[str]) -> Small:
    chosen = {"networks": ["bias_free"], "methods": ["gradcam"], "contrasts": ["weighted"], **lists}
    return Small(**chosen, limit=5, epsilon=0.05, common={"results_dir": folder}, sharp=sharp)
