"""Methods of a layer that share their passes, where it is found in tokens: each is explained where it would be alone."""

from __future__ import annotations

import pytest
import torch

import wcx
from tests.methods.test_tokens import Transformer, images, randomised
from wcx import methods
from wcx.contrasts import foil_masks
from wcx.experiments import Cell
from wcx.experiments.base import Subject

NAMES = ["gradcam", "xgradcam", "linear_approximation"]
NORM = "blocks.2.norm1"


@pytest.mark.parametrize("layer", [None, NORM])
@pytest.mark.parametrize("names", [NAMES, NAMES[::-1], NAMES[:2], NAMES[2:]], ids=len)
def test_methods_together_are_explained_as_each_alone(names: list[str], layer: str | None) -> None:
    model, pixels = randomised(Transformer()), images()
    subject = Subject(model, layer, {name: methods.create(name) for name in names})
    cells = [Cell(name, contrast) for name in names for contrast in ("original", "max")]
    targets = torch.tensor([[1, 1]])
    for _ in range(2):
        look = subject.look(pixels)
        maps = look.maps(cells, targets, foil_masks(look.logits, targets, None))
        for cell in cells:
            expected = wcx.explain(model, pixels, 1, cell.method, cell.contrast, layer=layer)
            torch.testing.assert_close(maps[cell][0], expected, rtol=1e-9, atol=0)
    groups = 2 if layer is None and len(names) == 3 else 1  # of a layer, which share forward and backward passes
    assert subject.passes == {"forward": 2 * 2 * groups, "backward": 2 * 2 * 2 * groups}
    assert subject.layer == (layer or (NORM if names == NAMES[2:] else "blocks.1"))
