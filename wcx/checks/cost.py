"""What explanations cost at C = 1000: time, network passes, memory. All on one network and one batch, in one run.

Times are wall and CPU time of whole `wcx.explain` calls; what is compared is interleaved, and medians are taken. Passes are
counted by hooks. Peak memory is that of a process of its own for each call, less what it held before the call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import wcx
from wcx import methods
from wcx.checks import processes
from wcx.checks.base import Request, gathered, summary_table
from wcx.checks.rounds import Rounds, Timed
from wcx.checks.specimens import opened, reduced
from wcx.errors import choose
from wcx.experiments import Cell, images
from wcx.experiments.base import Row
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.tables import Table

NETWORK = "squeezenet1_1"
IMAGES = 4  # a batch
REPEATS = 15
BRUTE = ("gradcam", "gradient")  # the methods whose thousand classes are explained, too
CLASSES = 20  # of them a round, then weighted
FOUR = ["original", "mean", "max", "weighted"]
CALLS = ("original", "weighted", "together", "separate")  # the last two: four contrasts in one call, or in four
STEPS = 8
DESIGN = {  # the design's table, for K = 4 cotangents: forward, backward to the image or layer
    "gradient": (1, 4),
    "input_x_gradient": (1, 4),
    "gradcam": (1, 4),
    "linear_approximation": (1, 4),
    "xgradcam": (1, 4),
    "case": (1, 2 * 4),
    "scout": (1, 3 * 4),
    "occlusion": (1 + 1 + 169, 0),  # the image for its logits, and with its versions
    "rise": (1 + 1 + 1000, 0),
    "integrated_gradients": (STEPS, 4 * STEPS),
    "deeplift": (2, 4),
    "lrp": (1, 4),
}
MEASURES = {
    "times": ["wall", "cpu"],
    "classes": ["wall", "cpu"],
    "passes": ["forward", "backward", "backward_to_image"],
    "memory": ["peak_mib"],
}
MEANINGS = {
    "network": "",
    "method": "",
    "original_s": "seconds of one contrast, wall time",
    "weighted/original wall": "ratio of medians",
    "weighted/original cpu": "ratio of medians",
    "together/separate wall": "four contrasts in one call and in four",
    "together/separate cpu": "four contrasts in one call and in four",
    "brute/weighted wall": "an explanation a class, all classes, and one under weighted",
    "brute/weighted cpu": "an explanation a class, all classes, and one under weighted",
    "forward": "passes of four contrasts together",
    "backward": "from the logits",
    "backward_to_image": "as far as the first layer's input",
    "design_forward": "the design's number",
    "design_backward": "the design's number",
    **{f"MiB {call}": "peak memory of the call" for call in CALLS},
}
SHOWN = ("network", "method")
TITLES = {  # -> the columns that are shown
    "Seconds, and ratios of them": tuple(name for name in MEANINGS if name.endswith(("_s", "wall", "cpu"))),
    "Passes of four contrasts together": (*MEASURES["passes"], "design_forward", "design_backward"),
    "Peak memory, MiB": tuple(map("MiB {}".format, CALLS)),
}


@dataclass(frozen=True)
class CostSettings:
    """What is measured.

    Attributes:
        measures: times, classes (brute force), passes or memory.
        repeats: rounds.
        images: of the batch.
        side: of the images, in pixels.
        steps: of integrated gradients.
    """

    measures: str
    repeats: int
    images: int = IMAGES
    side: int | None = None
    steps: int = STEPS

    def __post_init__(self) -> None:
        choose("measure", self.measures, MEASURES)


class Cost(Timed):
    """Seconds, passes or peak memory of a call of `CALLS` for the predicted classes, by cell (method, call)."""

    protocol = CostSettings
    measures = MEASURES

    @classmethod
    def jobs(cls, request: Request) -> Iterator[Job]:
        classes = len(request.images("imagenet", NETWORK).class_names)
        rounds = {"times": REPEATS, "classes": -(-classes // CLASSES), "passes": 1, "memory": 1}
        for method, (measures, repeats) in product(request.methods, rounds.items()):
            if (measures != "classes" or method in BRUTE) and (measures != "memory" or processes.STATUS.exists()):
                yield job_of(request, method, measures, repeats)

    def measure(self, place: int) -> dict[Cell, Row]:
        return {
            "times": self._times,
            "classes": self._classes,
            "passes": lambda _: {self.cells[0]: self.passes_of("together")},
            "memory": self._memory,
        }[self.settings.measures](place)

    @cached_property
    def _batch(self) -> Tensor:
        dataset, request = self.job.dataset, self.settings
        pixels = torch.stack([dataset[i][0] for i in images.order(len(dataset), request.images, self.job.seed)])
        return self.normalised(reduced(pixels.to(self.subject.device), request.side))

    @cached_property
    def target(self) -> Tensor:
        """The predicted class of every image, (N,)."""
        with torch.no_grad():
            predicted: Tensor = self.network(self._batch).argmax(1)
        return predicted

    def explain(self, contrast: str | Sequence[str], target: int | None = None) -> Tensor:
        """Return `wcx.explain` for the predicted classes, or one other."""
        name = self.cells[0].method
        layer = self.subject.layer if methods.get(name).space == "activation" else None
        options: dict[str, Any] = {"steps": self.settings.steps} if name == "integrated_gradients" else {}
        explained = self.target if target is None else target
        return wcx.explain(self.network, self._batch, explained, name, contrast, layer=layer, **options)

    def call(self, name: str) -> None:
        """Do one of `CALLS`."""
        contrasts: dict[str, Sequence[str | Sequence[str]]] = {"together": [FOUR], "separate": FOUR}
        for contrast in contrasts.get(name, [name]):
            self.explain(contrast)

    def passes_of(self, name: str) -> Row:
        """Return the passes of whole batches that a call does."""
        size = len(self.target)  # found before the counting begins
        with counted(self.network, size) as passes:
            self.call(name)
        return passes

    @cached_property
    def _warm(self) -> bool:
        for cell in self.cells:
            self.call("weighted" if cell.contrast == "one_class" else cell.contrast)
        return True

    def _times(self, place: int) -> dict[Cell, Row]:
        """Time every cell, in turns forwards and backwards."""
        assert self._warm
        return {cell: clocked(partial(self.call, cell.contrast)) for cell in self.cells[:: 1 if place % 2 else -1]}

    def _classes(self, place: int) -> dict[Cell, Row]:
        """Time one explanation of each of the round's classes, together, and one under weighted."""
        assert self._warm
        classes = range(len(self.job.class_names()))[place * CLASSES : (place + 1) * CLASSES]

        def each() -> None:
            for s in classes:
                self.explain("original", s)

        calls: dict[str, Callable[[], None]] = {"one_class": each, "weighted": partial(self.call, "weighted")}
        return {cell: clocked(calls[cell.contrast]) for cell in self.cells}

    def _memory(self, _place: int) -> dict[Cell, Row]:
        return {cell: {"peak_mib": processes.alone(peak_of, self.job.reopen, cell.contrast)} for cell in self.cells}

    @classmethod
    def summaries(cls, shards: Sequence[Shard]) -> list[Table]:
        """See `Verification.summaries`: a line a method; what was measured of none (classes, memory) has no column."""
        frames = [gathered([shard]).assign(measures=shard.parts["settings"]["measures"]) for shard in shards]
        groups = pd.concat(frames).groupby(["network", "method"], sort=False)
        summed = summary_table(cls.name(), "", pd.DataFrame([_line(*group) for group in groups]), MEANINGS)
        shown = {title: tuple(filter(summed.frame.columns.__contains__, names)) for title, names in TITLES.items()}
        return [
            replace(summed, title=f"{title}, a batch of {IMAGES}", shown=SHOWN + names)
            for title, names in shown.items()
            if names
        ]


