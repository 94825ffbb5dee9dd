"""Kind A: a tensor is not its name. In-place functions, second references and modules that hand on what they got.

The right values are those of the network split by hand, written out of place.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wcx
from tests import nets
from tests.methods.modules import Function
from tests.methods.splits import TOLERANCE, Split, check, error
from wcx.errors import WcxError
from wcx.models import Normalized

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, CLASSES = 8, 5


def conv(channels: int = WIDTH, width: int = WIDTH) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1)


class Net(nn.Module):
    """A stem, a module `block` under test, and a linear head behind a pool; `forward` is given by the test."""

    def __init__(self, block: nn.Module, forward: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.block, self.last, self.fc = conv(3), block, conv(), nn.Linear(WIDTH, CLASSES)
        self.relu = nn.ReLU(inplace=True)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)

    def pooled(self, a: Tensor) -> Tensor:
        return self.fc(a.mean((2, 3)))


def net(block: nn.Module, forward: Callable[[Net, Tensor], Tensor]) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = Net(block, forward).double().eval()
        for tensor in model.parameters():
            nn.init.normal_(tensor, std=0.3)
    return model


def images(n: int = 2) -> Tensor:
    return nets.images(n, 10).double()


class Residual(nn.Module):
    """A pre-activation block; `add` adds the shortcut."""

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.conv1, self.conv2, self.add = nn.BatchNorm2d(WIDTH), conv(), conv(), add

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.conv2(self.conv1(self.norm(x).relu()).relu()), x)


def iadd(out: Tensor, x: Tensor) -> Tensor:
    out += x
    return out


def half(out: Tensor, x: Tensor) -> Tensor:
    out[:, : WIDTH // 2] += x[:, : WIDTH // 2]
    return out


def through_a_view(out: Tensor, x: Tensor) -> Tensor:
    out.flatten(2).add_(x.flatten(2))
    return out


ADDED = {
    "out += x": (iadd, torch.add),
    "out.add_(x)": (lambda out, x: out.add_(x), torch.add),
    "out.mul_(gate)": (lambda out, x: out.mul_(x.sigmoid()), lambda out, x: out * x.sigmoid()),
    "out.sub_, then relu_": (lambda out, x: out.sub_(x).relu_(), lambda out, x: (out - x).relu()),
    "half of the channels": (half, lambda out, x: out + torch.cat([x[:, :4], torch.zeros_like(x[:, 4:])], 1)),
    "through a view": (through_a_view, torch.add),
    "masked_fill_": (lambda out, x: out.masked_fill_(x < 0, 0.5), lambda out, x: out.masked_fill(x < 0, 0.5)),
}


@pytest.mark.parametrize("what", ADDED)
def test_the_layer_found_is_the_block_also_where_its_residual_is_added_in_place(what: str) -> None:
    in_place, out_of_place = ADDED[what]
    model = net(Residual(in_place), lambda m, x: m.pooled(m.block(m.stem(x)).relu()))

    def trunk(x: Tensor) -> Tensor:
        block, h = model.block, model.stem(x)
        return out_of_place(block.conv2(block.conv1(block.norm(h).relu()).relu()), h)

    split = Split(model, trunk, lambda a: model.pooled(a.relu()), "block", "block")
    check(split, images(), None)
    check(split, images(), "block")


@pytest.mark.parametrize("add", [iadd, torch.add], ids=["in place", "out of place"])
def test_an_in_place_relu_behind_the_block_changes_nothing(add: Callable) -> None:
    model = net(Residual(add), lambda m, x: m.pooled(m.relu(m.block(m.relu(m.stem(x))))))
    with_copies = net(Residual(torch.add), lambda m, x: m.pooled(m.block(m.stem(x).relu()).relu()))
    got, expected = (wcx.explain(m, images(), 1) for m in (model, with_copies))
    assert error(got, expected) < TOLERANCE
    assert wcx.Explainer(model)(images()).layer == "block"


def through_data(h: Tensor) -> Tensor:
    h.data.clamp_(min=0)  # autograd takes no notice
    return h


SCRIPTED = torch.jit.trace(lambda h: h.relu_(), torch.zeros(1, WIDTH, 2, 2, dtype=torch.float64), check_trace=False)
OVERWRITTEN: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "by a method": (lambda h: h.relu_(), torch.relu),
    "by an argument": (lambda h: F.relu(h, True), torch.relu),
    "by a keyword": (lambda h: F.relu(input=h, inplace=True), torch.relu),
    "by an operator": (lambda h: h.__imul__(h.detach().sign()), lambda h: h * h.detach().sign()),
    "through a view": (lambda h: h.view(-1).relu_().view(h.shape), torch.relu),
    "through .data": (through_data, lambda h: h + (h.relu() - h).detach()),
    "by TorchScript": (SCRIPTED, torch.relu),
}


@pytest.mark.parametrize("what", OVERWRITTEN)
def test_the_layer_found_keeps_its_value_whoever_writes_into_its_output(what: str) -> None:
    """It is copied once a function is about to write into it; where that is out of sight, in a second pass."""
    in_place, out_of_place = OVERWRITTEN[what]
    model = net(nn.Identity(), lambda m, x: m.pooled(in_place(m.last(m.stem(x).tanh()))))
    trunk = lambda x: model.last(model.stem(x).tanh())  # noqa: E731
    check(Split(model, trunk, lambda a: model.pooled(out_of_place(a)), "last", "last"), images(), None)
    activation = wcx.Explainer(model)(images()).activation
    assert torch.equal(activation, trunk(images()).detach())


IN_PLACE = {
    "ReLU": (nn.ReLU(inplace=True), torch.relu),
    "SiLU": (nn.SiLU(inplace=True), F.silu),
    "ReLU6": (nn.ReLU6(inplace=True), F.relu6),
    "ELU": (nn.ELU(inplace=True), F.elu),
    "Hardswish": (nn.Hardswish(inplace=True), F.hardswish),
    "F.relu_": (Function(F.relu_), torch.relu),
    "mul_": (Function(lambda h: h.mul_(1.5)), lambda h: h * 1.5),
    "a slice": (Function(lambda h: h.__setitem__(slice(None), h[:, 0:1] * h) or h), lambda h: h[:, 0:1] * h),
    "a block that ends in place": (nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)), torch.relu),
}


@pytest.mark.parametrize("what", IN_PLACE)
def test_a_module_that_wrote_into_its_input_is_its_input(what: str) -> None:
    """The skip connection uses the tensor that the module wrote into."""
    module, function = IN_PLACE[what]

    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.stem(x)
        return m.pooled(m.last(m.block(h)) + h)

    model = net(module, forward)
    trunk = lambda x: function(model.stem(x))  # noqa: E731
    split = Split(model, trunk, lambda a: model.pooled(model.last(a) + a), "block")
    check(split, images(), "block")


HANDED_ON = {
    "Identity": (nn.Identity(), lambda h: h),
    "Dropout": (nn.Dropout(0.5), lambda h: h),
    "Dropout in place": (nn.Dropout(0.5, inplace=True), lambda h: h),
    "Dropout2d": (nn.Dropout2d(0.5), lambda h: h),
    "empty Sequential": (nn.Sequential(), lambda h: h),
    "a permutation": (Function(lambda h: h.transpose(2, 3)), lambda h: h.transpose(2, 3)),
    "a slice": (Function(lambda h: h[:, :, 1:-1]), lambda h: h[:, :, 1:-1]),
    "a view": (nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (5, 20))), lambda h: h.reshape(-1, WIDTH, 5, 20)),
}


@pytest.mark.parametrize("what", HANDED_ON)
def test_a_module_that_hands_its_input_on_counts_only_by_what_it_hands_on(what: str) -> None:
    module, function = HANDED_ON[what]

    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.stem(x)
        return m.pooled(m.last(m.block(h))) + m.pooled(h.tanh())

    model = net(module, forward)
    data = images(1)  # the skip is a constant of the image
    skip = model.pooled(model.stem(data).tanh()).detach()
    split = Split(model, lambda x: function(model.stem(x)), lambda a: model.pooled(model.last(a)) + skip, "block")
    check(split, data, "block")


def test_handed_on_and_then_written_into_the_input_is_written_as_well() -> None:
    """Identity, then an in-place ReLU: the logits stay those of the network."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.stem(x)
        return m.pooled(m.last(m.relu(m.block(h)))) + m.pooled(h.detach())

    model = net(nn.Identity(), forward)
    run = wcx.Explainer(model, layer="block")(images())
    assert error(run.logits, model(images()).detach()) < TOLERANCE


