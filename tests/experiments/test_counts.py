"""What the masking engine dispatches, and how often it waits for the device: on a GPU both cost more than the pixels."""

from __future__ import annotations

import pytest
import torch

from tests.experiments.counting import counted, small_network
from wcx import methods
from wcx.experiments import Cell, Subject
from wcx.experiments.images import Item
from wcx.experiments.masking import Masking, Settings
from wcx.images import Normalized

BATCH = 32


@pytest.mark.parametrize(
    ("names", "contrasts", "operations", "reads"),
    [
        (["gradcam", "linear_approximation"], ["original", "weighted"], 60, 8),
        (["gradcam", "linear_approximation", "xgradcam"], ["original", "mean", "max", "weighted"], 120, 16),
    ],
    ids=["2 x 2", "3 x 4"],
)
def test_few_operations_an_image_and_few_reads_a_batch(
    names: list[str], contrasts: list[str], operations: int, reads: int
) -> None:
    """At commit 54b9daa they were 858 and 4842 for 2 x 2, 2293 and 13,436 for 3 x 4; the network's own are among them."""
    pixels = torch.rand(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    items = [Item(i, str(i), 0, image) for i, image in enumerate(pixels)]
    cells = [Cell(method, contrast) for method in names for contrast in contrasts]
    created = {name: methods.create(name) for name in names}
    subject = Subject(Normalized(small_network()).eval(), "0", created, batch_size=BATCH)
    masking = Masking(subject, cells, Settings(select="all"))
    masking.rows(items[:2])  # what is made once
    subject.passes.clear()
    with counted() as (dispatched, read):
        masking.rows(items)
    assert subject.passes["masked"] > BATCH * 24, "the masks differ: the passes are among the operations"
    assert dispatched.total() <= operations * BATCH, dispatched.most_common(20)
    assert read.total() <= reads, read


def test_the_count_sees_what_it_is_for() -> None:
    x = torch.arange(6.0)
    with counted() as (dispatched, read):
        float(x[0])
        x.tolist()
        x[x > 2]
        bool(torch.equal(x, x))
        x.nonzero()
    assert read == {"__float__": 1, "tolist": 1, "index.Tensor": 1, "equal.default": 1, "nonzero.default": 1}
    assert dispatched["gt.Scalar"] == 1
