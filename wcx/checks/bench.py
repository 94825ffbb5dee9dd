"""What an experiment costs beyond the network passes that it needs, as ratios measured in one run.

- ours / bare: the experiment against the same passes of the bare network, batch by batch, with nothing between them.
- naive / ours: against a loop as most people would write it.
- peak memory, of a process of its own, for few and for many images.

Machines are shared and noisy: the runs take turns, and medians are told. With one thread on a CPU (OMP_NUM_THREADS=1) the
seconds are the process's own, which others on the machine cannot lengthen.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

import wcx
from wcx import contrasts, methods, pipeline
from wcx.checks import processes
from wcx.checks.cells import readable
from wcx.errors import choose
from wcx.experiments import images
from wcx.experiments.hiding import KEPT, as_foils
from wcx.images import device_of, make_baseline
from wcx.pipeline import Job


class Bench(ABC):
    """An experiment's work on the first images of a job, in three ways.

    Args:
        job: whose cells, settings and batch size are used.
        count: images.

    Attributes:
        parts: what can be measured.
        naive_images: the naive loop does at most so many; its time is scaled to all images.
        passes: that the experiment does, in images.

    Raises:
        WcxError: a setting that the naive loop does not know.
    """

    parts: ClassVar[tuple[str, ...]] = ("time", "memory")
    naive_images: ClassVar[int | None] = None

    def __init__(self, job: Job, count: int) -> None:
        self.job, self.model = job, job.loaded.model
        self.items = readable(job.read(images.order(len(job.dataset), count, 0)))
        self.pixels = torch.stack([item.pixels for item in self.items if item.pixels is not None])
        self.pixels = self.pixels.to(device_of(self.model))
        self.few = len(self.pixels[: self.naive_images])
        self.passes = self.ours()  # warms up, too

    def ours(self) -> Counter[str]:
        """Run the experiment on decoded images; return the passes done, in images."""
        experiment = self.job.opened(self.job.cells)
        experiment.rows(self.items)
        return experiment.subject.passes

    @abstractmethod
    def bare(self) -> None:
        """Do as many passes as the experiment, at the same batch size."""

    @abstractmethod
    def naive(self) -> None:
        """Do the same work as most people would write it, on the first `naive_images`."""

    @abstractmethod
    def compared(self) -> str:
        """Return what the experiment's passes are to be compared with."""


