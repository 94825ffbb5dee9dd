"""Modules and networks for the tests of DeepLIFT and LRP; not a test itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from tests import nets


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Mixed(nn.Module):
    """Piecewise linear, with all that torchvision's networks do outside modules."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)  # no convolution before it
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 1)
        self.late = nn.BatchNorm2d(16)  # after a concatenation, as in DenseNet
        self.up = nn.ConvTranspose2d(16, 6, 2, stride=2)
        self.up_bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 10, bias=False)
        self.fc_bn = nn.BatchNorm1d(10)
        self.head = nn.Linear(10, nets.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, i : i + 1] * (0.5 + i) - 0.1 * i for i in range(3)], 1)
        x = F.relu(self.bn(self.stem(self.norm(x))))
        y = self.branch(x)
        y += 2 * x
        y *= 1.5
        y.relu_()
        total = torch.full_like(y, 0.2)
        total += y
        y = self.late(torch.cat([total, torch.sub(x, self.branch(x), alpha=0.5).clamp(min=0)], 1))
        y = F.relu(self.up_bn(self.up(F.avg_pool2d(F.relu(y), 2))) / 3)
        y = F.max_pool2d(y, 3, 2).mean((2, 3)) + 0.3
        return self.head(F.leaky_relu(self.fc_bn(self.fc(y)), 1.0))


def net_of(*layers: nn.Module, seed: int = 0) -> nn.Module:
    """Return a float64 net of the given layers, all parameters random."""
    model = nn.Sequential(*layers).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give parameters and statistics random values; float64, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.double().eval().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 2, generator=generator)
            nn.init.normal_(module.bias, std=0.2, generator=generator)
    return model


def mixed() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return randomised(Mixed())


def torchvision_net(name: str, **options: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomised(torchvision.models.get_model(name, weights=None, num_classes=20, **options))
