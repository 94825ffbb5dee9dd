"""One function written in several ways has one map: in place, into buffers, with scratch tensors, by names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from tests import nets
from tests.methods.structures import Parts, distance, explained
from wcx.methods.lrp import COMPOSITES


def constant_written_later(s: Parts, x: Tensor) -> Tensor:
    shift = torch.full((8, 1, 1), 0.3, dtype=x.dtype)
    y = F.relu(s.stem(x)) + shift
    shift.add_(3)
    return y


def factor_written_later(s: Parts, x: Tensor) -> Tensor:
    factor = torch.full((8, 1, 1), 0.3, dtype=x.dtype)
    y = F.relu(s.stem(x)) * factor
    factor.add_(3)
    return y


def weight_written_later(s: Parts, x: Tensor) -> Tensor:
    weight = s.stem.weight.clone()
    y = F.conv2d(x, weight, s.stem.bias, padding=1)
    weight.copy_(s.stem2.weight)
    return F.relu(y) + F.relu(F.conv2d(x, weight, s.stem2.bias, padding=1))


def statistics_written_later(s: Parts, x: Tensor) -> Tensor:
    mean, bn = s.bn.running_mean.clone(), s.bn
    y = F.relu(F.batch_norm(s.stem(x), mean, bn.running_var, bn.weight, bn.bias))
    mean.add_(3)
    return F.batch_norm(y, mean, bn.running_var, bn.weight, bn.bias)


def sum_into_a_buffer(s: Parts, x: Tensor) -> Tensor:
    buffer = torch.zeros(len(x), 8, 16, 16, dtype=x.dtype)
    buffer += F.relu(s.stem(x))
    buffer += F.relu(s.stem2(x))
    return buffer


def halves_in_place(s: Parts, x: Tensor) -> Tensor:
    y = s.stem(x)
    y[:, :4].relu_()
    y[:, 4:] += s.stem2(x)[:, 4:]
    return y


def halves(s: Parts, x: Tensor) -> Tensor:
    y = s.stem(x)
    return torch.cat([F.relu(y[:, :4]), y[:, 4:] + s.stem2(x)[:, 4:]], 1)


def twice(s: Parts, x: Tensor) -> Tensor:
    y = F.relu(s.stem(x))
    return y + y


def constant_first(s: Parts, x: Tensor) -> Tensor:
    constant = s.stem2(torch.ones_like(x))
    return F.relu(s.stem(x)) + constant


def copy_written_into(s: Parts, x: Tensor) -> Tensor:
    y = F.relu(s.stem(x))
    z = y * 1
    z.mul_(2)
    return y + z


def tokens(s: Parts, x: Tensor) -> Tensor:
    return s.linear(F.relu(s.stem(x)).flatten(2).transpose(1, 2).contiguous())  # what comes is a view


def map_of(t: Tensor) -> Tensor:
    return F.relu(t).transpose(1, 2).unflatten(2, (16, 16))


WRITTEN = {
    "a linear layer's tokens written into": (
        lambda s, x: map_of(tokens(s, x).add_(0.3)),
        lambda s, x: map_of(tokens(s, x) + 0.3),
    ),
    "a constant that is written into later": (constant_written_later, lambda s, x: F.relu(s.stem(x)) + 0.3),
    "a factor that is written into later": (factor_written_later, lambda s, x: 0.3 * F.relu(s.stem(x))),
    "a weight that is written into later": (
        weight_written_later,
        lambda s, x: F.relu(s.stem(x)) + F.relu(s.stem2(x)),
    ),
    "statistics that are written into later": (
        statistics_written_later,
        lambda s, x: F.batch_norm(
            F.relu(s.bn(s.stem(x))), s.bn.running_mean + 3, s.bn.running_var, s.bn.weight, s.bn.bias
        ),
    ),
    "summed up in a buffer": (
        sum_into_a_buffer,
        lambda s, x: torch.zeros(1, 8, 1, 1, dtype=x.dtype) + F.relu(s.stem(x)) + F.relu(s.stem2(x)),
    ),
    "in views": (halves_in_place, halves),
    "a quotient by names": (lambda s, x: torch.div(other=2.0, input=s.stem(x)), lambda s, x: s.stem(x) / 2),
    "a sum with a factor": (
        lambda s, x: torch.sub(F.relu(s.stem(x)), F.relu(s.stem2(x)), alpha=2),
        lambda s, x: torch.add(F.relu(s.stem(x)), F.relu(s.stem2(x)), alpha=-2),
    ),
    "a copy by the factor 1 that is written into": (
        copy_written_into,
        lambda s, x: F.relu(s.stem(x)) + 2 * F.relu(s.stem(x)),
    ),
    "the same tensor twice": (
        twice,
        lambda s, x: F.relu(s.stem(x)) + F.relu(s.stem(x)),
    ),
    "a convolution that does not see the image": (
        lambda s, x: F.relu(s.stem(x)) + s.stem2(torch.ones_like(x)),
        constant_first,
    ),
}


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("written", WRITTEN)
def test_the_same_function_written_another_way(written: str, composite: str) -> None:
    images = nets.images(2).double()
    map, expected = (explained(Parts(network), images, composite) for network in WRITTEN[written])
    assert distance(map, expected) < 1e-12


@pytest.mark.parametrize("composite", COMPOSITES)
def test_what_does_not_depend_on_the_image_is_constant(composite: str) -> None:
    """Also where it requires gradients: a tensor that is no parameter, cached weights, a module that the model does not own."""
    images = nets.images(2).double()
    stray = torch.linspace(0.1, 1, 8, dtype=torch.float64)[:, None, None].requires_grad_()
    before = stray.exp()
    foreign = parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1).double())
    networks = [
        lambda s, x, a=a, b=b, c=c: F.relu(s.bn(c(s.stem(x)))) * a.exp() / b
        for a, b, c in (
            (stray, before, foreign),
            (
                stray.detach(),
                before.detach(),
                lambda x: F.conv2d(x, foreign.weight.detach(), foreign.bias.detach(), padding=1),
            ),
        )
    ]
    map, expected = (explained(Parts(network), images, composite) for network in networks)
    assert torch.equal(map, expected)
    model = Parts(lambda s, x: F.relu(s.bn(s.stem(x))))
    expected = explained(model, images, composite)
    parametrizations.weight_norm(model.stem)
    with parametrize.cached():
        model(images)
        # 1e-12: a normed weight is the weight up to rounding.
        assert distance(explained(model, images, composite), expected) < 1e-12