class MaskingBench(Bench):
    """Naive: one image at a time, a fresh forward pass and a new blur in two dimensions for every cell, target and mask."""

    naive_images = 4  # it is slow

    def __init__(self, job: Job, count: int) -> None:
        choose("mask of the naive loop", job.settings.mask, ["sign"])
        super().__init__(job, count)

    def bare(self) -> None:
        """See `Bench.bare`."""
        passes, size = self.passes["forward"] + self.passes["masked"], self.job.batch_size
        batch = self.pixels.repeat(-(-size // len(self.pixels)), 1, 1, 1)
        with torch.inference_mode():
            for start in range(0, passes, size):
                self.model(batch[: min(size, passes - start)])

    @torch.no_grad()
    def naive(self) -> None:
        """See `Bench.naive`."""
        for image in self.pixels[: self.few].split(1):
            for method, contrast in self.job.cells:
                for rank in range(self.job.settings.targets):
                    t = int(self.model(image)[0].sort(descending=True).indices[rank])
                    self._mask(image, self._explain(image, t, method, contrast))

    def compared(self) -> str:
        """See `Bench.compared`."""
        settings, count = self.job.settings, len(self.items)
        masked = len(self.job.cells) * settings.targets * len(KEPT) * len(settings.baselines)
        return f"without sharing {count} + {count * masked} masked"

    def _explain(self, image: Tensor, target: int, method: str, contrast: str) -> Tensor:
        """Return the map (1, H, W) of one image."""
        job, foils = self.job, as_foils(self.job.settings.foils)
        layer = job.loaded.layer if methods.get(method).space == "activation" else None
        options = dict(job.contrast_options.get(contrast, {}))
        chosen = job.method_options.get(method, {})
        explanation = wcx.explain(self.model, image, target, method, contrast, foils, layer, options, **chosen)
        if explanation.ndim == 4:
            return explanation.sum(1)
        return wcx.upsample(explanation, (image.shape[2], image.shape[3]))

    def _mask(self, image: Tensor, phi: Tensor) -> None:
        for name in self.job.settings.baselines:
            for kept in KEPT:
                hidden = phi < 0 if kept == "positive" else phi > 0
                self.model(torch.where(hidden[:, None], self._baseline(name, image), image))

    def _baseline(self, name: str, image: Tensor) -> Tensor:
        if name != "blur":
            return make_baseline(name, image)
        side = image.shape[-1]
        kernel = 2 * (round(self.job.settings.blur_kernel * side / 224) // 2) + 1
        blurred: Tensor = F.gaussian_blur(image, [kernel, kernel], [15 * side / 224] * 2)
        return blurred


class PerturbationBench(Bench):
    """Bare: forward with a graph, backward to the pixels, forward without a graph. Naive: see `naive`."""

    parts = ("estimate", "time", "memory")

    def __init__(self, job: Job, count: int) -> None:
        for cell in job.cells:
            choose("method to compare with", cell.method, ["gradient"])
        choose("precision to compare with", job.settings.precision, ["float32"])
        choose("target_rule to compare with", job.settings.target_rule, ["label"])
        super().__init__(job, count)

    def bare(self) -> None:
        """See `Bench.bare`."""
        least, walks = self.job.settings.passes(len(self.job.cells)), len(self.job.cells)
        parameters = [parameter.requires_grad_(False) for parameter in self.model.parameters()]
        for pixels in self.pixels.split(self.job.batch_size):
            for i in range(least["forward"]):
                x = pixels.clone().requires_grad_()
                y = self.model(x)
                for _ in range(walks if i == 0 else 1):
                    torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=i == 0)
            with torch.inference_mode():
                for _ in range(least["evaluation"]):
                    self.model(pixels)
        for parameter in parameters:
            parameter.requires_grad_()

    def naive(self) -> None:
        """See `Bench.naive`: for every contrast and number of steps a fresh start and evaluations of its own, at the same batch.

        And `backward()`, with the parameters left requiring gradients.
        """
        size = self.job.batch_size
        labels = torch.tensor([item.label for item in self.items]).to(self.pixels.device)
        for x, t in zip(self.pixels.split(size), labels.split(size), strict=True):
            for cell in self.job.cells:
                for n in self.job.settings.iterations:
                    self._walk(x, t, cell.contrast, n)
        self.model.zero_grad(set_to_none=True)

    def compared(self) -> str:
        """See `Bench.compared`."""
        least = self.job.settings.passes(len(self.job.cells))
        return f"the least: { {name: count * len(self.items) for name, count in least.items()} }"

    def _walk(self, x0: Tensor, t: Tensor, contrast: str, n: int) -> None:
        epsilon, options = self.job.settings.epsilon, self.job.contrast_options.get(contrast, {})
        with torch.no_grad():
            clean = self.model(x0)
            clean.softmax(1).gather(1, t[:, None])
            foils = contrasts.foil_masks(clean, t, as_foils(self.job.settings.foils))
        x = x0
        for _ in range(n):
            x = x.detach().requires_grad_()
            y = self.model(x)
            v = contrasts.evaluate(contrast, y.detach(), t, foils, **options)
            (v * y).sum().backward()
            assert x.grad is not None
            x = torch.clamp(x + epsilon / n * x.grad.sign(), x0 - epsilon, x0 + epsilon).clamp(0, 1)
        with torch.no_grad():
            self.model(x).softmax(1).gather(1, t[:, None])


BENCHES: dict[str, type[Bench]] = {"masking": MaskingBench, "sign_perturbation": PerturbationBench}


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds of one call: of this process alone, if it has one thread on a CPU."""
    serial = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = time.process_time if serial else time.perf_counter
    start = clock()
    function()
    return clock() - start


def measure(bench: Bench, repeats: int) -> list[str]:
    """Return the ratios of one (dataset, model), as lines."""
    calls = {"ours": bench.ours, "bare": bench.bare, "naive": bench.naive}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call))
    median = {name: statistics.median(values) for name, values in times.items()}
    median["naive"] *= len(bench.items) / bench.few
    job, threads = bench.job, torch.get_num_threads()
    head = f"{job.dataset.name} {job.loaded.name}: {len(bench.items)} images, {len(job.cells)} cells"
    return [
        f"{head}, batches of {job.batch_size}, {threads} threads, {repeats} repeats",
        f"  passes (images): {dict(bench.passes)}; {bench.compared()}",
        f"  seconds (median): {', '.join(f'{name} {value:.1f}' for name, value in median.items())}",
        f"  ours / bare {median['ours'] / median['bare']:.2f}; naive / ours {median['naive'] / median['ours']:.2f}",
    ]


def memory(open_job: Callable[[], Job], counts: Sequence[int]) -> str:
    """Return the peak memory, in processes of their own that make the records of so many images, as a line.

    Args:
        open_job: can be pickled.
        counts: of images.
    """
    peaks = [processes.alone(peak, open_job, count) for count in counts]
    listed = ", ".join(f"{mib:.0f} MiB for {count} images" for mib, count in zip(peaks, counts, strict=True))
    return f"peak memory {listed}: ratio {peaks[-1] / peaks[0]:.2f}"


def peak(open_job: Callable[[], Job], count: int) -> float:
    """Make the records of so many images; return the peak memory of this process, MiB."""
    with tempfile.TemporaryDirectory() as folder:
        job = dataclasses.replace(open_job(), limit=count, results_dir=Path(folder))
        pipeline.run(job, quiet=True)
    return processes.mebibytes("VmHWM")
