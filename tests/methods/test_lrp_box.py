"""The box rule goes to every convolution that sees the image itself, bounded by what this one sees of the ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wcx
from tests import nets
from tests.methods.modules import randomised
from tests.methods.structures import HIGH, LOW, Parts
from wcx.errors import WcxError
from wcx.models import Normalized

METHOD = "lrp"


def by_box(conv: nn.Conv2d, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The box rule (Montavon et al. 2017) for relevance conv(x) of a 1x1 convolution; what zennit takes of the bias cancels."""
    weight = conv.weight.detach()[:, :, 0, 0]
    y = F.conv2d(x, conv.weight, conv.bias).detach()
    x, low, high = (part.expand_as(x)[:, None] for part in (x, low, high))
    weight = weight[None, :, :, None, None]
    z = weight * x - weight.clamp(min=0) * low - weight.clamp(max=0) * high  # (N, out, in, h, w)
    total = z.sum(2, keepdim=True)
    return (z / (total + total.sign() * 1e-6) * y[:, :, None]).sum(1)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_each_convolution_that_sees_the_image_gets_the_box_it_sees(order: tuple[int, ...]) -> None:
    """Whatever is called first: the image itself, the image prepared for it, two copies of the image in one batch."""
    model = randomised(nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in range(3)), seed=5)
    images, low = (
        nets.images(2, size=4).double(),
        -2.5 - torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1)),
    )
    low = low.double()

    def doubled(x: Tensor) -> Tensor:
        return model[2](torch.stack([x, x.flip(3)], 1).flatten(0, 1)).unflatten(0, (-1, 2)).flatten(1, 2)

    branches = [model[0], lambda x: model[1](2 * x - 1), doubled]

    def network(x: Tensor) -> Tensor:
        maps = {i: branches[i](x).flatten(1) for i in order}
        return torch.cat([maps[i] for i in range(3)], 1)

    whole = nn.ModuleList([model])
    whole.forward = network
    run = wcx.Explainer(whole, METHOD, composite="epsilon_gamma_box", low=low, high=HIGH)(images)
    high = torch.tensor(HIGH, dtype=torch.float64)
    expected = by_box(model[0], images, low, high) + by_box(model[1], 2 * images - 1, 2 * low - 1, 2 * high - 1)
    expected += by_box(model[2], images, low, high) + by_box(model[2], images.flip(3), low.flip(2), high).flip(3)
    map = run.explain(torch.ones_like(run.logits))
    torch.testing.assert_close(map, expected, rtol=1e-9, atol=1e-12)


def test_a_box_for_other_convolutions_is_an_error() -> None:
    """Where the network takes another path for a black image."""
    model = Parts(lambda s, x: F.relu(s.stem(x) if x.detach().std() > 0.1 else F.pad(s.stem(x[..., :8]), (0, 8))))
    with pytest.raises(WcxError, match="other convolutions see the lowest and highest image"):
        wcx.explain(model, nets.images(2).double(), 1, METHOD, composite="epsilon_gamma_box", low=LOW, high=HIGH)


@pytest.mark.parametrize(
    ("low", "high"), [(2.0, -2.0), ([-2.0, 3.0, -2.0], 2.0), (1.5, None), (None, torch.full((3,), -0.5))]
)
def test_a_box_turned_round_is_one_line(low: object, high: object) -> None:
    """In one channel, or beyond a pixel that is black or white."""
    model, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)), torch.rand(2, 3, 8, 8)
    model(images)
    with pytest.raises(WcxError, match=r"low = .*, high = .*give low <= high in every channel") as caught:
        wcx.explain(
            Normalized(model, [0.0] * 3, [1.0] * 3),
            images,
            1,
            METHOD,
            composite="epsilon_gamma_box",
            low=low,
            high=high,
        )
    assert "\n" not in str(caught.value)


def test_what_does_not_see_the_image_is_no_convolution_of_it() -> None:
    """A convolution of a constant, one under no_grad, one whose weight is a constant's; a linear layer before the first."""
    conv, linear = randomised(nn.Conv2d(3, 4, 1), seed=5), nn.Linear(4, 4).double()
    images = nets.images(2, size=4).double()
    model = nn.ModuleList([conv])

    def network(x: Tensor) -> Tensor:
        constant = F.conv2d(torch.ones(1, 3, 4, 4, dtype=x.dtype), conv.weight)
        with torch.no_grad():
            constant = constant + conv(x) * 0
        return (conv(x) + 0 * constant).flatten(1)

    model.forward = network
    run = wcx.Explainer(model, METHOD, composite="epsilon_gamma_box", low=LOW, high=HIGH)(images)
    low, high = (torch.tensor(end, dtype=torch.float64) for end in (LOW, HIGH))
    # 1e-5: the sum with the constant has an epsilon of 1e-6.
    torch.testing.assert_close(
        run.explain(torch.ones_like(run.logits)), by_box(conv, images, low, high), rtol=1e-5, atol=1e-5
    )
    # Behind a linear layer of the identity, the box is that of the image still.
    linear.weight.data, linear.bias.data = torch.eye(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    model.forward = lambda x: conv(F.linear(x, linear.weight)).flatten(1)
    run = wcx.Explainer(model, METHOD, composite="epsilon_gamma_box", low=LOW, high=HIGH)(images)
    torch.testing.assert_close(
        run.explain(torch.ones_like(run.logits)), by_box(conv, images, low, high), rtol=1e-4, atol=1e-4
    )
