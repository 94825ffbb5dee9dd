"""A small results folder with everything that the report shows, for its tests and the browser's; not a test itself."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from tests.report import fig3_shards, shards
from wcx.report import frames, sections
from wcx.report.selected import Sample

NASTY = 'Gull <b onclick="x">& "Tern"</b>'  # a class name from a file
SUBSET = "subset: 2 of 200 classes, 30 of 5794 test images"
CONTRASTS = ("original", "mean", "weighted")


def full(root: Path) -> Path:
    """Write every kind of result there is, through the modules that write them where they are quick."""
    masking = [
        *shards.pair(root, method="gradcam", boxes=True, weights="cub checkpoint (vgg16, recipe head, stand-in)")
    ]
    masking += shards.pair(root, dataset="cars", label="Stanford Cars", method="linear_approximation")
    sections.of("masking", masking).write(root)
    sections.of("sign_perturbation", fig3_shards.block(root, n=12, model="squeezenet1_1")).write(root)
    switch(root / "figures" / "cub-vgg16-gradcam")
    about = {
        "figure": "fig4",
        "title": f"Heatmaps of {NASTY}",
        "dataset": "cub",
        "dataset_label": "CUB-200",
        "model": "vgg16",
        "weights": "stand-in: vgg16.pth",
        "subset": SUBSET,
        "rule": "the first 4 with p_t2 > 0.1, in random order (seed 0)",
        "command": "python scripts/gallery.py 'datasets=[cub]' 'models=[vgg16]' 'figures=[fig4]'",
        "images": [{"id": "001.jpg", "truth": NASTY, "classes": [NASTY, "Auk"], "probabilities": [0.6, 0.3]}],
    }
    picture(root / "gallery" / "cub-vgg16-fig4.png", (900, 300), about)
    photograph = {
        "image": "/home/someone/secret/cat.jpg",
        "question": "Why Egyptian cat, and not tabby?",
        "model": "squeezenet1_1",
        "method": "gradcam",
        "sentences": ["Masking the 15% of pixels raises its share from 0.87 to 0.96."],
        "predictions": [{"id": 285, "class": "Egyptian cat", "p": 0.81}, {"id": 281, "class": "tabby", "p": 0.12}],
        "manifest": {"command": ["/elsewhere/run.py", "image=cat.jpg", "model=squeezenet1_1"], "device": "cpu"},
    }
    picture(root / "images" / "cat-squeezenet1_1.png", (800, 500), photograph)
    return root


def switch(folder: Path, count: int = 2, side: int = 32) -> Path:
    """Write frames of drawn images under three contrasts."""
    generator = torch.Generator().manual_seed(0)
    samples = [
        Sample(
            torch.rand(3, side, side, generator=generator),
            {name: torch.randn(2, side, side, generator=generator) for name in CONTRASTS},
            [NASTY, "Auk"],
            [0.7, 0.2],
            NASTY,
        )
        for _ in range(count)
    ]
    facts = {
        "dataset": "CUB-200",
        "model": "vgg16",
        "method": "gradcam",
        "weights": "stand-in: x.pth",
        "subset": SUBSET,
    }
    return frames.write(samples, folder, f"the first {count} images with p_t2 > 0.1", **facts)


def picture(path: Path, size: tuple[int, int], about: dict | None = None) -> Path:
    """Write a grey picture, and what is said of it beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize(size).save(path)
    if about is not None:
        path.with_suffix(".json").write_text(json.dumps(about))
    return path