def job_of(request: Request, method: str, measures: str, repeats: int) -> Rounds:
    """Return the job of one method and measure, in this process or one of its own."""
    dataset, loaded, side = opened(request, NETWORK, IMAGES)
    ways = {"classes": ("one_class", "weighted"), "passes": ("together",)}.get(measures, CALLS)
    return Rounds(
        Cost,
        dataset,
        loaded,
        [Cell(method, way) for way in ways],
        CostSettings(measures, repeats, side=side),
        seed=request.seed,
        results_dir=request.common["results_dir"],
        batch_size=IMAGES,
        reopen=partial(job_of, request, method, measures, repeats),
    )


def peak_of(reopen: Callable[[], Rounds], call: str) -> float:
    """Return the peak memory (MiB) of one of `CALLS`, beyond what the process held before: for a process of its own."""
    job = reopen()
    cost = job.opened(job.cells)
    assert isinstance(cost, Cost)
    assert len(cost.target)  # the batch and its classes are held
    before = processes.mebibytes("VmRSS")
    cost.call(call)
    return processes.mebibytes("VmHWM") - before


def clocked(function: Callable[[], object]) -> Row:
    """Return wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


@contextmanager
def counted(net: nn.Module, size: int) -> Iterator[dict[str, float]]:
    """Count passes of whole batches of `size`: forward, and backward from the logits and as far as the first module's input."""
    first = next(module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
    passes = dict.fromkeys(MEASURES["passes"], 0.0)

    def watch(tensor: Tensor, kind: str) -> None:
        def add(_gradient: Tensor) -> None:
            passes[kind] += len(tensor) / size

        if tensor.requires_grad:
            tensor.register_hook(add)

    def output(_module: nn.Module, _args: Any, logits: Tensor) -> None:
        passes["forward"] += len(logits) / size
        watch(logits, "backward")

    at_first = first.register_forward_pre_hook(lambda _module, args: watch(args[0], "backward_to_image"))
    with at_first, net.register_forward_hook(output):
        yield passes


def _line(key: tuple[str, str], rows: pd.DataFrame) -> Mapping[str, Any]:
    """Return the summary of one network and method."""
    line: dict[str, Any] = dict(zip(("network", "method"), key, strict=True))
    of = dict(iter(rows.groupby("measures", sort=False)))
    for clock in ("wall", "cpu"):
        median = of["times"].groupby("contrast")[clock].median()
        if clock == "wall":
            line["original_s"] = median["original"]
        line[f"weighted/original {clock}"] = median["weighted"] / median["original"]
        line[f"together/separate {clock}"] = median["together"] / median["separate"]
        if "classes" in of:
            brute = of["classes"].groupby("contrast")[clock]
            line[f"brute/weighted {clock}"] = brute.sum()["one_class"] / brute.median()["weighted"]
    line |= of["passes"][MEASURES["passes"]].iloc[0].to_dict()
    line |= dict(zip(("design_forward", "design_backward"), DESIGN.get(key[1], (None, None)), strict=True))
    if "memory" in of:
        line |= {f"MiB {call}": mib for call, mib in of["memory"][["contrast", "peak_mib"]].to_numpy()}
    return line
