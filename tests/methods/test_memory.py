"""What a pass has shown of a network serves the next one, as long as that goes the same way; and what a call costs is counted."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import wcx
from tests.experiments.counting import counted
from wcx.errors import WcxError
from wcx.methods import _memory
from wcx.methods._trace import Trace

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, CLASSES, SIDE = 6, 8, 8
LAYERS = [None, "last"]


class Turning(nn.Conv2d):
    """A convolution that may hand on its channels last, in memory, too: as wide as its map, nothing behind it tells."""

    turned = False

    def __init__(self, width: int, switches: Switches) -> None:
        super().__init__(width, width, 3, padding=1)
        self.switches = switches

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.permute(0, 2, 3, 1).contiguous() if self.turned or self.switches("turned") else y


class Net(nn.Module):
    """Convolutions and a classifier, with switches: attributes of the network, and a dictionary that none of its modules holds."""

    def __init__(self, world: dict[str, bool] | None = None, depth: int = 1, width: int = WIDTH) -> None:
        super().__init__()
        self.switches = Switches(world or {})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            blocks = [
                part for _ in range(depth) for part in (nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
            ]
            self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *blocks)
            self.last, self.other = (Turning(width, self.switches) for _ in range(2))
            self.head = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(width * SIDE**2, CLASSES))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        switches, h = self.switches, self.stem(x)
        if switches("reads gradients"):
            h.register_hook(lambda gradient: None)
        if switches("wants gradients") and not h.requires_grad:
            raise ValueError
        bright = x.mean() > 1
        if switches("other") or (switches("bright") and bright):
            h = self.other(h)
        elif switches("beside"):
            beside = switches("two") or bright
            h = self.last(h) + (self.other(h) if beside else h)
        else:
            with torch.set_grad_enabled(not switches("no_grad") and torch.is_grad_enabled()):
                h = self.last(h)
        if switches("twice"):
            h = self.last(h)
        if switches("later"):
            h = self.other(h)
        if switches("function"):
            h = h.sin()
        return self.head(h)


class Switches:
    """Where the network looks things up; a copy of it is of the same world."""

    def __init__(self, world: dict[str, bool]) -> None:
        self.world = world

    def __call__(self, name: str) -> bool:
        return self.world.get(name, False)

    def __deepcopy__(self, memo: object) -> Switches:
        return self


def images(n: int = 2) -> Tensor:
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def explained(model: nn.Module, layer: str | nn.Module | None, x: Tensor) -> tuple[str, object]:
    """Return the layer and the map, or the error."""
    try:
        run = wcx.Explainer(model, "gradcam", layer)(x)
        return str(run.layer), run.explain(wcx.cotangent(run.logits, 1))
    except WcxError as error:
        return "", str(error)


def same(first: tuple[str, object], second: tuple[str, object]) -> bool:
    (layer, a), (other, b) = first, second
    return layer == other and (torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b)


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The traces that are begun, one each."""
    begun: list[int] = []
    start = Trace.__init__
    monkeypatch.setattr(Trace, "__init__", lambda self, *args, **kw: (begun.append(1), start(self, *args, **kw))[1])
    return begun


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("n", [1, 3])
def test_the_second_call_takes_no_trace_and_gives_the_same_numbers(
    layer: str | None, n: int, traces: list[int]
) -> None:
    model = Net()
    first = explained(model, layer, images(n))
    assert first[0]
    assert len(traces) == 1
    assert same(explained(model, layer, images(n)), first)
    assert len(traces) == 1
    assert same(explained(copy.deepcopy(model), layer, images(n)), first)
    assert len(traces) == 2  # it is another network


@pytest.mark.parametrize("layer", [None, "stem.2"])
@pytest.mark.parametrize(("n", "later_traces"), [(1, 1), (3, 0)])
def test_a_norms_output_is_known_but_of_one_image(
    layer: str | None, n: int, later_traces: int, traces: list[int]
) -> None:
    """Of one image alone, a norm's gradient is laid out anew (`base._laid_out`), and sums may round otherwise."""
    model = Net()
    model.last = nn.Sequential(model.last, nn.BatchNorm2d(WIDTH).double().eval())
    first = explained(model, layer, images(n))
    assert first[0]
    assert len(traces) == 1
    assert same(explained(model, layer, images(n)), first)
    assert len(traces) == 1 + later_traces


def hook(model: Net) -> None:
    model.last.register_forward_hook(lambda _module, _inputs, output: output.transpose(2, 3))


