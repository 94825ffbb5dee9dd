"""A photograph's answer in process: what it costs, and its maps one at a time."""

from __future__ import annotations

import torch

import wcx
from tests import nets
from tests.experiments.test_gallery import Counted
from wcx import methods
from wcx.experiments import Subject
from wcx.experiments.photo import Question, answer
from wcx.images import Normalized


def test_one_walk_answers_every_contrast_against_every_set_of_foils() -> None:
    """Two classes, each alone, against the other and against all others, for two contrasts with foils: ten maps, one path.

    As many images through the network as for one class alone, but for those with hidden features, one a map.
    """
    model = Counted(Normalized(nets.conv_batchnorm()).double().eval())
    pixels = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    subject = Subject(model, None, {"integrated_gradients": methods.create("integrated_gradients", steps=7)})
    names, counts = [f"class {i}" for i in range(6)], []
    for asked in (("original",), ("original", "probability", "weighted")):
        model.images = 0
        picture = answer(subject, pixels, names, Question(contrasts=asked))
        counts.append(model.images - 2 * len(picture.maps))
    assert len(picture.maps) == 5
    assert counts[0] == counts[1] >= 1 + 7
    target, rival = picture.targets
    for view, maps in picture.maps.items():
        foils = {"none": None, "asked": [target, rival], "others": None}[view.foils]
        for i, index in enumerate(picture.targets):
            raw = wcx.explain(model, pixels[None], index, view.method, view.contrast, foils=foils, steps=7)
            torch.testing.assert_close(maps[i], raw[0].sum(0))
