"""Small networks for tests, those of the checks among them; not a test itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wcx.checks.specimens import CLASSES, bias_free, conv_batchnorm
from wcx.checks.specimens import noise as images

__all__ = ["ALL", "CLASSES", "Residual", "bias_free", "conv_batchnorm", "images", "residual"]


class Residual(nn.Module):
    """A residual net whose one ReLU runs twice, as in torchvision's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, CLASSES)."""
        x = self.relu(self.stem(x))
        x = self.relu(self.conv(x) + x)
        return self.fc(x.mean((2, 3)))


def residual(seed: int = 2) -> nn.Module:
    """Return a `Residual` of random weights in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Residual().eval()


ALL = {"conv_batchnorm": conv_batchnorm, "bias_free": bias_free, "residual": residual}
