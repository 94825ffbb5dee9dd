"""Kind C: the layout (N, channels, h, w) was assumed. What a layer returns is read off what the network does with it.

Maps are right where they equal those of the network split by hand, with the channels moved to where they belong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import wcx
from tests.methods.modules import Function
from tests.methods.splits import TOLERANCE, Split, cancels, check, error
from wcx.errors import WcxError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),  # torch's own opinion of TorchScript
]

CLASSES = 5


def last(a: Tensor) -> Tensor:
    return a.permute(0, 2, 3, 1)


def first(a: Tensor) -> Tensor:
    return a.permute(0, 3, 1, 2)


class Net(nn.Module):
    """`before`, the layer under test, and `behind`."""

    def __init__(self, before: nn.Module, layer: nn.Module, behind: nn.Module) -> None:
        super().__init__()
        self.before, self.layer, self.behind = before, layer, behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.layer(self.before(x)))


def net(before: nn.Module, layer: nn.Module, behind: nn.Module, seed: int = 5) -> Net:
    model = Net(before, layer, behind).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.parameters():
        nn.init.normal_(tensor, std=0.5, generator=generator)
    return model


def split_of(model: Net, axis: int) -> Split:
    """Return the network split behind its layer, whose channels are at `axis`."""

    def trunk(x: Tensor) -> Tensor:
        return model.layer(model.before(x)).movedim(axis, 1)

    def head(a: Tensor) -> Tensor:
        return model.behind(a.movedim(1, axis))

    return Split(model, trunk, head, "layer")


def images(height: int = 6, width: int = 8, n: int = 2) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(3)).double()


def stem(channels: int, *more: nn.Module) -> nn.Module:
    """A convolution, then channels last."""
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), Function(last), *more)


def pool(channels: int, how: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(nn.Tanh(), Function(how), nn.Linear(channels, CLASSES))


SIDES = {
    "three lengths": (2, 6, 8, 10),
    "a cube": (2, 8, 8, 8),
    "channels as many as rows": (2, 6, 8, 6),
    "one image": (1, 6, 8, 4),
    "all the same": (4, 4, 8, 4),
}

LAST = {
    "Linear": lambda c: nn.Linear(c, c),
    "LayerNorm": nn.LayerNorm,
    "Linear, GELU, Linear": lambda c: nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c)),
    "in-place ReLU": lambda c: nn.ReLU(inplace=True),
    "PReLU": lambda c: nn.PReLU(),
    "Dropout": lambda c: nn.Dropout(),
    "roll": lambda c: Function(lambda a: torch.roll(a, (1, -1), (1, 2))),
    "pad and cut": lambda c: Function(lambda a: F.pad(a, (0, 0, 1, 2, 2, 1))[:, 1:, :-1, :].contiguous()),
    "product with a matrix": lambda c: Function(lambda a: a @ torch.eye(c).double().cumsum(0)),
    "channels cut in two and put together": lambda c: Function(
        lambda a: torch.cat([a[..., : c // 2] * 2, a[..., c // 2 :]], -1)
    ),
    "stacked and summed": lambda c: Function(lambda a: torch.stack([a, a.sin(), a.cos()], 1).sum(1)),
    "stacked, and one taken": lambda c: Function(lambda a: torch.stack([a, a.sin()], -1)[..., 1] + a[None, :, :][0]),
    "stacked and unbound": lambda c: Function(lambda a: torch.stack([a, a.sin()], dim=2).unbind(2)[1]),
    "einsum": lambda c: Function(lambda a: torch.einsum("nhwc, c -> nhwc", a.sin(), torch.arange(c).double())),
    "to windows and back": lambda c: Function(back_from_windows),
    "to tokens and back": lambda c: nn.Sequential(
        nn.Flatten(1, 2), nn.LayerNorm(c), nn.Linear(c, c), Function(lambda a: a.unflatten(1, (-1, 8)))
    ),
}


def back_from_windows(a: Tensor) -> Tensor:
    n, h, w, c = a.shape
    windows = a.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c).softmax(1)
    return a + windows.view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("what", LAST)
def test_a_layer_that_returns_channels_last(what: str, sides: str) -> None:
    """By what stood before it: the layer behind (a flattening) tells nothing."""
    n, height, width, channels = SIDES[sides]
    before, layer = stem(channels), LAST[what](channels)
    shape = layer.double()(before.double()(images(height, width))).shape
    behind = nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(shape[1:].numel(), CLASSES))
    check(split_of(net(before, layer, behind), 3), images(height, width, n), "layer")


def test_a_layer_of_one_channel() -> None:
    for axis, before in ((3, stem(1)), (1, nn.Conv2d(3, 1, 3, padding=1))):
        behind = nn.Sequential(nn.Flatten(), nn.Linear(48, CLASSES))
        check(split_of(net(before, nn.GELU(), behind), axis), images(), "layer")


FIRST = {
    "convolution": lambda c: nn.Conv2d(c, c, 3, padding=1),
    "BatchNorm": nn.BatchNorm2d,
    "GroupNorm": lambda c: nn.GroupNorm(1, c),
    "InstanceNorm": nn.InstanceNorm2d,
    "in-place ReLU": lambda c: nn.ReLU(inplace=True),
    "max pool": lambda c: nn.MaxPool2d(2),
    "upsampling": lambda c: nn.Upsample(scale_factor=2),
    "LayerNorm over the last axis": lambda c: nn.LayerNorm(8),
    "Linear along the rows": lambda c: nn.Linear(8, 8),
    "LayerNorm of all three": lambda c: nn.LayerNorm([c, 6, 8]),
    "there and back": lambda c: nn.Sequential(Function(last), nn.LayerNorm(c), Function(first)),
    "channels shuffled": lambda c: Function(lambda a: a.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)),
    "gate": lambda c: Function(lambda a: a * a.mean((2, 3), keepdim=True).sigmoid()),
    "a half through a linear layer": lambda c: Function(lambda a: torch.cat([a, last(first(a * 2))], 1)),
}


@pytest.mark.parametrize("what", FIRST)
def test_a_layer_that_returns_channels_first(what: str) -> None:
    before, layer = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1)), FIRST[what](6)
    shape = layer.double()(before.double()(images())).shape
    behind = nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(shape[1:].numel(), CLASSES))
    check(split_of(net(before, layer, behind), 1), images(), "layer")


def scripted(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """Out of sight: nothing is known of how its output came about."""
    return torch.jit.trace(Function(function), torch.rand(1, 3, 6, 8).double(), check_trace=False)


class Hidden(nn.Module):
    """A module around TorchScript."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.script = scripted(function)

    def forward(self, x: Tensor) -> Tensor:
        return self.script(x)


