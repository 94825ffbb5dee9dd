"""Networks by name for the table in docs/results.md, in float64 with 10 classes, as small as each allows; not a test itself.

`PYTHONPATH=. python tests/extras/networks.py` (with the extras) writes docs/tables/networks.csv.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import wcx
from tests.extras import as_gradients
from tests.methods import brute_force
from wcx import methods
from wcx.errors import WcxError

CSV = Path(__file__).resolve().parents[2] / "docs" / "tables" / "networks.csv"
OPTIONS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 2},
    "lrp": {"composite": "attnlrp", "epsilon": 1e-30},
}
CLASS_TOKEN_LATE = ("cait_xxs24_224", "xcit_nano_12_p16_224")  # put in front of the patches behind the blocks
STEMS = ("xcit_nano_12_p16_224",)  # BatchNorm before tokens
HIDING = ("occlusion", "rise")  # forward passes alone, whatever the network
STEPS, CLASSES = 2, 10
NORM = "linear_approximation"


@dataclass
class Network:
    """A network, and what is expected of it.

    Attributes:
        name: of timm, or of a configuration below.
        size: (H, W) of the image.
        layer: of GradCAM and XGradCAM.
        norm: that of the linear approximation, whose channels cancel before it; None: the same.
        grid: (h, w).
        start: tokens before the patches; -1: a map, channels first; -2: channels last.
        options: of the constructor.
    """

    name: str
    size: tuple[int, int]
    layer: str
    norm: str | None
    grid: tuple[int, int]
    start: int
    options: dict[str, Any] = field(default_factory=dict)

    def read(self, output: Tensor) -> Tensor:
        """Return the map (channels, h, w) of what a layer returned for one image."""
        if self.start == -1:
            return output[0]
        if self.start == -2:
            return output[0].permute(2, 0, 1)
        start = output.shape[1] - self.grid[0] * self.grid[1]
        assert start in (self.start, self.start + (self.name in CLASS_TOKEN_LATE)), (
            "the patches come last in all of these"
        )
        return output[0, start:].T.reshape(-1, *self.grid)

    def build(self) -> nn.Module:
        """Return the network with random weights, in float64; a classifier of zeros (timm's mixers) is drawn anew."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = OTHERS[self.name]() if self.name in OTHERS else timm_network(self.name, self.options)
            for module in net.modules():
                if isinstance(module, nn.Linear) and module.out_features == CLASSES:
                    nn.init.normal_(module.weight, std=0.5)
        return net.double().eval().requires_grad_(False)


def timm_network(name: str, options: dict[str, Any]) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=CLASSES, **options)


def hugging_face(kind: str, **options: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(num_labels=CLASSES, **options)
    return getattr(transformers, f"{kind}ForImageClassification")(config)


def clip() -> nn.Module:
    import open_clip

    from wcx.models.libraries.clip import Similarities

    vision = {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    whole = open_clip.CLIP(16, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text))
    sentences = open_clip.SimpleTokenizer()([f"a bird of kind {c}" for c in range(CLASSES)])
    return Similarities(whole.visual, whole.encode_text(sentences), 10.0)


SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "HF ViT": lambda: hugging_face("ViT", intermediate_size=32, **SMALL),
    "HF DINOv2 with registers": lambda: hugging_face("Dinov2WithRegisters", num_register_tokens=4, **SMALL),
    "HF Swin": lambda: hugging_face(
        "Swin", image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4
    ),
    "CLIP ViT (open_clip)": clip,
}
DINO = "dinov2_with_registers"
NETWORKS = [
    Network("vit_tiny_patch16_224", (32, 64), "blocks.10", "blocks.11.norm1", (2, 4), 1, {"img_size": (32, 64)}),
    Network("deit_tiny_distilled_patch16_224", (32, 32), "blocks.10", "blocks.11.norm1", (2, 2), 2, {"img_size": 32}),
    Network("swin_tiny_patch4_window7_224", (64, 96), "layers.3.blocks.1", "norm", (2, 3), -2, {"img_size": (64, 96)}),
    Network("convnext_atto", (64, 64), "stages.3.blocks.1", None, (2, 2), -1),
    Network("maxvit_rmlp_pico_rw_256", (64, 64), "stages.3.blocks.1", "norm", (2, 2), -1, {"img_size": 64}),
    Network("mixer_s32_224", (64, 64), "blocks.7", "norm", (2, 2), 0, {"img_size": 64}),
    Network("eva02_tiny_patch14_224", (28, 28), "blocks.11", None, (2, 2), 1, {"img_size": 28}),
    Network("vit_small_patch14_dinov2", (28, 28), "blocks.10", "blocks.11.norm1", (2, 2), 1, {"img_size": 28}),
    Network("vit_small_patch14_reg4_dinov2", (28, 28), "blocks.10", "blocks.11.norm1", (2, 2), 5, {"img_size": 28}),
    Network("beit_base_patch16_224", (32, 32), "blocks.2", None, (2, 2), 1, {"img_size": 32, "depth": 3}),
    Network("vit_base_patch16_clip_224", (32, 32), "blocks.1", "blocks.2.norm1", (2, 2), 1, {"img_size": 32, "depth": 3}),
    Network("cait_xxs24_224", (32, 32), "blocks.23", "blocks_token_only.0.norm1", (2, 2), 0, {"img_size": 32}),
    Network("xcit_nano_12_p16_224", (64, 64), "blocks.11", "cls_attn_blocks.0.norm1", (4, 4), 0),
    Network("pvt_v2_b0", (64, 64), "stages.3", None, (2, 2), -1),
    Network("efficientnet_b0", (64, 64), "conv_head", None, (2, 2), -1),
    Network("resnet18", (64, 64), "layer4.1", None, (2, 2), -1),
    Network("HF ViT", (32, 32), "vit.layers.1", "vit.layers.2.layernorm_before", (4, 4), 1),
    Network("HF DINOv2 with registers", (32, 32), f"{DINO}.encoder.layer.2", f"{DINO}.layernorm", (4, 4), 5),
    Network("HF Swin", (32, 32), "swin.encoder.layers.1.blocks.1", "swin.layernorm", (8, 8), 0),
    Network("CLIP ViT (open_clip)", (32, 32), "visual.transformer.resblocks.1", "visual.transformer.resblocks.2.ln_1", (4, 4), 1),
]  # fmt: skip
REFUSED = {
    "hiera_tiny_224": (224, "which place of the image each token is cannot be told"),
    "levit_128s": (224, "which place of the image each token is cannot be told"),
    "nest_tiny": (224, "which place of the image each token is cannot be told"),
    "tnt_s_legacy_patch16_224": (224, "in no block of a list or sequence that returns a map or tokens"),
}