class Memory(nn.Module):
    """Hands on a convolution's output and keeps it for later, in a list or as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.features = conv(), []

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        self.features[:] = [h]
        return h


REMEMBERED = {
    "used out of place": (lambda h: h.relu(), lambda a: a),
    "after an in-place ReLU": (F.relu_, lambda a: a.relu()),
    "after an in-place sum": (lambda h: h.add_(0.5), lambda a: a + 0.5),
}


@pytest.mark.parametrize("keeper", ["cache in the module", "hook before", "hook that replaces the output"])
@pytest.mark.parametrize("what", REMEMBERED)
def test_features_kept_for_a_second_branch_count(what: str, keeper: str) -> None:
    use, kept = REMEMBERED[what]

    def forward(m: Net, x: Tensor) -> Tensor:
        z = m.last(use(m.block(m.stem(x))))
        return m.pooled(z.relu()) + m.pooled(m.features.pop().tanh())

    model = net(Memory() if keeper == "cache in the module" else nn.Sequential(conv()), forward)
    model.features = model.block.features if keeper == "cache in the module" else []
    if keeper == "hook before":
        model.block.register_forward_hook(lambda module, arguments, output: model.features.append(output))
    if keeper == "hook that replaces the output":

        def replace(module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
            model.features.append(output * 2)
            return model.features[-1]

        model.block.register_forward_hook(replace)
    factor = 2 if keeper == "hook that replaces the output" else 1
    inner = model.block.conv if keeper == "cache in the module" else model.block[0]
    split = Split(
        model,
        lambda x: inner(model.stem(x)) * factor,
        lambda a: model.pooled(model.last(use(a.clone())).relu()) + model.pooled(kept(a).tanh()),
        "block",
    )
    check(split, images(), "block")


@pytest.mark.parametrize("layer", ["block", None])
def test_hooks_that_hand_on_a_copy_of_everything(layer: str | None) -> None:
    model = net(Residual(iadd), lambda m, x: m.pooled(m.relu(m.block(m.relu(m.stem(x))))))
    expected = wcx.explain(model, images(), 1, "linear_approximation", layer=layer)
    for module in model.modules():
        module.register_forward_hook(lambda module, arguments, output: output.clone())
    assert error(wcx.explain(model, images(), 1, "linear_approximation", layer=layer), expected) < TOLERANCE
    assert wcx.Explainer(model)(images()).layer == "block"


REFERENCES = {
    "the tensor itself": (lambda h: h, lambda a: a.relu()),
    "a view of it": (lambda h: h.flatten(2).unflatten(2, h.shape[2:]), lambda a: a.relu()),
    "half of it": (lambda h: h[:, :, ::2], lambda a: a.relu()[:, :, ::2]),
    "a copy": (lambda h: h.clone(), lambda a: a),
}


@pytest.mark.parametrize("what", REFERENCES)
@pytest.mark.parametrize("layer", ["block", None])
def test_references_made_before_the_network_writes_into_the_output(what: str, layer: str | None) -> None:
    refer, value = REFERENCES[what]

    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.block(m.stem(x))
        reference = refer(h)
        return m.pooled(m.relu(h)) + m.pooled(reference.sin())

    model = net(conv(), forward)
    model.last = nn.Identity()
    head = lambda a: model.pooled(a.relu()) + model.pooled(value(a).sin())  # noqa: E731
    split = Split(model, lambda x: model.block(model.stem(x)), head, "block", "block")
    check(split, images(), layer)


class Slices(nn.Module):
    """Writes a convolution of half of its input into that half, and returns its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x[:, :4] = self.conv(x[:, :4])
        return x


