"""How long the perturbation of ImageNet's 50,000 validation images takes: FLOPs counted, rates assumed."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from wcx import models
from wcx.experiments.sign_perturbation import Settings
from wcx.images import Normalized

SUSTAINED = {"float32": 67e12 * 0.4, "tf32": 495e12 * 0.25}  # FLOP/s of an H100: its peak, and the share assumed


def flops(name: str) -> tuple[float, float]:
    """Return the FLOPs of one image (3, 224, 224): forward, and backward to the pixels; a product and a sum are two."""
    net = Normalized(models.build(name, init_weights=False)).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    pixels = torch.rand(1, 3, 224, 224, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        logits = net(pixels)
        forward = counter.get_total_flops()
        logits.sum().backward()
    return float(forward), float(counter.get_total_flops() - forward)


def estimate(networks: Sequence[str], settings: Settings, walks: int, images: int = 50_000) -> pd.DataFrame:
    """Return FLOPs an image and the expected hours for `images` on an H100, a row a network and one for all.

    An estimate from pass counts: `SUSTAINED` is assumed, not measured; small networks are bound by memory and take longer.
    """
    passes = settings.passes(walks)
    rows = []
    for name in networks:
        forward, backward = flops(name)
        total = forward * (passes["forward"] + passes["evaluation"]) + backward * passes["backward"]
        rows.append(
            {"model": name, "GFLOP_forward": forward / 1e9, "GFLOP_backward": backward / 1e9, "TFLOP": total / 1e12}
        )
    table = pd.DataFrame(rows)
    table = pd.concat([table, pd.DataFrame([{"model": "all", **table.drop(columns="model").sum()}])], ignore_index=True)
    for precision, rate in SUSTAINED.items():
        table[f"hours_{precision}"] = table.TFLOP * 1e12 * images / rate / 3600
    return table


def text(table: pd.DataFrame) -> str:
    """Return an estimate for the screen."""
    rates = ", ".join(f"{name} {rate / 1e12:.0f} TFLOP/s" for name, rate in SUSTAINED.items())
    return (
        f"estimate for 50,000 images on one H100 (FLOPs counted, rates assumed: {rates}); TFLOP of all walks of an image\n"
        f"{table.to_string(index=False, float_format='{:.2f}'.format)}"
    )