def channels_of(a: Tensor) -> Tensor:
    return torch.cat([a, a.tanh(), a * a, a.cos()], 1)


POOLS_OF_LAST = {
    "mean over 1, 2": lambda a: a.mean((1, 2)),
    "mean(2).mean(1)": lambda a: a.mean(2).mean(1),
    "amax": lambda a: a.amax(dim=(-3, -2)),
    "sum over tokens": lambda a: a.flatten(1, 2).sum(1),
    "permute and pool": lambda a: F.adaptive_avg_pool2d(first(a), 1).flatten(1),
    "movedim and pool": lambda a: F.avg_pool2d(a.movedim(-1, 1), (6, 8))[:, :, 0, 0],
    "transpose twice": lambda a: F.adaptive_max_pool2d(a.transpose(1, 3).transpose(2, 3), 1).flatten(1),
    "layer norm": lambda a: F.layer_norm(a, (12,)).flatten(1)[:, :12],
    "linear": lambda a: F.linear(a, torch.eye(12).double()).flatten(1)[:, -12:],
    "a sum with a map": lambda a: (first(a) + F.avg_pool2d(first(a), 3, 1, 1)).flatten(1)[:, :12],
}
POOLS_OF_FIRST = {
    "mean over 2, 3": lambda a: a.mean((2, 3)),
    "mean(3).mean(2)": lambda a: a.mean(3).mean(2),
    "mean over -2, -1 and keep": lambda a: a.mean([-2, -1], keepdim=True).flatten(1),
    "std": lambda a: a.flatten(2).std(2),
    "max of max": lambda a: a.max(3)[0].max(2)[0],
    "adaptive pool": lambda a: F.adaptive_avg_pool2d(a, 1).flatten(1),
    "convolution": lambda a: F.conv2d(a, torch.eye(12)[..., None, None].double()).flatten(1)[:, :12],
    "batch norm": lambda a: F.batch_norm(a, torch.zeros(12).double(), torch.ones(12).double()).flatten(1)[:, :12],
    "to channels last": lambda a: F.layer_norm(last(a), (12,)).flatten(1)[:, :12],
    "tokens": lambda a: F.layer_norm(a.flatten(2).transpose(1, 2), (12,)).mean(1),
}


