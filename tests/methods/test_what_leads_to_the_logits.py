"""Kind F: what ran was taken for what leads to the logits, and the last convolution for what sees the image's places last."""

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

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, CLASSES = 8, 5
DETACHED = "the logits do not depend on the input or layer by any differentiable path"


def images(n: int = 2, size: int = 16) -> Tensor:
    return nets.images(n, size).double()


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(6)
    for tensor in model.parameters():
        nn.init.normal_(tensor, std=0.3, generator=generator)
    return model.double().eval()


def encoder(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), *more)


def classifier(width: int = WIDTH) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


class Heads(nn.Module):
    """An encoder and a second head that does not lead to the logits; `order` says which runs last, and what becomes of it."""

    def __init__(self, second: nn.Module, order: str, main: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.main, self.second, self.order = encoder(nn.ReLU()), main or classifier(), second, order

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        if self.order == "before":
            self.second(h)
        y = self.main(h)
        if self.order == "after":
            self.kept = self.second(h)
        if self.order == "detached":
            y = y + self.second(h).detach().mean((1, 2, 3))[:, None]
        if self.order == "decides":  # which class is lowered, not by how much
            y = y - F.one_hot(self.second(h).mean((2, 3)).argmax(1) % CLASSES, CLASSES)
        return y


SECOND = {
    "segmentation": lambda: nn.Sequential(nn.Conv2d(WIDTH, 4, 3, padding=1), nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 1)),
    "one convolution": lambda: nn.Conv2d(WIDTH, CLASSES, 1),
    "in a block of the same size": lambda: nn.Sequential(nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU(inplace=False))),
    "with a linear layer": lambda: nn.Sequential(nn.Conv2d(WIDTH, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, 2),
                                                 nn.Unflatten(1, (2, 1, 1))),
}  # fmt: skip


@pytest.mark.parametrize("order", ["before", "after", "detached", "decides"])
@pytest.mark.parametrize("second", SECOND)
def test_two_heads_of_which_one_is_returned(second: str, order: str) -> None:
    model = randomised(Heads(SECOND[second](), order))
    constant = model(images()) - model.main(model.encoder(images()))

    def head(a: Tensor) -> Tensor:
        return model.main(a) + constant[: len(a)]

    data = images(1)
    constant = (model(data) - model.main(model.encoder(data))).detach()
    check(Split(model, model.encoder, head, "encoder", "encoder"), data, None)
    check(Split(model, model.encoder, head, "encoder"), data, "encoder.3")


@pytest.mark.parametrize("layer", ["second", "second.0"])
def test_a_named_layer_that_leads_elsewhere_is_one_line(layer: str) -> None:
    with pytest.raises(WcxError, match=DETACHED):
        wcx.explain(randomised(Heads(SECOND["segmentation"](), "after")), images(), 1, layer=layer)


def test_a_named_layer_that_leads_elsewhere_though_the_logits_have_a_graph() -> None:
    model = randomised(
        Heads(SECOND["segmentation"](), "after", nn.Sequential(Function(lambda h: h.requires_grad_()), classifier()))
    )
    with pytest.raises(WcxError, match=DETACHED):
        wcx.explain(model, images(), 1, layer="second.0")


