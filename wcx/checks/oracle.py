"""The oracle table: one pass under a contrast against the sum over classes by brute force, and against captum.

In the brute force every class has a copy of the image and a forward pass of its own, along a path (integrated gradients,
SmoothGrad) at every point of it, in plain autograd. Alone, not in a batch: a batch may round a convolution another way, and in
float32 a ReLU or a max pool on the edge then decides another way (seen: VGG-16, 1 % of the gradient).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import wcx
from wcx import contrasts, methods
from wcx.checks.base import FACTS, Request, Verification, gathered
from wcx.checks.captum import Captum, reason_against, ties_as_captum
from wcx.checks.specimens import opened, reduced
from wcx.errors import WcxError, choose
from wcx.experiments import Cell
from wcx.experiments.base import Row
from wcx.experiments.images import Item
from wcx.methods import Method
from wcx.methods.paths import Path, PathRun
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report.tables import Column, Span, Spread, Table

ORACLES = {"classes": "sum over classes", "captum": "captum"}
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}  # the issue's
STEPS = 2  # of paths; a power of 2, since captum rounds its weights to float32
ALONE = {"batch_size": 1}  # each step by itself, as in brute force: in a batch, float32 rounds otherwise and ReLUs flip
COLUMNS = (
    Column("method"),
    Column("network"),
    Column("shown", "the largest error over the contrasts, or why there is none"),
)


@dataclass(frozen=True)
class Variant:
    """A method with options, under a name for the table.

    Attributes:
        label: the name.
        method: the method's.
        options: of the method.
        noise: its baseline is noise of the image's shape.
        side: images are reduced to so many pixels; None leaves them.
        captum: the version that is asked.
    """

    label: str
    method: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    noise: bool = False
    side: int | None = None
    captum: str = version("captum")

    def on(self, image: Tensor) -> dict[str, Any]:
        """Return all options for an image (1, 3, H, W)."""
        if not self.noise:
            return self.options
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return {**self.options, "baseline": noise}


def variants() -> list[Variant]:
    """Return every linear method of gradients, LRP's composites, a reference of noise for DeepLIFT, and SmoothGrad beside them."""
    plain: list[Variant] = []
    for name in filter(lambda name: methods.get(name).linear, methods.of_gradients()):
        if name == "lrp":
            from wcx.methods.lrp import COMPOSITES

            plain += [Variant(f"lrp ({composite})", name, {"composite": composite}) for composite in COMPOSITES]
        else:
            plain.append(Variant(name, name, {"steps": STEPS, **ALONE} if name == "integrated_gradients" else {}))
    smooth = [
        Variant(f"{name} (smooth)", name, {"samples": STEPS, **ALONE}) for name in ("gradient", "input_x_gradient")
    ]
    return [*plain, Variant("deeplift (noise)", "deeplift", noise=True), *smooth]


