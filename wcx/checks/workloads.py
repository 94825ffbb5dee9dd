"""What an experiment does on a few images, in three ways: as it is, with bare passes alone, and as most people would write it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections import Counter
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

import wcx
from wcx import contrasts, methods
from wcx.errors import choose
from wcx.experiments import images
from wcx.experiments.hiding import KEPT
from wcx.experiments.images import Item
from wcx.images import device_of, make_baseline
from wcx.pipeline import Job


class Workload(ABC):
    """An experiment's work on the first images of a job.

    Args:
        job: whose cells, settings and batch size are used.
        count: images.

    Attributes:
        parts: what can be measured.
        naive_images: the naive loop does at most so many; its time is scaled to all images.
        passes: that the experiment does, in images.

    Raises:
        WcxError: a setting that the naive loop does not know; an image that cannot be read.
    """

    parts: ClassVar[tuple[str, ...]] = ("time", "memory")
    naive_images: ClassVar[int | None] = None

    def __init__(self, job: Job, count: int) -> None:
        self.job, self.model = job, job.loaded.model
        self.items = readable(job, count)
        self.pixels = images.stacked(self.items).to(device_of(self.model))
        self.few = len(self.pixels[: self.naive_images])
        self.passes = self.ours()  # warms up, too

    def ours(self) -> Counter[str]:
        """Run the experiment on decoded images; return the passes done, in images."""
        experiment = self.job.opened(self.job.cells)
        experiment.rows(self.items)
        return experiment.subject.passes

    def plain(self) -> None:
        """Run the experiment where evaluation passes go through the network as it is, in float32."""
        self._plain.opened(self.job.cells).rows(self.items)

    @cached_property
    def _plain(self) -> Job:
        precision = {"evaluation_precision": "float32"} if hasattr(self.job.settings, "evaluation_precision") else {}
        return dataclasses.replace(
            self.job, evaluation="eager", settings=dataclasses.replace(self.job.settings, **precision)
        )

    @abstractmethod
    def bare(self) -> None:
        """Do as many passes as the experiment, at the same batch size, through the same copy of the network."""

    @abstractmethod
    def naive(self) -> None:
        """Do the same work as most people would write it, on the first `naive_images`."""

    @abstractmethod
    def compared(self) -> Counter[str]:
        """Return the passes that the experiment's are to be compared with, in images."""


def readable(job: Job, count: int) -> list[Item]:
    """Return the first images of a job.

    Raises:
        DataError: one of them cannot be read.
    """
    items = job.read(images.order(len(job.dataset), count, 0))
    for item in items:
        if item.error is not None:
            raise item.error
    return items


class MaskingWork(Workload):
    """Naive: one image at a time, a fresh forward pass and a new blur in two dimensions for every cell, target and mask."""

    parts = ("time", "memory", "peers")
    naive_images = 4  # it is slow

    def __init__(self, job: Job, count: int) -> None:
        choose("mask of the naive loop", job.settings.mask, ["sign"])
        super().__init__(job, count)

    def bare(self) -> None:
        size, evaluation = self.job.batch_size, self.job.evaluator
        batch = self.pixels.repeat(-(-size // len(self.pixels)), 1, 1, 1)
        with torch.inference_mode():
            prepared = evaluation.prepare(batch)
            for network, images, passes in ((self.model, batch, "forward"), (evaluation, prepared, "masked")):
                for start in range(0, self.passes[passes], size):
                    network(images[: min(size, self.passes[passes] - start)])

    @torch.no_grad()
    def naive(self) -> None:
        for image in self.pixels[: self.few].split(1):
            for method, contrast in self.job.cells:
                for rank in range(self.job.settings.targets):
                    t = int(self.model(image)[0].sort(descending=True).indices[rank])
                    self._mask(image, self._explain(image, t, method, contrast))

    def compared(self) -> Counter[str]:
        settings, count = self.job.settings, len(self.items)
        masked = len(self.job.cells) * settings.targets * len(KEPT) * len(settings.baselines)  # no mask is shared
        return Counter(forward=count, masked=count * masked)

    def _explain(self, image: Tensor, target: int, method: str, contrast: str) -> Tensor:
        """Return the map (1, H, W) of one image."""
        job, foils = self.job, self.job.subject([]).as_foils(self.job.settings.foils)
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


class PerturbationWork(Workload):
    """Bare: forward with a graph, backward to the pixels, forward without a graph. Naive: see `naive`."""

    parts = ("estimate", "time", "memory")

    def __init__(self, job: Job, count: int) -> None:
        for cell in job.cells:
            choose("method to compare with", cell.method, ["gradient"])
        choose("precision to compare with", job.settings.precision, ["float32"])
        choose("target_rule to compare with", job.settings.target_rule, ["label"])
        super().__init__(job, count)

    def bare(self) -> None:
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
                    self.job.evaluator.logits(pixels)
        for parameter in parameters:
            parameter.requires_grad_()

    def naive(self) -> None:
        """See `Workload.naive`: for every contrast and number of steps a fresh start and evaluations of its own, at the same batch.

        And `backward()`, with the parameters left requiring gradients.
        """
        size = self.job.batch_size
        labels = torch.tensor([item.label for item in self.items]).to(self.pixels.device)
        for x, t in zip(self.pixels.split(size), labels.split(size), strict=True):
            for cell in self.job.cells:
                for n in self.job.settings.iterations:
                    self._walk(x, t, cell.contrast, n)
        self.model.zero_grad(set_to_none=True)

    def compared(self) -> Counter[str]:
        least = self.job.settings.passes(len(self.job.cells))
        return Counter({name: count * len(self.items) for name, count in least.items()})

    def _walk(self, x0: Tensor, t: Tensor, contrast: str, n: int) -> None:
        epsilon, options = self.job.settings.epsilon, self.job.contrast_options.get(contrast, {})
        with torch.no_grad():
            clean = self.model(x0)
            clean.softmax(1).gather(1, t[:, None])
            foils = self.job.subject([]).foil_masks(clean, t, self.job.settings.foils)
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


WORKLOADS: dict[str, type[Workload]] = {"masking": MaskingWork, "sign_perturbation": PerturbationWork}