@pytest.mark.parametrize("what", POOLS_OF_LAST)
def test_channels_last_by_what_follows(what: str) -> None:
    layer = Hidden(lambda x: last(channels_of(x)))
    check(split_of(net(nn.Identity(), layer, pool(12, POOLS_OF_LAST[what])), 3), images(), "layer")


@pytest.mark.parametrize("what", POOLS_OF_FIRST)
def test_channels_first_by_what_follows(what: str) -> None:
    check(split_of(net(nn.Identity(), Hidden(channels_of), pool(12, POOLS_OF_FIRST[what])), 1), images(), "layer")


def test_channels_in_the_middle() -> None:
    layer = Function(lambda a: a.transpose(1, 2))  # (N, h, channels, w)
    behind = nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(6 * 4 * 8, CLASSES))
    model = net(nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(layer, nn.GELU()), behind)
    check(split_of(model, 2), images(), "layer")


def test_a_function_of_ones_own_passes_the_axes_on() -> None:
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x.sigmoid()

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            s = x.sigmoid()
            return g * s * (1 + x * (1 - s))

    behind = nn.Sequential(nn.Flatten(), nn.Linear(6 * 8 * 4, CLASSES))
    check(split_of(net(stem(4), Function(Swish.apply), behind), 3), images(), "layer")


def pairs_of_places(a: Tensor) -> Tensor:
    tokens = a.flatten(2).transpose(1, 2)
    return torch.einsum("nld,nmd->nlm", tokens, tokens)[:, None]


UNDECIDABLE: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "nothing tells": lambda: (Hidden(channels_of), nn.Sequential(nn.Flatten(), nn.Linear(12 * 6 * 8, CLASSES))),
    "neither side in sight": lambda: (
        Hidden(channels_of),
        nn.Sequential(Hidden(lambda a: a.mean((2, 3))), nn.Linear(12, CLASSES)),
    ),
    "pooled one way and the other": lambda: (
        Hidden(lambda a: F.interpolate(channels_of(a), (12, 12))),
        pool(12, lambda a: a.mean((1, 2)) + a.mean((2, 3))),
    ),
    "a convolution of channels last": lambda: (
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), Function(last)),
        nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 8 * 6, CLASSES)),
    ),
    "pairs of places": lambda: (Function(pairs_of_places), nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, CLASSES))),
}


@pytest.mark.parametrize("what", UNDECIDABLE)
def test_what_cannot_be_decided_is_one_line(what: str) -> None:
    model = net(nn.Identity(), *UNDECIDABLE[what]())
    with pytest.raises(
        WcxError, match=r"layer 'layer' returns shape .* does not tell which axis holds the channels.*try: "
    ) as e:
        wcx.explain(model, images(), 1, layer="layer")
    assert "\n" not in str(e.value)


def test_windows_are_not_maps_of_the_images() -> None:
    windows = Function(lambda a: a.unflatten(1, (3, 2)).transpose(0, 1).flatten(0, 1))
    behind = nn.Sequential(Function(lambda a: a.unflatten(0, (3, -1)).mean((0, 2, 3))), nn.Linear(4, CLASSES))
    with pytest.raises(WcxError, match=r"shape \(6, 2, 8, 4\) for 2 images, expected a map .*try: .*before"):
        wcx.explain(net(stem(4), windows, behind), images(), 1, layer="layer")


def test_torchscript_takes_no_hooks() -> None:
    model = net(nn.Conv2d(3, 4, 3), scripted(lambda a: a.relu()), pool(4, lambda a: a.mean((2, 3))))
    with pytest.raises(WcxError, match="layer 'layer' is TorchScript, which takes no hooks; try: before"):
        wcx.explain(model, images(), 1, layer="layer")
    assert wcx.Explainer(model)(images()).layer == "before"