class Oracle(Verification):
    """error = norm(one pass - oracle) / sum_s abs(v_s) norm(phi^s), for the predicted class of the first image.

    A row has both oracles in both precisions; where there is no number, it says why.
    """

    protocol = Variant

    @classmethod
    def jobs(cls, request: Request) -> Iterator[Job]:
        chosen = [variant for variant in variants() if variant.method in request.methods]
        for network in request.networks:
            dataset, loaded, side = opened(request, network, 1)
            for variant in chosen:
                cells = [Cell(variant.method, contrast) for contrast in request.contrasts]
                settings, options = replace(variant, side=side), {variant.method: variant.options}
                arguments = {"cells": cells, "settings": settings, "method_options": options, "limit": 1}
                yield request.job(cls, 1, 1, dataset=dataset, loaded=loaded, **arguments)

    @classmethod
    def columns(cls, settings: Variant, boxes: bool = False) -> list[str]:  # noqa: ARG003
        numbers = product(("error", "reason"), ORACLES, TOLERANCE)
        return [*FACTS, "pixels", "classes", "foils", *map("/".join, numbers)]

    def passes(self) -> Counter[str]:
        """See `Experiment.passes`: of the brute force with 20 foils; captum's are as many."""
        points = STEPS if self.settings.options.keys() & {"steps", "samples"} else 1
        return Counter(forward=2 * 21 * points * len(TOLERANCE), backward=2 * 21 * points * len(TOLERANCE))

    def measured(self, batch: Sequence[Item], pixels: Tensor) -> Mapping[Cell, Sequence[Row]]:
        inputs = self.normalised(reduced(pixels, self.settings.side))
        rows = self.blank(batch)
        for precision, (k, image) in product(TOLERANCE, enumerate(inputs.split(1))):
            for cell, row in self._compared(image, precision).items():
                rows[cell][k] |= row
        return rows

    def _compared(self, image: Tensor, precision: str) -> dict[Cell, Row]:
        """Return what both oracles say of one image (1, 3, H, W) in one precision."""
        dtype = getattr(torch, precision)
        net, image = copy.deepcopy(self.network).to(dtype), image.to(dtype)
        settings, names = self.settings, [cell.contrast for cell in self.cells]
        options = settings.on(image)
        method = methods.create(settings.method, **options)
        layer = self.subject.layer if method.space == "activation" else None
        with torch.no_grad():
            logits = net(image)
        target, foils = rival_classes(logits)
        classes = [target, *(foils or [s for s in range(logits.shape[1]) if s != target])]
        facts = {"pixels": image.shape[-1], "classes": logits.shape[1], "foils": len(classes) - 1}

        def ours() -> Tensor:
            return wcx.explain(net, image, target, method, names, foils, layer)[:, 0]

        try:
            run = wcx.Explainer(net, method, layer)(image)
            maps = ours()
            brute = BruteForce(net, image, method, layer, classes)
        except WcxError as error:
            refusal = {f"reason/{oracle}/{precision}": str(error) for oracle in ORACLES}
            return {cell: facts | refusal for cell in self.cells}  # noqa: C420  # each has a row of its own
        reason = reason_against(settings.method, net, options)
        captum = None if reason else Captum(net, image, run.layer)
        with ties_as_captum():
            as_captum = ours() if settings.method == "deeplift" and captum else maps
        rows = {}
        for cell, attribution, tied in zip(self.cells, maps, as_captum, strict=True):
            v = _cotangent(cell.contrast, logits, target, foils, on_path=isinstance(run, PathRun))
            expected, size = brute.combine(v)
            row: Row = {f"error/classes/{precision}": float((attribution - expected).norm()) / size}
            if captum is None:
                row[f"reason/captum/{precision}"] = reason
            else:
                answer = _ask(captum, settings.method, options, cell.contrast, v, classes)[0]
                row[f"error/captum/{precision}"] = float((tied - answer).norm()) / size
            rows[cell] = facts | row
        return rows

    @classmethod
    def summaries(cls, shards: Sequence[Shard]) -> list[Table]:
        """See `Verification.summaries`: the largest error over the contrasts, a table an oracle and precision."""
        rows = errors(shards)
        reasons = [reason for reason in rows.reason.unique() if reason]
        places = {reason: f"({place})" for place, reason in enumerate(reasons, start=1)}
        tables = []
        for (oracle, precision), part in rows.groupby(["oracle", "precision"], sort=False):
            grouped = part.groupby(["method", "network"], sort=False)
            worst = grouped.agg(error=("error", "max"), reason=("reason", "first"), n=("error", "count")).reset_index()
            worst["shown"] = worst.error.map("{:.0e}".format).where(worst.error.notna(), worst.reason.map(places))
            worst = worst.assign(oracle=oracle, precision=precision, tolerance=TOLERANCE[precision])
            title = f"{ORACLES[oracle]}, {precision} (at most {TOLERANCE[precision]:.0e}), the largest over contrasts"
            spread = Spread(("method",), (Span("shown", ("network",), headed=False),))
            noted = "; ".join(f"{place} {reason}" for reason, place in places.items() if reason in set(worst.reason))
            tables.append(Table(cls.name(), title, COLUMNS, worst, note=noted, spread=spread))
        return tables

    @classmethod
    def disagreements(cls, shards: Sequence[Shard]) -> int:
        """Return how many errors are over the tolerance."""
        rows = errors(shards)
        return int((rows.error > rows.precision.map(TOLERANCE)).sum())

    @classmethod
    def remark(cls, shards: Sequence[Shard]) -> str:
        rows = errors(shards)
        measured = int(rows.error.notna().sum())
        return f"{len(rows)} cells, {measured} measured, {cls.disagreements(shards)} over the tolerance"