def test_class_scores_of_a_convolution_are_told_by_what_follows_them() -> None:
    """As in SqueezeNet, but with a second head that has the last layer with weights."""
    main = nn.Sequential(nn.Dropout(), nn.Conv2d(WIDTH, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = randomised(Heads(SECOND["with a linear layer"](), "after", main))
    check(Split(model, model.encoder, main, "encoder", "encoder"), images(), None)


def test_as_many_channels_as_classes_are_no_class_scores() -> None:
    """Where a linear layer without a module follows."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, CLASSES, 3), nn.ReLU())
            self.weight = nn.Parameter(torch.empty(CLASSES, CLASSES))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.features(x).mean((2, 3)), F.normalize(self.weight, dim=1))

    model = randomised(Tied())
    head = lambda a: a.mean((2, 3)) @ F.normalize(model.weight, dim=1).T  # noqa: E731
    check(Split(model, model.features, head, "features", "features"), images(), None)


def test_both_heads_lead_to_the_logits() -> None:
    """The last convolution by time is taken, and only its path counts."""
    side = nn.Sequential(nn.Conv2d(WIDTH, 6, 3, padding=1), nn.Tanh(), classifier(6))

    class Sum(Heads):
        def forward(self, x: Tensor) -> Tensor:
            h = self.encoder(x)
            return self.main(h) + self.second(h)

    model, data = randomised(Sum(side, "")), images(1)
    main = model.main(model.encoder(data)).detach()
    split = Split(model, lambda x: side[0](model.encoder(x)), lambda a: side[1:](a) + main, "second.0", "second.0")
    check(split, data, None)


class Probe(nn.Module):
    """A linear probe: the backbone runs without gradients; `how` it is left."""

    def __init__(self, backbone: nn.Module, head: nn.Module, mode: Callable = torch.no_grad) -> None:
        super().__init__()
        self.backbone, self.head, self.mode = backbone, head, mode

    def forward(self, x: Tensor) -> Tensor:
        with self.mode():
            h = self.backbone(x)
        return self.head(h)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        out += x
        return F.relu(out, inplace=True)


BACKBONES = {
    "ends with a convolution": encoder,
    "ends with a ReLU": lambda: encoder(nn.ReLU()),
    "ends with an in-place ReLU": lambda: encoder(nn.ReLU(inplace=True)),
    "ends with a residual block": lambda: encoder(nn.BatchNorm2d(WIDTH), Block()),
    "ends with Dropout": lambda: encoder(nn.Dropout(), nn.Identity()),
    "ends with a view": lambda: encoder(Function(lambda h: h.transpose(2, 3))),
    "ends with a part": lambda: encoder(Function(lambda h: h.chunk(1, 1)[0])),
}
HEADS = {
    "linear": classifier,
    "in-place ReLU, linear": lambda: nn.Sequential(nn.ReLU6(inplace=True), classifier()),
    "convolution, linear": lambda: nn.Sequential(nn.Conv2d(WIDTH, 6, 3), nn.Tanh(), classifier(6)),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_linear_probe_is_explained_at_the_backbones_output(backbone: str, head: str, mode: Callable) -> None:
    model = randomised(Probe(BACKBONES[backbone](), HEADS[head](), mode))
    model.head[0].inplace = False  # for the split
    split = Split(model, model.backbone, model.head, "backbone")
    if head == "convolution, linear":
        check(split, images(), "backbone")
        split = Split(model, lambda x: model.head[0](model.backbone(x)), model.head[1:], "head.0", "head.0")
        check(split, images(), None)
        return
    in_place = randomised(Probe(BACKBONES[backbone](), HEADS[head](), mode))
    for layer in ("backbone", None):
        check(Split(in_place, model.backbone, model.head, "backbone"), images(), layer)


@pytest.mark.parametrize("layer", ["backbone.0", "backbone.2", "backbone.3.conv"])
def test_a_layer_inside_of_a_backbone_without_gradients_is_one_line(layer: str) -> None:
    model = randomised(Probe(encoder(Block()), classifier()))
    with pytest.raises(WcxError, match=DETACHED):
        wcx.explain(model, images(), 1, layer=layer)


@pytest.mark.parametrize("function", [F.relu_, torch.relu, lambda h: h.flatten(2).relu_().view_as(h)])
@pytest.mark.parametrize("layer", ["backbone.0", None])
def test_what_a_function_without_gradients_did_to_a_layer_is_not_passed_over(
    function: Callable, layer: str | None
) -> None:
    """The function is no module: nobody sees its output, and autograd knows nothing of it."""

    class Functional(Probe):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = self.backbone[0](x)
                h = function(h)
            return self.head(h)

    with pytest.raises(WcxError, match=DETACHED):
        wcx.explain(
            randomised(Functional(nn.ModuleList([nn.Conv2d(3, WIDTH, 3)]), classifier())), images(), 1, layer=layer
        )


def test_a_value_clamped_without_gradients_is_passed_straight_through() -> None:
    """With gradients before and behind: autograd's own meaning (a straight-through estimator) is kept."""

    def clamp(h: Tensor) -> Tensor:
        with torch.no_grad():
            h.clamp_(0)
        return h

    model = randomised(nn.Sequential(nn.Conv2d(3, WIDTH, 3), Function(clamp), classifier()))
    leaf = model[0](images()).detach().requires_grad_()
    h = leaf.clone()
    (gradient,) = torch.autograd.grad(model[1:](h)[:, 1].sum(), leaf)
    expected = (gradient.mean((2, 3), keepdim=True) * leaf.detach()).sum(1)
    for layer in ("0", None):
        got = wcx.explain(model, images(), 1, contrast="original", layer=layer)
        assert error(got, expected) < TOLERANCE


OUTSIDE = {
    "detach": lambda h, fc: fc(h.mean((2, 3)).detach()),
    "numpy": lambda h, fc: fc(torch.from_numpy(h.detach().mean((2, 3)).numpy())),
    "a new tensor": lambda h, fc: fc(torch.tensor(h.mean((2, 3)).tolist()).double()),
    "argmax": lambda h, fc: F.one_hot(h.flatten(1).argmax(1) % CLASSES, CLASSES).double(),
    "data": lambda h, fc: fc(h.data.mean((2, 3))),
    "no_grad around the head": lambda h, fc: torch.no_grad()(lambda: fc(h.mean((2, 3))))(),
    "inference_mode around the head": lambda h, fc: torch.inference_mode()(lambda: fc(h.mean((2, 3))))(),
}


@pytest.mark.parametrize("layer", ["features", "features.0", None])
@pytest.mark.parametrize("what", OUTSIDE)
def test_a_head_outside_of_the_graph_is_one_line(what: str, layer: str | None) -> None:
    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.fc = encoder(nn.ReLU()), nn.Linear(WIDTH, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return OUTSIDE[what](self.features(x), self.fc)

    with pytest.raises(WcxError, match=DETACHED) as caught:
        wcx.explain(randomised(Outside()), images(), 1, layer=layer)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.parametrize("layer", ["0", None])
@pytest.mark.parametrize("method", ["gradcam", "xgradcam", "linear_approximation"])
def test_a_dynamically_quantised_network_is_one_line(method: str, layer: str | None) -> None:
    net = nn.Sequential(encoder(nn.ReLU()), classifier()).eval()
    quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(WcxError, match=DETACHED):
        wcx.explain(quantised, images().float(), 1, method, layer=layer)


class Tokens(nn.Module):
    """A convolution to patches, `blocks` on tokens (N, L, channels), and a linear head behind their mean."""

    def __init__(self, blocks: nn.Module, stem: nn.Module | None = None) -> None:
        super().__init__()
        self.patches = stem or nn.Conv2d(3, 16, 4, 4)
        self.blocks, self.norm, self.fc = blocks, nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        return self.fc(self.norm(tokens).mean(1))


class MixerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.places = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norms[1](x))


class Einsum(nn.Module):
    """A transformer's block without linear modules."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Parameter(torch.empty(3, 16, 16)), nn.Parameter(torch.empty(16, 16))
        self.up, self.down = nn.Parameter(torch.empty(16, 32)), nn.Parameter(torch.empty(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = torch.einsum("nlc,kcd->knld", x, self.qkv)
        x = x + torch.einsum("nlm,nmd,dc->nlc", torch.einsum("nld,nmd->nlm", q, k).softmax(-1), v, self.out)
        return x + F.gelu(x @ self.up) @ self.down


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)


TOKENS = {
    "mixer": (MixerBlock, None, "blocks.channels.2, blocks.channels, blocks, norm"),
    "transformer encoder": (encoder_layer, None, "blocks.norm2, blocks, norm"),
    "convolutional stem, then a transformer": (
        encoder_layer, lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1)),
        "blocks.norm2, blocks, norm",
    ),
    "einsum": (Einsum, None, "patches, blocks, norm"),
}  # fmt: skip


@pytest.mark.parametrize("what", TOKENS)
def test_a_block_of_tokens_in_no_list_is_one_line_that_lists_layers(what: str) -> None:
    """Which module is a block, and which the whole, nobody can tell. In a list they are found: see test_tokens.py."""
    block, stem, names = TOKENS[what]
    model = randomised(Tokens(block(), stem and stem()))
    match = rf"linear layers in a row act on tokens .*in no block of a list .*; name one: layer=\.\.\. \(.*{names}\)"
    with pytest.raises(WcxError, match=match) as caught:
        wcx.explain(model, images(), 1)
    assert "\n" not in str(caught.value)
    assert wcx.Explainer(model, layer="blocks")(images()).activation.shape[:2] == (2, 16)


def test_the_patch_embedding_is_explained_where_it_is_named() -> None:
    model = randomised(Tokens(MixerBlock()))
    head = lambda a: model.fc(model.norm(model.blocks(a.flatten(2).transpose(1, 2))).mean(1))  # noqa: E731
    check(Split(model, model.patches, head, "patches"), images(), "patches")


def test_a_network_of_tokens_without_any_convolution_is_one_line() -> None:
    patches = nn.Sequential(
        Function(lambda x: x.unflatten(3, (4, 4)).unflatten(2, (4, 4)).permute(0, 2, 4, 1, 3, 5).flatten(3))
    )
    model = randomised(
        Tokens(MixerBlock(), nn.Sequential(patches, nn.Linear(48, 16), Function(lambda t: t.permute(0, 3, 1, 2))))
    )
    with pytest.raises(WcxError, match=r"found no convolutional activation in the model; name one: .*blocks, norm"):
        wcx.explain(model, images(), 1)
    for layer in ("patches.1", "patches"):
        assert wcx.Explainer(model, layer=layer)(images()).activation.shape == (2, 16, 4, 4)


class AttentionPool(nn.Module):
    """CLIP's: attention of the mean over all places; `query`: of the mean alone, or (as some write it) of every place."""

    def __init__(self, query: str) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.position = nn.Parameter(torch.empty(17, 1, WIDTH))
        self.query, self.fc = query, nn.Linear(WIDTH, CLASSES)

    def forward(self, a: Tensor) -> Tensor:
        tokens = a.flatten(2).permute(2, 0, 1)
        tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + self.position
        layers = (self.q, self.k, self.v)
        pooled, _ = F.multi_head_attention_forward(
            tokens[:1] if self.query == "the mean" else tokens, tokens, tokens, WIDTH, 2, None,
            torch.cat([layer.bias for layer in layers]), None, None, False, 0.0, self.out.weight, self.out.bias,
            training=False, need_weights=False, use_separate_proj_weight=True,
            **{f"{name}_proj_weight": layer.weight for name, layer in zip("qkv", layers, strict=True)},
        )  # fmt: skip
        return self.fc(pooled[0])


class Attention(nn.Module):
    """Self-attention of places inside of a convolutional network, as in BoTNet."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, a: Tensor) -> Tensor:
        tokens = a.flatten(2).transpose(1, 2)
        return a + self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).view_as(a)


class Mix(nn.Module):
    """PVT's: a transformer's block whose second half has a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.depthwise = nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, padding=1, groups=2 * WIDTH)

    def inner(self, a: Tensor) -> Tensor:
        return self.depthwise(self.up(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    def outer(self, b: Tensor) -> Tensor:
        return self.down(F.gelu(b).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(self, a: Tensor) -> Tensor:
        return self.outer(self.inner(a))


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 4, 4))


LEGITIMATE: dict[str, Callable[[], tuple[nn.Module, nn.Module, str]]] = {
    "attention pool of the mean": lambda: (small(), AttentionPool("the mean"), "0.2"),
    "attention pool of every place": lambda: (small(), AttentionPool("every place"), "0.2"),
    "linear classifier at each place": lambda: (
        small(),
        nn.Sequential(Function(lambda a: a.flatten(2).transpose(1, 2)), nn.Linear(WIDTH, CLASSES), Function(lambda y: y.mean(1))),
        "0.2",
    ),
    "two linear layers at each place": lambda: (
        small(),
        nn.Sequential(Function(lambda a: a.permute(0, 2, 3, 1)), nn.Linear(WIDTH, 9), nn.GELU(), nn.Linear(9, CLASSES),
                      Function(lambda y: y.mean((1, 2)))),
        "0.2",
    ),
    "four linear layers behind a flattening": lambda: (
        small(),
        nn.Sequential(nn.Flatten(), nn.Linear(16 * WIDTH, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(),
                      nn.Linear(9, CLASSES)),
        "0.2",
    ),
    "attention inside": lambda: (
        nn.Sequential(small(), Attention(), Attention(), nn.Conv2d(WIDTH, WIDTH, 3)), classifier(), "0.3",
    ),
    "a depthwise convolution last": lambda: (nn.Sequential(small(), Attention(), Mix()), classifier(), "0.2"),
    "attention in the last block": lambda: (
        nn.Sequential(small(), nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), Attention(), Attention())), classifier(), "0.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LEGITIMATE)
def test_convolutional_networks_are_found_their_layer(what: str) -> None:
    features, head, layer = LEGITIMATE[what]()
    model = randomised(nn.Sequential(features, head))
    assert wcx.Explainer(model)(images()).layer == layer
    check(Split(model, features, head, "0"), images(), None)


def test_an_implementation_by_functions_is_seen_as_well() -> None:
    """A module that calls F.conv2d with weights of its own, and one whose convolution never runs."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.idle = nn.Parameter(torch.empty(WIDTH, 3, 3, 3)), nn.Conv2d(WIDTH, WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight).relu()

    model = randomised(nn.Sequential(Own(), nn.Tanh(), classifier()))
    check(Split(model, model[0], model[1:], "0", "0"), images(), None)


class Bare(nn.Module):
    """A module first, and then a convolution that the network calls itself, or TorchScript does."""

    def __init__(self, behind: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.weight, self.fc = (
            nn.Conv2d(3, WIDTH, 3),
            nn.Parameter(torch.empty(6, WIDTH, 3, 3)),
            nn.Linear(6, CLASSES),
        )
        self.behind = behind

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.behind(self.stem(x).relu(), self.weight).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", ["function", "TorchScript"])
def test_a_convolution_that_no_module_calls_is_not_passed_over(kind: str) -> None:
    behind = F.conv2d
    if kind == "TorchScript":
        behind = torch.jit.trace(F.conv2d, (torch.rand(1, WIDTH, 9, 9).double(), torch.rand(6, WIDTH, 3, 3).double()))
    model = randomised(Bare(behind))
    for _ in range(3):  # TorchScript optimises what it runs again
        with pytest.raises(WcxError, match=r"behind stem there is a convolution in no module's sight .*\(stem\)"):
            wcx.explain(model, images(), 1)
    head = lambda a: model.fc(F.conv2d(a.relu(), model.weight).mean((2, 3)))  # noqa: E731
    check(Split(model, model.stem, head, "stem"), images(), "stem")


@pytest.mark.parametrize(
    "behind",
    [
        lambda h, w: F.adaptive_avg_pool2d(h, 1)[:, :6] * w.mean(),
        lambda h, w: F.conv2d(F.avg_pool2d(h, 14), w[:, :, :1, :1]),
    ],
)
def test_convolutions_of_one_place_are_passed_over(behind: Callable) -> None:
    model = randomised(Bare(behind))
    head = lambda a: model.fc(behind(a.relu(), model.weight).mean((2, 3)))  # noqa: E731
    check(Split(model, model.stem, head, "stem", "stem"), images(), None)


def test_several_crops_of_an_image_are_no_map_of_it() -> None:
    class Crops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.fc = encoder(), nn.Linear(WIDTH, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            crops = torch.cat([x[:, :, :8], x[:, :, 8:]])
            return self.fc(self.features(crops).mean((2, 3)).unflatten(0, (2, -1)).mean(0))

    model = randomised(Crops())
    with pytest.raises(WcxError, match="found no convolutional activation"):
        wcx.explain(model, images(), 1)
    with pytest.raises(WcxError, match=r"shape \(4, 8, 8, 16\) for 2 images, expected a map"):
        wcx.explain(model, images(), 1, layer="features")