def image(size: tuple[int, int]) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1)).double()


def compared(network: Network, net: nn.Module) -> Iterator[tuple[str, str | None, float | str, float]]:
    """Yield for each linear method: name, layer, relative L2 error (or why there is none), seconds of the first explanation."""
    x = image(network.size)

    def logits(images: Tensor) -> Tensor:
        # Beside itself: of one image alone PyTorch's BatchNorm has a wrong gradient before XCiT's tokens.
        output = net(images.repeat(1 + (network.name in STEMS), 1, 1, 1))
        return getattr(output, "logits", output)[: len(images)]

    for name in (name for name in methods.names() if methods.get(name).linear and name not in HIDING):
        start = time.perf_counter()
        try:
            run = wcx.Explainer(net, name, **OPTIONS.get(name, {}))(x)
            v = wcx.cotangent(run.logits, 1, "weighted")
            maps = run.explain(v)
        except WcxError as error:
            yield name, None, str(error), 0.0
            continue
        seconds = time.perf_counter() - start
        if run.layer is not None:
            expected = brute_force.cams_at(net.get_submodule(run.layer), logits, x, v, network.read)[name]
        elif name == "integrated_gradients":
            expected = brute_force.integrated(logits, x, v, torch.zeros_like(x), STEPS)
        elif name in ("gradient", "input_x_gradient"):
            expected = brute_force.gradient(logits, x, v) * (x if name == "input_x_gradient" else 1)
        elif name == "lrp":
            expected = as_gradients.explained(logits, x, v)
        else:  # of rules: the sum of passes of a class each
            units = torch.eye(CLASSES, dtype=v.dtype)[:, None]
            expected = torch.einsum("s,sn...->n...", v[0], run.explain(units))
        yield name, run.layer, brute_force.error(maps, expected), seconds


def write(names: list[str]) -> None:
    """Write the rows of these networks, or of all, into the table; those of others stay."""
    rows = pd.read_csv(CSV, dtype=str, keep_default_na=False).to_dict("records") if CSV.is_file() else []
    for network in NETWORKS:
        if not names or network.name in names:
            rows = [row for row in rows if row["network"] != network.name] + list(rows_of(network))
            print(network.name, flush=True)
    order = [network.name for network in NETWORKS]
    pd.DataFrame(sorted(rows, key=lambda row: order.index(row["network"]))).to_csv(CSV, index=False)


def rows_of(network: Network) -> Iterator[dict[str, str]]:
    """Yield the table's rows of a network."""
    found = list(compared(network, network.build()))
    layers = list(dict.fromkeys(layer for _, layer, *_ in found if layer))
    fixed = {"network": network.name, "layer": " / ".join(layers), "grid": "{}x{}".format(*network.grid), "part": ""}
    fixed["setting"] = (
        f"float64, {CLASSES} classes, random weights, contrast weighted, image {network.size[0]}x{network.size[1]}"
    )
    fixed["command"] = "PYTHONPATH=. python tests/extras/networks.py"
    for name, _, result, _ in found:
        if isinstance(result, float):  # else refused: an empty cell
            yield {**fixed, "column": name, "value": f"{result:.0e}"}
    seconds = next(seconds for name, *_, seconds in found if name == "gradcam")
    yield {**fixed, "column": "GradCAM, ms", "value": f"{1000 * seconds:.0f}"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(sys.argv[1:])
