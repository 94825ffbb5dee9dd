"""Activation methods on tokens: the block found, patches alone, the grid folded; against plain autograd, a class at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

import wcx
from tests.methods.brute_force import ACTIVATION, cams_at, error
from wcx.errors import WcxError

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 1e-9  # relative L2 in float64: rounding alone
WIDTH, CLASSES = 16, 5
HEIGHT, LENGTH = 3, 5  # of the grid


def images(height: int = 4 * HEIGHT, width: int = 4 * LENGTH, n: int = 2) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(3)).double()


def randomised(model: nn.Module) -> nn.Module:
    """Draw the matrices; norms stay as they begin: behind one of large numbers, sums of activation x gradient are rounding."""
    generator = torch.Generator().manual_seed(6)
    for tensor in model.parameters():
        if tensor.ndim > 1:
            nn.init.normal_(tensor, std=0.3, generator=generator)
    return model.double().eval()


def patches(start: int, height: int = HEIGHT, width: int = LENGTH) -> Callable[[Tensor], Tensor]:
    """Read tokens (1, T, channels), of which `start` come before the patches."""
    return lambda t: t[0, start : start + height * width].T.reshape(-1, height, width)


def check(
    model: nn.Module,
    layer: str | None,
    expected: str,
    read: Callable[[Tensor], Tensor],
    x: Tensor,
    norm: str | None = None,
) -> None:
    """Compare one pass with the sum over classes at the layer that is expected; the second call has it named.

    At `norm` if given, for the linear approximation: its channels cancel before it.
    """
    for method in ACTIVATION:
        explainer = wcx.Explainer(model, method, layer)
        name = norm if norm and method == "linear_approximation" else expected
        for _ in range(2):
            run = explainer(x)
            assert run.layer == name
            v = wcx.cotangent(run.logits, 1, "weighted")
            maps = cams_at(model.get_submodule(name), model, x, v, read)
            assert error(run.explain(v), maps[method]) < TOLERANCE, method


class Block(nn.Module):
    """A transformer's block, of tokens (N, T, channels), or (T, N, channels); `how` says what it returns."""

    def __init__(self, batch_first: bool = True, how: Callable[[Tensor], object] = lambda t: t) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.how = how

    def forward(self, t: Tensor) -> object:
        h = self.norm1(t)
        t = t + self.attention(h, h, h, need_weights=False)[0]
        return self.how(t + self.mlp(self.norm2(t)))


class Transformer(nn.Module):
    """Patches, tokens beside them, three blocks, and a linear head behind what `pooled` makes of the tokens."""

    def __init__(
        self,
        join: Callable[[Tensor, Tensor], Tensor] = lambda t, extra: torch.cat([extra[:, :1], t], 1),
        pooled: Callable[[Tensor], Tensor] = lambda t: t[:, 0],
        block: Callable[[], nn.Module] = Block,
        count: int = 3,
    ) -> None:
        super().__init__()
        self.embedding, self.extra = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.empty(1, 3, WIDTH))
        self.join, self.pooled, self.blocks = join, pooled, nn.ModuleList(block() for _ in range(count))
        self.norm, self.fc = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        t = self.embedding(x).flatten(2).transpose(1, 2)
        t = self.join(t, self.extra.expand(len(x), -1, -1))
        for block in self.blocks:
            t = block(t)
            t = t[0] if isinstance(t, tuple) else t
        return self.fc(self.pooled(self.norm(t)))


def registers(t: Tensor, extra: Tensor) -> Tensor:
    """As transformers' DINOv2: the class token first, then the registers in between."""
    t = torch.cat((extra[:, :1], t), dim=1) + 0.1
    return torch.cat((t[:, :1], extra[:, 1:], t[:, 1:]), dim=1)