def errors(shards: Sequence[Shard]) -> pd.DataFrame:
    """Return a row for each cell, oracle and precision; `method` is the variant's label, `reason` "" where there is a number."""
    frames = [
        gathered([shard], "oracle", "precision").assign(method=shard.parts["settings"]["label"]) for shard in shards
    ]
    rows = pd.concat(frames, ignore_index=True)
    return rows.assign(reason=rows.reason.astype(object).fillna(""))


class BruteForce:
    """The explanations phi^s of each class of interest, each from a pass of its own; along a path at every point.

    Args:
        net: normalised images -> logits.
        image: (1, 3, H, W).
        method: with its options.
        layer: of a method in activation space.
        classes: S class ids.
        chunk: classes a batch.
    """

    def __init__(
        self, net: nn.Module, image: Tensor, method: Method, layer: str | None, classes: Sequence[int], chunk: int = 1
    ) -> None:
        run = wcx.Explainer(net, method, layer)(image)
        self.classes = list(classes)
        if isinstance(run, PathRun):
            parts = [self._at_point(net, run._path, s, chunk) for s in range(run._path.steps)]
            self.logits = torch.stack([logits for logits, _ in parts])  # (P, 1, C)
            self.phi = torch.stack([phi for _, phi in parts])  # (P, S, ...)
            return
        self.logits = run.logits[None]
        maps = [
            wcx.explain(net, image.repeat(len(part), 1, 1, 1), part, method, "original", layer=layer)
            for part in torch.tensor(self.classes).split(chunk)
        ]
        self.phi = torch.cat(maps)[None]

    def _at_point(self, net: nn.Module, walk: Path, step: int, chunk: int) -> tuple[Tensor, Tensor]:
        x = walk.point(step)
        maps = []
        for part in torch.tensor(self.classes).split(chunk):
            copies = x.repeat(len(part), 1, 1, 1).requires_grad_()
            (gradient,) = torch.autograd.grad(net(copies).gather(1, part[:, None]).sum(), copies)
            maps.append(gradient)
        factor = 1 if walk.factor is None else walk.factor(step)
        with torch.no_grad():
            return net(x), float(walk.weights[step]) * torch.cat(maps) * factor

    def combine(self, v: Tensor | Callable[[Tensor], Tensor]) -> tuple[Tensor, float]:
        """Return sum_s v_s phi^s and sum_s abs(v_s) norm(phi^s), for v (1, C) or a function of each point's logits."""
        v_at = torch.stack([v(logits) if callable(v) else v for logits in self.logits])
        at_points, phi = v_at[:, 0, self.classes].to(self.phi), self.phi.flatten(2)
        if not callable(v):
            at_points, phi = at_points[:1], phi.sum(0, keepdim=True)
        total = torch.einsum("ps,psd->d", at_points, phi).reshape(self.phi.shape[2:])
        return total, float((at_points.abs() * phi.norm(dim=2)).sum())


def rival_classes(logits: Tensor, limit: int = 50, count: int = 20, seed: int = 0) -> tuple[int, list[int] | None]:
    """Return the predicted class of one image's logits (1, C), and its foils.

    None (all others) up to `limit` classes, else `count` at random.
    """
    target, classes = int(logits.argmax(1)), logits.shape[1]
    if classes <= limit:
        return target, None
    shuffled = torch.randperm(classes, generator=torch.Generator().manual_seed(seed)).tolist()
    return target, sorted([s for s in shuffled if s != target][:count])


def _cotangent(
    name: str, logits: Tensor, target: int, foils: list[int] | None, on_path: bool
) -> Tensor | Callable[[Tensor], Tensor]:
    if on_path and contrasts.get(name).path_dependent:
        return lambda at: wcx.cotangent(at, target, name, foils)
    return wcx.cotangent(logits, target, name, foils)


def _ask(captum: Captum, method: str, options: dict[str, Any], name: str, v: Any, classes: list[int]) -> Tensor:
    if name == "original":
        return captum.original(method, classes[0], options)
    if callable(v):
        choose("contrast along a path that captum is asked for", name, ["probability"])
        return captum.probability(method, classes, options)
    return captum.contrasted(method, v, options)
