"""Through a classifier of linear layers the gradients of all cotangents take one backward pass, and are those of one by one."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from wcx import methods

HEADS = {
    "alexnet": [nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(32, 16), nn.ReLU()],
    "mobilenet": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16), nn.Hardswish()],
    "convnext": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU()],
}


class Products(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def network(head: list[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), *head, nn.Linear(16, 6)).double().eval()


def gradients(model: nn.Module, cotangents: Tensor) -> tuple[Tensor, Counter[str]]:
    """Return the maps (K, N, h, w), and the operations behind the forward pass."""
    images = torch.rand(3, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    run = methods.get("gradcam")().run(model, images, "0")
    with Products() as products:
        maps = run.explain_each({"gradcam": run.method}, cotangents)["gradcam"]
    return maps, products.count


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_all_cotangents_take_the_products_of_one(head: list[nn.Module]) -> None:
    cotangents = torch.randn(5, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    together, count = gradients(network(head), cotangents)
    alone = [gradients(network(head), v[None]) for v in cotangents]
    assert count["mm"] == alone[0][1]["mm"] == sum(isinstance(layer, nn.Linear) for layer in head) + 1
    torch.testing.assert_close(together, torch.cat([maps for maps, _ in alone]), rtol=1e-12, atol=1e-14)  # rounding


def test_through_convolutions_each_goes_alone() -> None:
    """There a pass of all is slower: 1.4 times as long in mobilenet_v2."""
    head = [nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16), nn.ReLU()]
    cotangents = torch.randn(5, 3, 6, dtype=torch.float64)
    assert gradients(network(head), cotangents)[1]["convolution_backward"] == 5


def test_gradients_that_the_network_keeps_are_plain_ones_of_each_cotangent() -> None:
    class Keeping(nn.Linear):
        gradients: tuple[Tensor, ...] = ()

        def keep(self, gradient: Tensor) -> None:
            self.gradients += (gradient,)

        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            self.gradients = ()
            y.register_hook(self.keep)
            return y

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Keeping(8, 6)).double().eval()
    cotangents = torch.randn(4, 3, 6, dtype=torch.float64)
    for _ in range(2):
        gradients(model, cotangents)
        assert torch.equal(torch.stack(model[-1].gradients), cotangents)


def test_a_function_of_the_networks_gets_one_cotangent_at_a_time_whatever_its_name() -> None:
    kinds: list[bool] = []

    class Relu(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            kinds.append(torch._C._functorch.is_batchedtensor(gradient))
            return gradient

    class Named(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Relu.apply(x)

    gradients(
        network([Named(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16)]), torch.randn(4, 3, 6).double()
    )
    assert kinds == [False] * 4


def test_a_hook_of_the_networks_that_reads_values_sees_them() -> None:
    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            if y.requires_grad:
                y.register_hook(lambda gradient: gradient * (2 if gradient.sum().item() > 0 else 1))
            return y

    def watched(kind: type[nn.Linear]) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), kind(8, 6)).double().eval()

    cotangents = torch.stack([torch.eye(6)[:3], -torch.eye(6)[:3]]).double()  # sums of 3 and -3
    maps, plain = (gradients(watched(kind), cotangents)[0] for kind in (Watched, nn.Linear))
    torch.testing.assert_close(maps, plain * torch.tensor([2.0, 1.0]).double().view(2, 1, 1, 1), rtol=1e-12, atol=0)