class Pool(nn.Module):
    """Attention pooling by a query of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(1)))
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, t: Tensor) -> Tensor:
        return self.attention(self.query.expand(len(t), -1, -1).to(t), t, t, need_weights=False)[0][:, 0]


# How the tokens stand beside the patches, how many come before, what the head takes, and the block found.
ARRANGEMENTS: dict[str, tuple[Callable, int, Callable, int]] = {
    "class token": (lambda t, e: torch.cat([e[:, :1], t], 1), 1, lambda t: t[:, 0], 1),
    "class and distillation token": (lambda t, e: torch.cat([e[:, :2], t], 1), 2, lambda t: (t[:, 0] + t[:, 1]) / 2, 1),
    "registers put in between": (registers, 3, lambda t: t[:, 0], 1),
    "class token last": (lambda t, e: torch.cat([t, e[:, :1]], dim=-2), 0, lambda t: t[:, -1], 1),
    "class token, mean of the patches": (lambda t, e: torch.cat([e[:, :1], t], 1), 1, lambda t: t[:, 1:].mean(1), 2),
    "mean of all tokens": (registers, 3, lambda t: t.mean(1), 2),
    "no token beside": (lambda t, _: t, 0, lambda t: t.mean(1), 2),
    "attention pooling": (lambda t, _: t, 0, Pool(), 2),
    "registers, attention pooling": (registers, 3, Pool(), 2),
}


@pytest.mark.parametrize("what", ARRANGEMENTS)
def test_the_last_block_whose_patches_lead_to_the_logits(what: str) -> None:
    """Trap 4: prefix tokens and a grid that is no square. Trap 8: nn.MultiheadAttention."""
    join, start, pooled, block = ARRANGEMENTS[what]
    model = randomised(Transformer(join, pooled))
    check(model, None, f"blocks.{block}", patches(start), images(), "blocks.2.norm1" if block == 1 else "norm")
    for layer in ("blocks.0", f"blocks.{block}.norm1", f"blocks.{block}.mlp.0"):
        check(model, layer, layer, patches(start), images())


@pytest.mark.parametrize("layer", ["blocks.2", "blocks.2.mlp", "blocks.2.norm2", "blocks.2.mlp.1", "norm"])
def test_a_named_layer_whose_patches_have_no_gradient_is_one_line(layer: str) -> None:
    """Trap 1: behind the last attention the class token alone leads to the logits."""
    model = randomised(Transformer())
    with pytest.raises(
        WcxError, match=rf"'{layer}' leads .* alone: the gradient of its 3x5 patches is 0; name"
    ) as caught:
        wcx.explain(model, images(), 1, layer=layer)
    assert "\n" not in str(caught.value)


def test_behind_a_mean_the_patches_of_the_last_norm_have_a_gradient() -> None:
    check(randomised(Transformer(registers, lambda t: t[:, 3:].mean(1))), "norm", "norm", patches(3), images())


def test_one_block_under_a_class_token_is_one_line() -> None:
    model = randomised(Transformer(count=1))
    with pytest.raises(
        WcxError, match=r"in none of the 1 blocks of tokens do the patches lead .*blocks.0 .*class token alone"
    ):
        wcx.explain(model, images(), 1)
    check(model, "blocks.0.norm1", "blocks.0.norm1", patches(1), images())


def test_tokens_before_the_batch() -> None:
    """(T, N, channels), as nn.MultiheadAttention has it by default."""

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(*(Block(batch_first=False) for _ in range(3)))

        def forward(self, t: Tensor) -> Tensor:
            return self.inner(t.transpose(0, 1)).transpose(0, 1)

    model = randomised(Transformer(block=First, count=1))
    for n in (1, 2, 16):  # as many images as tokens
        norm = "blocks.0.inner.2.norm1"
        check(model, None, "blocks.0.inner.1", lambda t: patches(1)(t.transpose(0, 1)), images(n=n), norm)


def test_blocks_that_return_a_tuple() -> None:
    model = randomised(Transformer(block=lambda: Block(how=lambda t: (t, None))))
    check(model, None, "blocks.1", patches(1), images(), "blocks.2.norm1")


def test_the_block_goes_by_its_own_name_where_stages_hand_it_on() -> None:
    model = randomised(Transformer(block=lambda: nn.Sequential(Block(), Block()), count=2))
    check(model, None, "blocks.1.0", patches(1), images(), "blocks.1.1.norm1")


class Fourier(nn.Module):
    """FNet: no attention, no weights in the mixing."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, t: Tensor) -> Tensor:
        t = t + torch.fft.fft2(t, dim=(1, 2), norm="ortho").real
        return t + self.mlp(t)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.gelu = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.GELU()
        self.places = nn.Sequential(nn.Linear(HEIGHT * LENGTH, 9), nn.GELU(), nn.Linear(9, HEIGHT * LENGTH))
        self.channels = nn.Sequential(nn.Linear(WIDTH, 9), nn.GELU(), nn.Linear(9, WIDTH))

    def forward(self, t: Tensor) -> Tensor:
        t = t + self.places(self.norm1(t).transpose(1, 2)).transpose(1, 2)
        return t + self.channels(self.norm2(t))