CHANGES: dict[str, Callable[[Net], object]] = {
    "a module": lambda model: setattr(model, "last", copy.deepcopy(model.other)),
    "a module's name": lambda model: model._modules.update({"last": model.other, "other": model.last}),
    "an attribute": lambda model: setattr(model.last, "turned", True),
    "a function": lambda model: setattr(model.stem[1], "forward", lambda h: h.transpose(2, 3)),
    "a hook": hook,
    **{
        name: lambda model, name=name: model.switches.world.update({name: True})
        for name in ("other", "no_grad", "twice", "later", "function")
    },
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("what", CHANGES)
def test_a_network_that_has_changed_is_explained_as_it_is_now(what: str, layer: str | None) -> None:
    model = Net({})
    before = [explained(model, layer, images()) for _ in range(2)]
    CHANGES[what](model)
    expected = explained(copy.deepcopy(model), layer, images())
    assert not same(expected, before[0]) or what == "no_grad"  # else there is nothing to see
    for _ in range(3):
        assert same(explained(model, layer, images()), expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_network_that_goes_by_the_image_is_explained_as_it_went(layer: str | None) -> None:
    model, dark = Net({"bright": True}), images()
    for x in (dark, dark, dark + 2, dark, dark + 2):
        assert same(explained(model, layer, x), explained(copy.deepcopy(model), layer, x))


def test_what_runs_beside_the_layer_and_did_not_before_is_found() -> None:
    world, x = {"beside": True}, images()
    model = Net(world)
    assert explained(model, None, x)[0] == explained(model, None, x)[0] == "last"
    assert explained(model, None, x + 2)[0] == "other"  # by the image
    model = Net(world)
    assert explained(model, None, x)[0] == "last"
    world["two"] = True
    assert same(explained(model, None, x), explained(copy.deepcopy(model), None, x))
    assert explained(model, None, x)[0] == "other"


@pytest.mark.parametrize("what", ["reads gradients", "wants gradients"])
def test_a_network_that_needs_gradients_in_front_of_the_layer_is_explained_again(what: str) -> None:
    model = Net({what: True})
    first = explained(model, None, images())
    assert all(same(explained(model, None, images()), first) for _ in range(2))


def test_axes_that_may_be_turned_out_of_sight_are_asked_for_each_time() -> None:
    model = Net({}, width=SIDE)
    before = explained(model, "last", images())
    model.switches.world["turned"] = True
    expected = explained(copy.deepcopy(model), "last", images())
    assert not same(expected, before)
    assert same(explained(model, "last", images()), expected)


def test_a_layer_whose_name_another_has_taken_is_not_explained() -> None:
    model = nn.Sequential()
    model.block = nn.Sequential()
    model.block.conv = nn.Conv2d(3, WIDTH, 3)
    model.pool, model.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model.head = nn.Linear(WIDTH, CLASSES)
    model.double()
    assert explained(model, "conv", images())[0] == "block.conv"
    model._modules["conv"] = model._modules.pop("head")
    assert "expected a map" in str(explained(model, "conv", images())[1])


def test_a_network_that_was_explained_is_let_go() -> None:
    model = Net()
    model.itself = [model]
    explained(model, None, images())
    explained(model, model.last, images())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_so_many_shapes_of_images_are_known_and_no_more() -> None:
    model = nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 2))
    known = []
    for side in range(6, 6 + _memory.SIZE + 2):
        wcx.Explainer(model)(torch.rand(2, 3, side, side))
        known.append(len(_memory._memories[model].known))
    assert known == [*range(1, _memory.SIZE + 1), 1, 2]


def bare(model: Net, x: Tensor) -> Tensor:
    """Return GradCAM written by hand."""
    kept: list[Tensor] = []

    def start(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()

    handle = model.last.register_forward_hook(start)
    logits = model.requires_grad_(requires_grad=False)(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), kept)
    return (gradient.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_call_costs_two_hooks_and_as_many_operations_beside_its_passes_however_deep_the_network(
    layer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks: list[str] = []
    for name in ("register_forward_hook", "register_forward_pre_hook"):
        register = getattr(nn.Module, name)
        monkeypatch.setattr(
            nn.Module, name, lambda self, *args, f=register, **kw: (hooks.append(""), f(self, *args, **kw))[1]
        )
    costs = set()
    for depth in (1, 30):
        model, x = Net(depth=depth), images(1)
        with counted() as (operations, _):
            expected = bare(model, x)
        copies = len(list(model.buffers()))  # one of each, for passes may write into it
        least = operations.total() + copies
        wcx.explain(model, x, 1, contrast="original", layer=layer)
        hooks.clear()
        with counted() as (operations, reads):
            maps = wcx.explain(model, x, 1, contrast="original", layer=layer)
        torch.testing.assert_close(maps, expected)
        costs.add((len(hooks), operations.total() - least, reads.total()))
    [(n_hooks, n_operations, n_reads)] = costs  # of either depth
    assert n_hooks == 2 + (layer is None)  # of `other`, which does not run
    assert n_operations <= 45
    assert n_reads <= 3


@pytest.mark.parametrize("method", ["gradient", "input_x_gradient", "deeplift"])
def test_a_backward_pass_copies_no_buffer_again(method: str) -> None:
    """Passes may write into buffers, and get copies; `explain` of these methods makes none."""
    counts = []
    for depth in (1, 30):
        model, x = Net(depth=depth), images()
        with counted() as (operations, _):
            wcx.explain(model, x, 1, method, "original")
        counts.append(operations["clone.default"] - len(list(model.buffers())))
    assert counts[0] == counts[1]  # of images and logits


def test_where_memory_is_short_a_known_layer_is_not_tried_twice() -> None:
    """The caller halves the batch: another pass of the same images would only fail once more."""

    class Short(nn.Module):
        is_short, calls = [False], [0]

        def forward(self, x: Tensor) -> Tensor:
            self.calls[0] += 1
            if self.is_short[0]:
                raise torch.OutOfMemoryError
            return x

    model = nn.Sequential(
        Short(), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    images = torch.rand(2, 3, 12, 12)
    for _ in range(2):  # the second call knows the layer
        wcx.explain(model.eval(), images, 1, "gradcam")
    Short.is_short[0], Short.calls[0] = True, 0
    with pytest.raises(torch.OutOfMemoryError):
        wcx.explain(model, images, 1, "gradcam")
    assert Short.calls[0] == 1