@pytest.mark.parametrize("layer", ["block", None])
def test_a_module_that_returns_its_input_after_writing_a_slice_of_it(layer: str | None) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.stem(x)
        return m.pooled(m.relu(m.block(h)) + h.cos())

    model = net(Slices(), forward)

    def trunk(x: Tensor) -> Tensor:
        h = model.stem(x)
        return torch.cat([model.block.conv(h[:, :4]), h[:, 4:]], 1)

    head = lambda a: model.pooled(a.relu() + a.relu().cos())  # noqa: E731
    check(Split(model, trunk, head, "block", "block"), images(), layer)


class Dense(nn.Module):
    """A pre-activation dense block: each layer sees the concatenation of all before, through an in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(WIDTH * k) for k in (1, 2))
        self.convs = nn.ModuleList(conv(WIDTH * k) for k in (1, 2))

    def forward(self, features: list[Tensor] | Tensor) -> Tensor:
        features = [features] if isinstance(features, Tensor) else features
        for norm, convolution in zip(self.norms, self.convs, strict=True):
            features.append(convolution(F.relu(norm(torch.cat(features, 1)), inplace=True)))
        return features[-1] if self.slim else torch.cat(features, 1)

    slim = True


@pytest.mark.parametrize("layer", ["block", "block.convs.0", None])
def test_pre_activation_densenet(layer: str | None) -> None:
    model = net(Dense(), lambda m, x: m.pooled(m.relu(m.block(m.stem(x)))))
    block = model.block

    def first(x: Tensor) -> Tensor:
        return block.convs[0](block.norms[0](model.stem(x)).relu())

    def second(h: Tensor, a: Tensor) -> Tensor:
        return block.convs[1](block.norms[1](torch.cat([h, a], 1)).relu())

    data = images(1)
    h = model.stem(data).detach()
    if layer == "block.convs.0":
        split = Split(model, first, lambda a: model.pooled(second(h, a).relu()), layer)
    else:
        # what the last convolution returns, the block hands on: it goes by the inner one's name
        trunk = lambda x: second(model.stem(x), first(x))  # noqa: E731
        split = Split(model, trunk, lambda a: model.pooled(a.relu()), "block", "block.convs.1")
    check(split, data, layer)


@pytest.mark.parametrize("wrap", ["Identity", "Dropout", "Sequential"])
def test_a_block_that_only_hands_on_goes_by_the_name_of_the_one_inside(wrap: str) -> None:
    more = {"Identity": [nn.Identity()], "Dropout": [nn.Dropout()], "Sequential": [nn.Sequential(nn.Dropout2d())]}[wrap]
    model = net(nn.Sequential(conv(), *more), lambda m, x: m.pooled(m.relu(m.block(m.stem(x)))))
    split = Split(model, lambda x: model.block[0](model.stem(x)), lambda a: model.pooled(a.relu()), "block", "block.0")
    check(split, images(), None)


class Returns(nn.Module):
    """Returns a tensor of a kind that autograd does not let anybody write to, or that must not be written to."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = conv(WIDTH, 2 * WIDTH), kind
        self.table = nn.Parameter(torch.randn(1, WIDTH, 10, 10))
        self.register_buffer("buffer", torch.randn(1, WIDTH, 10, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x)[0]

    def value(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.conv(x)
        return {
            "part of a split": lambda: h.chunk(2, 1),
            "expanded": lambda: (h[:, :WIDTH].mean((2, 3), keepdim=True).expand(-1, -1, 10, 10),),
            "parameter": lambda: (self.table,),
            "view of a parameter": lambda: (self.table[:, :, :, :],),
            "buffer": lambda: (self.buffer,),
            "slice": lambda: (h[:, :WIDTH],),
            "transposed": lambda: (h[:, :WIDTH].transpose(2, 3),),
        }[self.kind]()


@pytest.mark.parametrize(
    "kind", ["part of a split", "expanded", "parameter", "view of a parameter", "buffer", "slice", "transposed"]
)
def test_outputs_that_cannot_or_must_not_be_written_to(kind: str) -> None:
    model = net(Returns(kind), lambda m, x: m.pooled(m.relu(m.last(m.block(m.stem(x)))) + 0.5))
    before = {name: (t.clone(), t._version, t.requires_grad) for name, t in model.state_dict(keep_vars=True).items()}
    split = Split(
        model,
        lambda x: model.block.value(model.stem(x))[0],
        lambda a: model.pooled(model.last(a).relu() + 0.5),
        "block",
    )
    check(split, images(1), "block")
    for name, tensor in model.state_dict(keep_vars=True).items():
        value, version, requires_grad = before[name]
        assert torch.equal(tensor, value)
        assert (tensor._version, tensor.requires_grad) == (version, requires_grad)
        assert tensor.is_leaf


@pytest.mark.parametrize("layer", ["block", None])
def test_channels_last_in_memory(layer: str | None) -> None:
    model = net(Residual(iadd), lambda m, x: m.pooled(m.relu(m.block(m.stem(x)))))
    expected = wcx.explain(model, images(), 1, "linear_approximation", layer="block")
    model.to(memory_format=torch.channels_last)
    got = wcx.explain(model, images().to(memory_format=torch.channels_last), 1, "linear_approximation", layer=layer)
    assert error(got, expected) < TOLERANCE


WRAPPERS = {
    "Normalized": lambda m: Normalized(m, [0.0] * 3, [1.0] * 3),
    "DataParallel": nn.DataParallel,
    "compiled": lambda m: torch.compile(m, backend="eager"),
    "compiled and normalised": lambda m: Normalized(torch.compile(m, backend="eager"), [0.0] * 3, [1.0] * 3),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("layer", ["block", "relu", None])
def test_wrappers(wrapper: str, layer: str | None) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.block(m.stem(x))
        return m.pooled(m.last(m.relu(h)) + h)

    model = net(Residual(iadd), forward)
    expected = wcx.explain(model, images(), 1, "linear_approximation", layer=layer or "last")
    explainer = wcx.Explainer(WRAPPERS[wrapper](model), "linear_approximation", layer)
    for _ in range(2):
        run = explainer(images())
        assert run.layer == (layer or "last")
        assert error(run.explain(wcx.cotangent(run.logits, 1, "weighted")), expected) < TOLERANCE


def test_a_compiled_block_goes_by_its_own_name() -> None:
    model = net(Residual(iadd), lambda m, x: m.pooled(m.block(m.stem(x)).relu()))
    expected = wcx.explain(model, images(), 1, layer="block")
    model.block = torch.compile(model.block, backend="eager")
    for layer in (None, "block", "block.conv2"):
        run = wcx.Explainer(model, layer=layer)(images())
        assert run.layer == (layer or "block")
    assert error(wcx.explain(model, images(), 1), expected) < TOLERANCE


def test_a_module_of_two_names_goes_by_either() -> None:
    model = net(conv(), lambda m, x: m.pooled(m.alias(m.stem(x)).relu()))
    model.alias = model.block
    assert torch.equal(wcx.explain(model, images(), 1, layer="alias"), wcx.explain(model, images(), 1, layer="block"))


class Returning(nn.Module):
    """Returns its map in a dictionary, or a tuple."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.conv, self.kind = conv(), kind

    def forward(self, x: Tensor) -> object:
        h = self.conv(x)
        return {"map": h, "pooled": h.mean()} if self.kind is dict else (h, None)


def test_a_block_that_returns_no_tensor_is_left_out() -> None:
    model = net(Returning(dict), lambda m, x: m.pooled(m.relu(m.block(m.stem(x))["map"])))
    split = Split(
        model, lambda x: model.block.conv(model.stem(x)), lambda a: model.pooled(a.relu()), "block.conv", "block.conv"
    )
    check(split, images(), None)
    with pytest.raises(WcxError, match=r"'block' returns a dict for 2 images, expected a map .*block.conv"):
        wcx.explain(model, images(), 1, layer="block")


def test_the_first_of_a_tuple_is_what_a_block_returns() -> None:
    """As many of transformers' blocks do."""
    model = net(Returning(tuple), lambda m, x: m.pooled(m.relu(m.block(m.stem(x))[0])))
    split = Split(model, lambda x: model.block.conv(model.stem(x)), lambda a: model.pooled(a.relu()), "block")
    for layer in (None, "block", "block.conv"):
        check(split, images(), layer)


def test_a_relu_that_runs_several_times() -> None:
    model = net(Residual(lambda out, x: out.add_(x)), lambda m, x: m.pooled(m.relu(m.block(m.relu(m.stem(x))))))
    run = wcx.Explainer(model)(images())
    assert run.layer == "block"
    with pytest.raises(WcxError, match=r"'relu' ran 2 times in a forward pass, expected once; try: .*block"):
        wcx.explain(model, images(), 1, layer="relu")


def test_conv_that_runs_several_times_is_refused_by_both_calls() -> None:
    model = net(conv(), lambda m, x: m.pooled(m.block(m.block(m.stem(x)).relu()).relu()))
    for layer in ("block", None):
        with pytest.raises(WcxError, match=r"'block' (ran 2 times|runs more than once) in a forward pass.*stem"):
            wcx.explain(model, images(), 1, layer=layer)