@pytest.mark.parametrize("block", [Fourier, Mixer, lambda: nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)])
def test_blocks_of_other_kinds(block: Callable[[], nn.Module]) -> None:
    model = randomised(Transformer(lambda t, _: t, lambda t: t.mean(1), block))
    check(model, None, "blocks.2", patches(0), images(), "norm")


def test_the_linear_approximation_before_a_norm_is_one_line() -> None:
    """A token times a number leaves the norm's output as it is: sum_k a_k dy/da_k = 0, by Euler's theorem."""
    model = randomised(Transformer())
    with pytest.raises(
        WcxError, match=r"linear_approximation is 0 at layer 'blocks.1', .* the norm behind it; name that"
    ):
        wcx.explain(model, images(), 1, "linear_approximation", layer="blocks.1")
    a = wcx.Explainer(model, "gradcam", "blocks.1")(images())
    product = a.activation * a.gradients(wcx.cotangent(a.logits, 1)[None])[0]
    assert product.sum(1).norm() < 1e-3 * product.abs().sum(1).norm()  # the norm's epsilon, 1e-5


def test_the_fast_path_of_attention_is_not_taken() -> None:
    """Trap 8: without gradients, nn.TransformerEncoder would run in one kernel, whose inside no hook sees."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True), 3)
    model = randomised(Transformer(lambda t, _: t, lambda t: t.mean(1), lambda: encoder, count=1))
    name = "blocks.0.layers.1.linear1"
    torch.backends.mha.set_fastpath_enabled(True)
    with torch.no_grad():
        fast = wcx.explain(model, images(), 1, layer=name)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert error(fast, wcx.explain(model, images(), 1, layer=name)) < TOLERANCE
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_tokens_in_an_order_of_their_own_are_refused() -> None:
    """An early block would be found, and shown in place of the last."""

    class Shuffled(nn.Module):
        def forward(self, t: Tensor) -> Tensor:
            return t.reshape(len(t), -1)[:, torch.arange(HEIGHT * LENGTH * WIDTH).flip(0)].reshape(t.shape)

    blocks = iter([Block(), Shuffled(), Block()])
    model = randomised(Transformer(lambda t, _: t, lambda t: t.mean(1), lambda: next(blocks)))
    with pytest.raises(
        WcxError, match=r"block blocks.2 returns \(2, 15, 16\), and which place of the image .*; name one: "
    ):
        wcx.explain(model, images(), 1)
    with pytest.raises(
        WcxError, match=r"'blocks.2' returns shape \(2, 15, 16\), .* not tell which place .* try: .*blocks.0"
    ):
        wcx.explain(model, images(), 1, layer="blocks.2")
    check(model, "blocks.0", "blocks.0", patches(0), images())


def test_a_map_before_a_norm_of_each_place() -> None:
    """As in timm's MaxViT: channels first, and a LayerNorm of each place's channels before the pooling."""

    class Norm(nn.LayerNorm):
        def forward(self, a: Tensor) -> Tensor:
            return super().forward(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    stem, pool = nn.Conv2d(3, WIDTH, 4, 4), [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, CLASSES)]
    check(randomised(nn.Sequential(stem, Norm(WIDTH), *pool)), None, "0", lambda a: a[0], images(), "1")


def test_a_classifier_of_zeros_is_one_line() -> None:
    """As timm begins MLP-Mixer: no block has a gradient, and which it would be cannot be told."""
    model = randomised(Transformer())
    nn.init.zeros_(model.fc.weight)
    with pytest.raises(
        WcxError, match=r"gradient of the logits at blocks.2 is 0 everywhere: is the classifier untrained"
    ):
        wcx.explain(model, images(), 1)


def vit(layers: int = 3) -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=layers, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=CLASSES
    )


def swin(version: int = 1) -> nn.Module:
    kinds = [torchvision.models.swin_transformer.SwinTransformerBlock, torchvision.models.swin_transformer.PatchMerging]
    if version == 2:
        kinds = [
            torchvision.models.swin_transformer.SwinTransformerBlockV2,
            torchvision.models.swin_transformer.PatchMergingV2,
        ]
    return torchvision.models.SwinTransformer(
        [2, 2], 8, [2, 2], [2, 2], [4, 4], num_classes=CLASSES, block=kinds[0], downsample_layer=kinds[1]
    )


def maxvit() -> nn.Module:
    return torchvision.models.MaxVit((32, 32), 8, 4, [8, 16], [1, 1], 4, 0.0, num_classes=CLASSES)


def last(a: Tensor) -> Tensor:
    return a[0].permute(2, 0, 1)


# torchvision's: network, images, layer, how it is read, and the norm behind it. Trap 5: Swin's blocks are (N, h, w, channels).
TORCHVISION: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], str, Callable[[Tensor], Tensor], str | None]] = {
    "ViT": (vit, (16, 16), "encoder.layers.encoder_layer_1", patches(1, 4, 4), "encoder.layers.encoder_layer_2.ln_1"),
    "Swin": (swin, (16, 24), "features.3.1", last, "norm"),
    "Swin, padded windows": (swin, (20, 28), "features.3.1", last, "norm"),
    "Swin v2": (lambda: swin(2), (16, 24), "features.3.1", last, "norm"),
    "MaxViT": (maxvit, (32, 32), "blocks.1.layers.0.layers", lambda a: a[0], None),
}


@pytest.mark.parametrize("what", TORCHVISION)
def test_torchvisions_transformers(what: str) -> None:
    make, size, layer, read, norm = TORCHVISION[what]
    check(randomised(make()), None, layer, read, images(*size), norm)


def test_a_layer_inside_of_torchvisions_vit() -> None:
    for name in ("encoder.layers.encoder_layer_2.ln_1", "encoder.layers.encoder_layer_0.mlp", "encoder.dropout"):
        check(randomised(vit()), name, name, patches(1, 4, 4), images(16, 16))


@pytest.fixture(params=["vit_b_16", "swin_t"])
def large(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.get_model(request.param, weights=None, num_classes=10)
        nn.init.normal_(model.heads.head.weight if request.param == "vit_b_16" else model.head.weight)
    return request.param, model.eval()


def test_torchvisions_own_configurations(large: tuple[str, nn.Module]) -> None:
    """The layers of vit_b_16 and swin_t at 224 pixels."""
    name, model = large
    run = wcx.Explainer(model)(images(224, 224, 1).float())
    layer, shape = {
        "vit_b_16": ("encoder.layers.encoder_layer_10", (1, 768, 14, 14)),
        "swin_t": ("features.7.1", (1, 768, 7, 7)),
    }[name]
    assert (run.layer, tuple(run.activation.shape)) == (layer, shape)
