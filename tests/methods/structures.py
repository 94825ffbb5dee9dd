"""Networks with BatchNorm as people write them, each with the network without one whose LRP map it has; not a test itself.

The second is for zennit's own hooks, without canonisation: a BatchNorm that belongs to the layer before it is folded into it by
torch's `fuse_conv_bn_eval`, another one is an affine function of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from zennit.attribution import Gradient
from zennit.core import Composite
from zennit.layer import Sum
from zennit.rules import Epsilon, Gamma, Pass, ZBox, ZPlus

import wcx
from tests import nets
from tests.methods.modules import Function as Affine  # gets the epsilon rule from zennit, as those that are not merged
from tests.methods.modules import randomised

LOW, HIGH = -2.5, 2.5
TARGET = 1


class Parts(nn.Module):
    """Layers for the networks below, of random weights and statistics; `forward` is one of them."""

    def __init__(self, network: Callable[[Parts, Tensor], Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.stem, self.stem2, self.conv = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 3, 8))
            self.up = nn.ConvTranspose2d(8, 8, 3, padding=1)
            self.linear, self.head = nn.Linear(8, 8), nn.Linear(8 * 64, nets.CLASSES)
            self.bn, self.bn2, self.flat_bn, self.wide_bn = (
                *(nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm1d(8), nn.BatchNorm1d(8 * 256)),
            )
        self.network = network
        randomised(self)
        self.flat_bn.load_state_dict(self.bn.state_dict())
        # For the oracle, each module used once.
        self.add, self.relus = Sum(), nn.ModuleList(nn.ReLU() for _ in range(4))
        self.stem_bn, self.stem2_bn2 = fuse_conv_bn_eval(self.stem, self.bn), fuse_conv_bn_eval(self.stem2, self.bn2)
        self.stem_bn2, self.conv_bn, self.conv_bn2 = (
            *(fuse_conv_bn_eval(self.stem, self.bn2), fuse_conv_bn_eval(self.conv, self.bn)),
            fuse_conv_bn_eval(self.conv, self.bn2),
        )
        self.linear_bn = fuse_linear_bn_eval(self.linear, self.flat_bn)
        self.affine, self.affine2, self.affine_up = Affine(self.bn), Affine(self.bn2), Affine(self.bn)
        self.twice, self.wide = Affine(lambda x: 2 * x), Affine(lambda x: self.wide_bn(x.flatten(1)).view_as(x))
        self.rolled = Affine(lambda x: self.bn(x.roll(1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, CLASSES)."""
        return self.head(F.max_pool2d(self.network(self, x), 2).flatten(1))

    def sum(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum as a module, for zennit."""
        return self.add(torch.stack([x, y], -1))


def explained(model: nn.Module, images: Tensor, composite: str, contrast: str = "weighted") -> Tensor:
    return wcx.explain(model, images, TARGET, "lrp", contrast, composite=composite, low=LOW, high=HIGH)


def distance(map: Tensor, expected: Tensor) -> float:
    return float((map - expected).double().norm() / expected.double().norm())


def by_zennit(model: nn.Module, images: Tensor, v: Tensor, composite: str) -> Tensor:
    """Return the map of zennit's own hooks for the seed v y; the stems get the box."""
    convolution = {"epsilon": Epsilon, "epsilon_plus": ZPlus, "z_plus": ZPlus, "epsilon_gamma_box": Gamma}[composite]
    linear = ZPlus if composite == "z_plus" else Epsilon

    def rule(_context: dict[str, Any], name: str, module: nn.Module) -> Any:
        if composite == "epsilon_gamma_box" and name.startswith("stem"):
            return ZBox(*(torch.full((1, 3, 1, 1), end, dtype=images.dtype) for end in (LOW, HIGH)))
        if isinstance(module, nn.ReLU):
            return Pass()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            return convolution()
        if isinstance(module, nn.Linear):
            return linear()
        return Epsilon() if isinstance(module, (Affine, Sum)) else None

    with Gradient(model, Composite(module_map=rule)) as attributor:
        return attributor(images.clone(), lambda output: v * output.detach())[1]


def features(s: Parts, x: Tensor) -> Tensor:
    return s.relus[0](s.stem(x))


def written_after_the_copy(s: Parts, x: Tensor) -> Tensor:
    h = s.stem(x)
    kept = h.clone()
    h.mul_(2)
    return F.relu(s.bn(kept)) + F.relu(h)


def in_place_residual(s: Parts, x: Tensor) -> Tensor:
    r = features(s, x)
    y = s.conv(r)
    y += r
    return F.relu(s.bn(y))


def in_place_scale(s: Parts, x: Tensor) -> Tensor:
    h = s.stem(x)
    h.mul_(2)
    return F.relu(s.bn(h))


def in_place_scale_of_a_view(s: Parts, x: Tensor) -> Tensor:
    h = s.stem(x)
    h.view(-1)[:].mul_(2)
    return F.relu(s.bn(h))


def input_written_later(s: Parts, x: Tensor) -> Tensor:
    r = features(s, x)
    y = s.conv(r)
    r.mul_(2)
    return F.relu(s.bn(y)) + r


def two_stems(s: Parts, x: Tensor) -> Tensor:
    a = s.stem(x)
    b = s.stem2(x)
    return F.relu(s.bn(a)) + F.relu(s.bn2(b))


def two_stems_in_the_other_order(s: Parts, x: Tensor) -> Tensor:
    b = s.stem2(x)
    a = s.stem(x)
    return F.relu(s.bn(a)) + F.relu(s.bn2(b))


def two_batchnorms(s: Parts, x: Tensor) -> Tensor:
    h = s.stem(x)
    return F.relu(s.bn(h)) + F.relu(s.bn2(h))


def batchnorm_and_skip(s: Parts, x: Tensor) -> Tensor:
    h = s.stem(x)
    return F.relu(s.bn(h)) + h


def constant_first(s: Parts, x: Tensor) -> Tensor:
    size = s.stem2(torch.ones_like(x)).shape
    return F.relu(s.bn(s.stem(x))).view(size)


def residual(s: Parts, x: Tensor) -> Tensor:
    r = features(s, x)
    return F.relu(s.bn(s.conv(r) + r))


def residual_without(s: Parts, x: Tensor) -> Tensor:
    r = features(s, x)
    return s.relus[1](s.affine(s.sum(s.conv(r), r)))


def input_written_later_without(s: Parts, x: Tensor) -> Tensor:
    r = features(s, x)
    return s.sum(s.relus[1](s.conv_bn(r)), s.twice(r))


def tokens(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of (N, places, channels)."""
    return function(x.flatten(2).mT).mT.unflatten(2, x.shape[2:])


Network = Callable[[Parts, Tensor], Tensor]
# How it is written, and the network without BatchNorm whose map it has.
STRUCTURES: dict[str, tuple[Network, Network]] = {
    "one after the other": (
        lambda s, x: F.relu(s.bn2(s.conv(F.relu(s.bn(s.stem(x)))))),
        lambda s, x: s.relus[0](s.conv_bn2(s.relus[1](s.stem_bn(x)))),
    ),
    "other calls in between": (
        two_stems,
        lambda s, x: s.sum(s.relus[0](s.stem_bn(x)), s.relus[1](s.stem2_bn2(x))),
    ),
    "in the other order": (
        two_stems_in_the_other_order,
        lambda s, x: s.sum(s.relus[0](s.stem_bn(x)), s.relus[1](s.stem2_bn2(x))),
    ),
    "one convolution, two BatchNorms": (
        two_batchnorms,
        lambda s, x: s.sum(s.relus[0](s.stem_bn(x)), s.relus[1](s.stem_bn2(x))),
    ),
    "one convolution, BatchNorm and a skip": (
        batchnorm_and_skip,
        lambda s, x: s.sum(s.relus[0](s.stem_bn(x)), s.stem(x)),
    ),
    "one convolution twice": (
        lambda s, x: F.relu(s.bn2(s.conv(F.relu(s.bn(s.conv(features(s, x))))))),
        lambda s, x: s.relus[1](s.conv_bn2(s.relus[2](s.conv_bn(features(s, x))))),
    ),
    "written into after it was copied": (
        written_after_the_copy,
        lambda s, x: s.sum(s.relus[0](s.stem_bn(x)), s.relus[1](s.twice(s.stem(x)))),
    ),
    "the convolution's input written into later": (
        input_written_later,
        input_written_later_without,
    ),
    "reshaped: (N, C, places)": (
        lambda s, x: F.relu(s.flat_bn(s.stem(x).flatten(2)).unflatten(2, x.shape[2:])),
        lambda s, x: s.relus[0](s.stem_bn(x)),
    ),
    "moved: (N * places, C)": (
        lambda s, x: F.relu(
            s.flat_bn(s.stem(x).permute(0, 2, 3, 1).reshape(-1, 8)).view(-1, 16, 16, 8).permute(0, 3, 1, 2)
        ),
        lambda s, x: s.relus[0](s.stem_bn(x)),
    ),
    "linear, reshaped: (N * places, C)": (
        lambda s, x: F.relu(tokens(lambda t: s.flat_bn(s.linear(t).flatten(0, 1)).view_as(t), features(s, x))),
        lambda s, x: s.relus[1](tokens(s.linear_bn, features(s, x))),
    ),
    "linear, transposed: (N, C, places)": (
        lambda s, x: F.relu(tokens(lambda t: s.flat_bn(s.linear(t).mT).mT, features(s, x))),
        lambda s, x: s.relus[1](tokens(s.linear_bn, features(s, x))),
    ),
    "by torch.batch_norm": (
        lambda s, x: F.relu(
            torch.batch_norm(
                s.stem(x), s.bn.weight, s.bn.bias, s.bn.running_mean, s.bn.running_var, False, 0.1, s.bn.eps, False
            )
        ),
        lambda s, x: s.relus[0](s.stem_bn(x)),
    ),
    "by names": (
        lambda s, x: F.relu(
            s.bn(F.conv2d(weight=s.stem.weight, padding=1, input=x, bias=s.stem.bias)),
        ),
        lambda s, x: s.relus[0](s.stem_bn(x)),
    ),
    "a convolution of a constant first": (
        constant_first,
        lambda s, x: s.relus[0](s.stem_bn(x)),
    ),
    # Not merged: it is no function of the layer's output alone, or its channels are not the layer's.
    "residual": (
        residual,
        residual_without,
    ),
    "residual in place": (
        in_place_residual,
        residual_without,
    ),
    "scaled": (
        lambda s, x: F.relu(s.bn(2 * s.stem(x))),
        lambda s, x: s.relus[0](s.affine(s.twice(s.stem(x)))),
    ),
    "scaled in place": (in_place_scale, lambda s, x: s.relus[0](s.affine(s.twice(s.stem(x))))),
    "scaled in place by a view": (in_place_scale_of_a_view, lambda s, x: s.relus[0](s.affine(s.twice(s.stem(x))))),
    "after an activation": (
        lambda s, x: s.bn(F.relu(s.stem(x))),
        lambda s, x: s.affine(s.relus[0](s.stem(x))),
    ),
    "a BatchNorm of a BatchNorm": (
        lambda s, x: F.relu(s.bn2(s.bn(s.stem(x)))),
        lambda s, x: s.relus[0](s.affine2(s.stem_bn(x))),
    ),
    "channels rolled": (
        lambda s, x: F.relu(s.bn(s.stem(x).roll(1, 1))),
        lambda s, x: s.relus[0](s.rolled(s.stem(x))),
    ),
    "flattened: every place a channel": (
        lambda s, x: F.relu(s.wide_bn(s.stem(x).flatten(1)).view(-1, 8, 16, 16)),
        lambda s, x: s.relus[0](s.wide(s.stem(x))),
    ),
    "transposed convolution": (
        lambda s, x: F.relu(s.bn(s.up(features(s, x)))),
        lambda s, x: s.relus[1](s.affine_up(s.up(features(s, x)))),
    ),
}