class Stage(nn.Module):
    """Blocks of a depthwise convolution and two linear layers, the whole stage channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, groups=channels) for _ in range(2))
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.depthwise:
            x = x + self.down(F.gelu(self.up(self.norm(last(convolution(first(x)))))))
        return x


@pytest.mark.parametrize("sides", [(6, 8, 10), (8, 8, 8)], ids=str)
@pytest.mark.parametrize("layer", ["layer", None])
def test_a_stage_of_channels_last_is_found_as_a_whole(sides: tuple[int, int, int], layer: str | None) -> None:
    height, width, channels = sides
    split = split_of(net(stem(channels), Stage(channels), pool(channels, lambda a: a.mean((1, 2)))), 3)
    split.search = "layer"
    check(split, images(height, width), layer)


class Shifted(nn.Module):
    """A Swin block: windows of attention after a roll, then two linear layers, and residual sums."""

    def __init__(self, channels: int, window: int = 2) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))
        self.window = window

    def attend(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        s = self.window
        x = torch.roll(x, (-1, -1), (1, 2)).view(n, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5)
        q, k, v = self.qkv(x.reshape(-1, s * s, c)).view(-1, s * s, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        x = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, s * s, c))
        x = x.view(n, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return torch.roll(x, (1, 1), (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@pytest.mark.parametrize("sides", [(6, 8, 4), (4, 4, 4)], ids=str)
def test_a_shifted_window_block(sides: tuple[int, int, int]) -> None:
    height, width, channels = sides
    behind = nn.Sequential(nn.LayerNorm(channels), nn.Flatten(), nn.Linear(height * width * channels, CLASSES))
    check(split_of(net(stem(channels), Shifted(channels), behind), 3), images(height, width), "layer")


@functools.cache
def torchvision_net(name: str) -> nn.Module:
    """A network of torchvision's, made once: drawing its weights costs more than a pass."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchvision.models.get_model(name, weights=None, num_classes=CLASSES).double().eval()


def test_swin_of_96_by_128_pixels() -> None:
    """The issue's values: (1, 3, 4), equal to the map at layer="permute"."""
    model = torchvision_net("swin_t")
    x = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0)).double()
    split = Split(
        model,
        lambda x: model.permute(model.norm(model.features(x))),
        lambda a: model.head(model.flatten(model.avgpool(a))),
        "norm",
    )
    check(split, x, "norm")
    check(split, x, "permute")
    block = wcx.Explainer(model, layer="features.7")(x)
    assert block.activation.shape == (1, 768, 3, 4)
    torch.testing.assert_close(block.activation, model.features(x).detach().permute(0, 3, 1, 2), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("convnext_tiny", "features.7.2.block.5", (1, 768, 2, 3)),
        ("convnext_tiny", "features.7.2.block.3", (1, 3072, 2, 3)),
        ("convnext_tiny", "features.7.2.block.2", (1, 768, 2, 3)),
        ("convnext_tiny", "features.7", (1, 768, 2, 3)),
        ("swin_v2_t", "features.7.1", (1, 768, 2, 3)),
        ("swin_v2_t", "features.0", (1, 96, 16, 24)),
        ("swin_v2_t", "features.6", (1, 768, 2, 3)),
    ],
)
def test_torchvision_networks(name: str, layer: str, shape: tuple[int, ...]) -> None:
    model = torchvision_net(name)
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, arguments, output: kept.append(output))
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    logits = model(x)
    handle.remove()
    run = wcx.Explainer(model, "linear_approximation", layer)(x)
    (gradient,) = torch.autograd.grad(logits[0, 1], kept[0])
    product = gradient * kept[0].detach()
    product = product if kept[0].shape == shape else product.permute(0, 3, 1, 2)
    expected = product.sum(1)
    assert run.activation.shape == shape
    v = torch.eye(CLASSES)[1:2].double()
    if cancels(product):
        with pytest.raises(WcxError, match="channels cancel in the norm behind it"):
            run.explain(v)
    else:
        assert error(run.explain(v), expected) < TOLERANCE


LISTS: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "names": (lambda m: ["before", "layer"], "layer is a list; give one layer"),
    "modules": (lambda m: [m.layer], "layer is a list; give one layer"),
    "a tuple": (lambda m: ("before",), "layer is a tuple; give one layer"),
    "a number": (lambda m: 3, "layer is a int; give one layer"),
    "a list that is no part": (lambda m: nn.ModuleList([m.layer]), "the layer ModuleList is not part of the model; try one of: "),
    "a list of the model's": (lambda m: m.layer, "'layer' ran 0 times .*a list of layers does not run itself.*layer.0"),
    "its name": (lambda m: "layer", "'layer' ran 0 times .*a list of layers does not run itself.*layer.0"),
}  # fmt: skip


@pytest.mark.parametrize("what", LISTS)
def test_more_than_one_layer_is_one_clear_line(what: str) -> None:
    given, message = LISTS[what]
    model = net(nn.Identity(), nn.ModuleList([nn.Conv2d(3, 4, 3)]), pool(4, lambda a: a.mean((2, 3))))
    model.forward = lambda x: model.behind(model.layer[0](x))
    with pytest.raises(WcxError, match=message) as caught:
        wcx.explain(model, images(), 1, layer=given(model))
    assert "\n" not in str(caught.value)
