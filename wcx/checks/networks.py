"""Small networks of random weights, and noise for them: every layer that matters to the theory in milliseconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 6


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


def images(n: int = 3, size: int = 16, seed: int = 3) -> Tensor:
    """Return normalised-looking images (n, 3, size, size), float32."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))
