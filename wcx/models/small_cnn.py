"""A small convolutional network that learns `parts` from scratch in less than a minute on two cores."""

from __future__ import annotations

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Five convolutions with BatchNorm, pooling and a linear classifier: see `small_cnn`.

    Attributes:
        features: images (N, 3, H, W) -> the last convolutional activation (N, 128, H / 8, W / 8), at least 0.
        pool: that activation -> (N, 128, 1, 1): the mean of the maxima of its 2 x 2 cells. The maxima let a part that is
            seen in one place count, and make the gradient differ from place to place, as in the networks of the paper.
        classifier: (N, 128) -> logits (N, num_classes).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(3, 16, stride=2),
            block(16, 32, pool=True),
            block(32, 48, pool=True),
            block(48, 96),
            block(96, 128),
        )
        self.pool = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) of normalised images (N, 3, H, W), H and W at least 16."""
        return self.classifier(self.pool(self.features(images)).flatten(1))


def block(inputs: int, outputs: int, *, stride: int = 1, pool: bool = False) -> nn.Sequential:
    """Return 3 x 3 convolution, halving max-pool if asked for, BatchNorm, ReLU.

    Pooling comes first because the other two then work on a quarter of the values; on two cores they would take longest.
    """
    layers = [
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        *([nn.MaxPool2d(2)] if pool else []),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers)


def small_cnn(num_classes: int = 1000) -> SmallCNN:
    """Return the network for 96 x 96 images (others work), randomly initialised; about 0.17 million parameters.

    Its last convolutional activation is the output of `features.4`: 12 x 12 at 96 x 96.
    """
    return SmallCNN(num_classes)
