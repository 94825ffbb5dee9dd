"""Beside the other libraries, in one run: seconds of one explanation, and of eight, of the same images.

- One: the logit of a class that is given, each library by its plainest call.
- Eight: the two most probable classes under original, mean, max and weighted, from images alone, so that a library has to find
  the logits. Where its calls allow several backward passes through one forward pass (torch-cam, zennit's LRP), that is timed.

All explain one copy of the network, without functions that write in place (`wcx.checks.captum.prepared`). Before the clock
starts, the maps of two images are compared in float64: the same method has to give the same maps (DeepLIFT's under captum's rule
for near ties). Where captum's is another one (DeepLIFT where max pools overlap), its seconds stand with the reason and the
difference; an LRP of other rules is left out.
"""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import metadata
from itertools import chain, product
from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor

from wcx.checks.base import gathered, summary_table
from wcx.checks.bench import BenchRequest, seconds
from wcx.checks.libraries import INSTALLED, LIBRARIES, METHODS, STEPS, Task, as_of, missing, reason_against
from wcx.checks.rounds import Rounds, Timed
from wcx.checks.workloads import readable
from wcx.errors import WcxError
from wcx.experiments import Cell
from wcx.experiments.base import Row
from wcx.experiments.images import stacked
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.tables import Table

TOLERANCE = 1e-5  # in float64, relative; grad-cam scales its maps in float32
MEANINGS = {
    **dict.fromkeys(("dataset", "network", "method"), ""),
    "explanations": "of each image",
    "library": "",
    "images": "a batch",
    "repeats": "rounds",
    "threads": "",
    "seconds": "median",
    "/ wcx": "median ratio of the seconds of a round",
    "difference": "of two images' maps from ours in float64, relative",
    "unlike": "why it is another method",
}


@dataclass(frozen=True)
class PeersSettings:
    """What is measured.

    Attributes:
        explanations: of each image, 1 or 8.
        images: of the batch.
        repeats: rounds; of eight a third of those asked for.
        versions: of the libraries.
        steps: of integrated gradients.
    """

    explanations: int
    images: int
    repeats: int
    versions: tuple[str, ...]
    steps: int


class Peers(Timed):
    """Seconds of a call by cell (method, library), and how far its maps are from ours."""

    protocol = PeersSettings
    measures: ClassVar = {"": ("images", "seconds", "difference", "unlike")}
    version = 2  # 2: the network has no hooks but in captum's DeepLIFT

    @classmethod
    def jobs(cls, request: BenchRequest) -> Iterator[Job]:  # type: ignore[override]  # asked for by `wcx bench`
        if line := missing():
            raise WcxError(line)
        job = request.open_job()
        versions = tuple(f"{name} {metadata.version(name)}" for name in INSTALLED)
        for explanations in (1, 8):
            pairs = chain.from_iterable(product([method], METHODS[method]) for method in request.methods or METHODS)
            # The seed of captum's LRP is a logit's alone.
            cells = [Cell(*pair) for pair in pairs if (explanations, *pair) != (8, "lrp", "captum")]
            # A round of eight takes long, and a few per cent decide about one alone.
            repeats = request.repeats if explanations == 1 else -(-request.repeats // 3)
            fitting = [
                cell for cell in cells if cell.method != "lrp" or not reason_against(*cell[::-1], job.loaded.net)
            ]
            settings = PeersSettings(explanations, request.images, repeats, versions, STEPS[explanations])
            yield Rounds.of(job, cls, fitting, settings, batch_size=request.images)

    @cached_property
    def task(self) -> Task:
        """What is timed."""
        from wcx.checks.captum import Captum

        loaded, settings = self.job.loaded, self.settings
        items = readable(self.job.work, settings.images)
        images = self.normalised(stacked(items).to(self.subject.device))
        with torch.no_grad():
            target = self.network(images).argmax(1)
        # Noise: a constant has ties in max pools, which rounding decides.
        start = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
        captum = Captum(loaded.net, images, loaded.layer)
        return Task(captum, captum.activation(), images, target, start, settings.explanations)

    @cached_property
    def compared(self) -> dict[Cell, Row]:
        """How far each library's maps are from ours, relative (L2), the worst explanation of two images in float64.

        Raises:
            WcxError: they are not the same, though the method is.
        """
        from wcx.checks.captum import ties_as_captum

        rows: dict[Cell, Row] = {}
        exact = in_float64(self.task)
        for cell in self.cells:
            with ties_as_captum() if cell.contrast == "captum" else nullcontext():
                ours = LIBRARIES["wcx"](exact, cell.method).cpu()
            maps = LIBRARIES[cell.contrast](exact, cell.method).detach().cpu()
            expected = as_of(cell.contrast, ours, (exact.images.shape[2], exact.images.shape[3]))
            distance = (maps - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
            difference, reason = float(distance.max()), reason_against(cell.contrast, cell.method, exact.net)
            if not reason and not difference <= TOLERANCE:
                raise WcxError(
                    f"peers: {cell.method} of {cell.contrast} differs from ours by {difference:.1e} of its size (at most "
                    f"{TOLERANCE:.0e}): like would not be compared with like."
                )
            rows[cell] = {"difference": difference, "unlike": reason}
        return rows

    def measure(self, place: int) -> dict[Cell, Row]:
        """See `Timed.measure`: the cells in turns forwards and backwards."""
        rows: dict[Cell, Row] = {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s)Setting forward, backward hooks and attributes on non-linear.*")
            for cell in self.cells[:: 1 if place % 2 else -1]:
                compared = self.compared[cell]
                gc.collect()  # what another library left is not to be cleared away on this one's time
                duration = seconds(partial(LIBRARIES[cell.contrast], self.task, cell.method))
                rows[cell] = {"images": len(self.task.images), "seconds": duration, **compared}
        return rows

    @classmethod
    def summaries(cls, shards: Sequence[Shard]) -> list[Table]:
        """See `Verification.summaries`: a line a method, number of explanations and library."""
        lines = []
        keys = ["dataset", "network", "method", "explanations"]
        for key, rows in _seconds(shards).groupby(keys, sort=False):
            rounds = rows.pivot(index="index", columns="library", values="seconds")
            for library, cell in rows.groupby("library", sort=False):
                facts = cell.iloc[0][["images", "repeats", "threads", "difference", "unlike"]].to_dict()
                ratio = (rounds[library] / rounds["wcx"]).median()
                line = dict(zip(keys, key, strict=True)) | {"library": library, **facts}
                lines.append(line | {"seconds": cell.seconds.median(), "/ wcx": ratio})
        frame = pd.DataFrame(lines)
        return [summary_table(cls.name(), "Beside other libraries", frame, MEANINGS, ".3g")]


def in_float64(task: Task) -> Task:
    """Return the first two images of a task, in float64."""
    captum = copy.copy(task.captum)
    captum.net = copy.deepcopy(task.net).double()
    images: Tensor = task.images[:2].double()
    captum.image = images
    return replace(
        task, captum=captum, layer=captum.activation(), images=images, target=task.target[:2], start=task.start.double()
    )


def _seconds(shards: Sequence[Shard]) -> pd.DataFrame:
    """Return the rows of all rounds, with what their jobs have in common."""
    frames = []
    for shard in shards:
        settings = shard.parts["settings"]
        facts = {key: settings[key] for key in ("explanations", "repeats")} | {"threads": shard.parts["threads"]}
        frames.append(gathered([shard]).assign(**facts).rename(columns={"contrast": "library"}))
    return pd.concat(frames, ignore_index=True)
