"""Which masks are the same, what is sent, and where its values are found, against loops over sets of pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from wcx.errors import WcxError
from wcx.experiments._passes import Evaluations, SeenImages
from wcx.experiments._versions import Plan, Versions, enlarged, places
from wcx.experiments.base import Subject
from wcx.explainer import upsample


@pytest.fixture
def fields() -> Tensor:
    """Signs of two maps for each of three images, some of which agree."""
    fields = torch.randint(-1, 2, (3, 2, 5, 7), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    fields[1, 1] = -fields[1, 0]
    fields[2, 1] = 1
    return fields


def versions(fields: Tensor) -> Versions:
    return Versions.of(fields, torch.zeros(3, 4), [(0, 1), (0, -1), (1, 1), (1, -1)])


def sets(fields: Tensor) -> list[list[frozenset[int]]]:
    """The hidden pixels of each image's four versions."""
    signed = [[sign * field for field in image for sign in (1, -1)] for image in fields]
    return [[frozenset(np.flatnonzero(field.flatten() < 0).tolist()) for field in image] for image in signed]


def test_masks_and_codes_are_those_of_the_sets(fields: Tensor) -> None:
    made, expected = versions(fields), [hidden for image in sets(fields) for hidden in image]
    masks = made.masks(torch.float32)
    assert [frozenset(np.flatnonzero(mask.flatten()).tolist()) for mask in masks] == expected
    codes, counts = made.codes()
    assert counts.tolist() == [len(hidden) for hidden in expected]
    for a, b in np.ndindex(12, 12):
        assert bool(codes[a] == codes[b]) == (expected[a] == expected[b])


def test_one_pixel_more_is_another_code_at_the_size_of_an_image() -> None:
    ranks = places(torch.rand(1, 1, 224, 224, generator=torch.Generator().manual_seed(0)))
    bounds = torch.arange(0, 50176, 98)[None]
    made = Versions.of(ranks, bounds, [(0, 1)] * bounds.shape[1])
    codes, counts = made.codes()
    assert counts.tolist() == bounds[0].tolist()
    assert len(set(codes.tolist())) == len(codes)
    again = Versions.of(ranks, bounds.flip(1), [(0, 1)] * bounds.shape[1]).codes()[0]
    assert torch.equal(again.flip(0), codes)


def test_images_too_large_to_tell_masks_apart_are_an_error() -> None:
    with pytest.raises(WcxError, match="smaller images"):
        Versions.of(torch.zeros(1, 1, 4096, 2048, dtype=torch.int8), torch.zeros(1, 1), [(0, 1)]).codes()


@pytest.mark.parametrize("size", [1, 2, 3, 32])
def test_every_version_finds_the_values_of_its_own_image_and_baseline(fields: Tensor, size: int) -> None:
    """Sent in pieces, and with a batch that does not divide anything: the network tells which image it saw."""
    made, hidden = versions(fields), sets(fields)
    codes, counts = (numbers.view(3, 4) for numbers in made.codes())
    first = (codes[:, :, None] == codes[:, None]).byte().argmax(2)
    plan = Plan(first.numpy(), counts.numpy(), 2, size)
    chosen, owners, where = (torch.from_numpy(part) for part in plan.tables())
    pixels = torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(2))
    others = [torch.full((1, 1, 1), 2.0), torch.rand(1, 5, 7) + 3]
    network = torch.nn.Flatten()  # its logits are the image
    seen = SeenImages([], pixels.flatten(1), torch.empty(0), torch.empty(0), {})
    seen.owners, seen.where = owners, where
    seen.values.append(pixels.flatten(1))
    subject = Subject(network, None, {}, batch_size=5)
    owned: list[int] = []

    def measure(_: SeenImages, logits: Tensor, images: Tensor) -> Tensor:
        owned.extend(images.tolist())
        return logits.clone()

    pending = Evaluations(subject, "masked", measure)
    parts = made.chosen(chosen).split(plan.distinct.sum(1).tolist())
    for image, part in zip(pixels, parts, strict=True):
        for piece in part.pieces(size):
            for other in others:
                pending.add(seen, piece.masks(torch.float32), other, image)
    pending.flush()
    table = torch.cat(seen.values)[where]
    for n, m, b in np.ndindex(3, 4, 2):
        mask = torch.tensor([p in hidden[n][m] for p in range(35)]).view(1, 5, 7)
        assert torch.equal(table[n, m, b], torch.where(mask, others[b], pixels[n]).flatten()), (n, m, b)
    sent = [2 * len(set(image) - {frozenset()}) for image in hidden]
    assert subject.passes == {"masked": sum(sent)}
    assert owned == [n for n in range(3) for _ in range(sent[n])]


def test_ranks_break_ties_by_index() -> None:
    ranks = places(torch.tensor([[[0.0, 2.0], [0.0, 1.0]]]))
    assert ranks.tolist() == [[[0, 3], [1, 2]]]
    assert places(torch.tensor([[[0.0, 2.0], [0.0, 1.0]]]), descending=True).tolist() == [[[2, 0], [3, 1]]]


def test_maps_of_both_spaces_are_enlarged_in_their_order() -> None:
    small, pixel = torch.rand(2, 5, 3, 3), torch.rand(2, 5, 3, 8, 8)
    found = torch.cat([*enlarged([pixel, small, pixel], (8, 8), True, 2)], dim=2)
    torch.testing.assert_close(found[0], pixel.sum(2))
    torch.testing.assert_close(found[2], found[0])
    torch.testing.assert_close(found[1], upsample(small, 8, True))
