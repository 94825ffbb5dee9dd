"""Small transformers for tests; not a test itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from tests import nets

SIZE = 16


def vit(**options: int) -> nn.Module:
    """A ViT of torchvision, 4 x 4 patches and a class token, whose head is not zero."""
    sizes = {"image_size": SIZE, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12}
    return VisionTransformer(**sizes | options, num_classes=nets.CLASSES)


def swin() -> nn.Module:
    """A Swin transformer with shifted windows and their masks."""
    return SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2], num_classes=nets.CLASSES, stochastic_depth_prob=0.0)


def swin_v2() -> nn.Module:
    """The same of version 2: cosine attention."""
    version = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    return SwinTransformer(
        [2, 2], 8, [2, 2], [2, 2], [2, 2], num_classes=nets.CLASSES, stochastic_depth_prob=0.0, **version
    )


def maxvit() -> nn.Module:
    """Convolutions with gates, and attention written with einsum."""
    return MaxVit((SIZE, SIZE), 8, 2, [8, 8], [1, 1], 4, 0.0, num_classes=nets.CLASSES)


class Written(nn.Module):
    """One block of attention written out over tokens of an image, a norm before it and gated linear units behind.

    Args:
        attend: (q, k, v), each (N, heads, tokens, 4), to what is attended, of v's shape.
    """

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor], norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.attend = attend
        self.patches, self.norm = nn.Conv2d(3, 8, 4, 4), norm()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.gate, self.up, self.head = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, nets.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, CLASSES)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        x = x + self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))
        return self.head((F.silu(self.gate(x)) * self.up(x)).mean(1))


class Repeated(nn.Module):
    """Blocks of attention over all tokens of an image of any shape, without a class token: the mean of tokens is classified."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor], depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList([RepeatedBlock(attend) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, nets.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, CLASSES)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(hidden_states=x)[0]
        return self.head(self.norm(x).mean(1))


class RepeatedBlock(nn.Module):
    """Attention; the tokens go in by name and come out in a tuple, as in transformers."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.attend, self.norm, self.qkv, self.out = attend, nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        """Return tokens (N, tokens, 8) in a tuple."""
        q, k, v = self.qkv(self.norm(hidden_states)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return hidden_states + self.out(self.attend(q, k, v).transpose(1, 2).flatten(2)), None


def unfused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as three functions."""
    return ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1) @ v


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, by torch.einsum."""
    return torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k * 0.5).softmax(-1), v)


ATTENTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "fused": F.scaled_dot_product_attention,
    "unfused": unfused,
    "einsum": by_einsum,
}
NETS: dict[str, Callable[[], nn.Module]] = {
    "vit": vit,
    "swin": swin,
    "swin_v2": swin_v2,
    "maxvit": maxvit,
    **{name: lambda attend=attend: Written(attend, lambda: nn.LayerNorm(8)) for name, attend in ATTENTIONS.items()},
    **{f"repeated, {name}": lambda attend=attend: Repeated(attend) for name, attend in ATTENTIONS.items()},
    "rms": lambda: Written(F.scaled_dot_product_attention, lambda: nn.RMSNorm(8)),
}


def made(name: str, seed: int = 0) -> nn.Module:
    """Return one of `NETS` in float64 and eval mode, with random weights of a size that lets attention vary."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = NETS[name]().double().eval()
        for key, parameter in net.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.5 if "conv" not in key else 0.2)
            elif "logit_scale" not in key:
                nn.init.normal_(parameter, mean=1.0 if key.endswith("weight") else 0.0, std=0.2)
    return net
