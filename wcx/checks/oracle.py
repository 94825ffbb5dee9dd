"""The oracle table: one pass under a contrast against the sum over classes by brute force, and against captum.

The error is norm(one pass - oracle) / sum_s abs(v_s) norm(phi^s). In the brute force every class has a copy of the
image and a forward pass of its own, along a path (integrated gradients, SmoothGrad) at every point of it, in plain autograd.
Alone, not in a batch: a batch may round a convolution another way, and in float32 a ReLU or a max pool on the edge then
decides another way (seen: VGG-16, 1 % of the gradient).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import wcx
from wcx import contrasts, methods
from wcx.checks import cells
from wcx.checks.captum import Captum, reason_against, ties_as_captum
from wcx.checks.cells import Cells, Request, Result
from wcx.checks.specimens import Specimen, specimen
from wcx.errors import WcxError, choose
from wcx.methods.paths import Path, PathRun

CODE = ("images", "methods", "checks/captum")
ORACLES = ("sum over classes", "captum")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # the issue's
STEPS = 2  # of paths; a power of 2, since captum rounds its weights to float32
ALONE = {"batch_size": 1}  # each step by itself, as in brute force: in a batch, float32 rounds otherwise and ReLUs flip


@dataclass(frozen=True)
class Variant:
    """A method with options, under a name for the table; with `noise`, its baseline is noise of the image's shape."""

    label: str
    method: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    noise: bool = False

    def on(self, image: Tensor) -> Variant:
        """Return the variant with all its options for an image."""
        if not self.noise:
            return self
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return replace(self, options={**self.options, "baseline": noise})


def variants() -> list[Variant]:
    """Return every method there is, with LRP's composites, a reference of noise for DeepLIFT, and SmoothGrad beside them."""
    plain: list[Variant] = []
    for name in filter(lambda name: methods.get(name).linear, methods.names()):
        if name == "lrp":
            from wcx.methods.lrp import COMPOSITES

            plain += [Variant(f"lrp ({composite})", name, {"composite": composite}) for composite in COMPOSITES]
        else:
            plain.append(Variant(name, name, {"steps": STEPS, **ALONE} if name == "integrated_gradients" else {}))
    smooth = [
        Variant(f"{name} (smooth)", name, {"samples": STEPS, **ALONE}) for name in ("gradient", "input_x_gradient")
    ]
    return [*plain, Variant("deeplift (noise)", "deeplift", noise=True), *smooth]


class BruteForce:
    """The explanations phi^s of each class of interest, each from a pass of its own; along a path at every point.

    Args:
        image: (1, 3, H, W).
        classes: S class ids.
        chunk: classes a batch.
    """

    def __init__(
        self, net: nn.Module, image: Tensor, variant: Variant, layer: str | None, classes: Sequence[int], chunk: int = 1
    ) -> None:
        run = wcx.Explainer(net, variant.method, layer, **variant.options)(image)
        self.classes = list(classes)
        if isinstance(run, PathRun):
            parts = [self._at_point(net, run._path, s, chunk) for s in range(run._path.steps)]
            self.logits = torch.stack([logits for logits, _ in parts])  # (P, 1, C)
            self.phi = torch.stack([phi for _, phi in parts])  # (P, S, ...)
            return
        self.logits = run.logits[None]
        maps = [
            wcx.explain(
                net, image.repeat(len(part), 1, 1, 1), part, variant.method, "original", layer=layer, **variant.options
            )
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


def compare(subject: Specimen, variant: Variant, dtype: torch.dtype, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of one network, method and precision: each contrast against both oracles, for the first image."""
    net, images = subject.to(dtype)
    image = images[:1]
    variant = variant.on(image)
    with torch.no_grad():
        logits = net(image)
    target, foils = rival_classes(logits)
    classes = [target, *(foils or [s for s in range(logits.shape[1]) if s != target])]
    facts = {
        "network": subject.name,
        "weights": subject.weights,
        "pixels": image.shape[-1],
        "classes": logits.shape[1],
        "foils": len(classes) - 1,
        "method": variant.label,
        "precision": str(dtype).removeprefix("torch."),
        "tolerance": TOLERANCE[dtype],
    }
    layer = subject.layer if methods.get(variant.method).space == "activation" else None
    try:
        run = wcx.Explainer(net, variant.method, layer, **variant.options)(image)

        def ours() -> Tensor:
            return wcx.explain(net, image, target, variant.method, list(names), foils, layer, **variant.options)[:, 0]

        maps = ours()
        brute = BruteForce(net, image, variant, layer, classes)
    except WcxError as error:
        return [facts | _no_number(*pair, "unsupported", error) for pair in product(names, ORACLES)]
    reason = reason_against(variant.method, net, variant.options)
    captum = None if reason else Captum(net, image, run.layer)
    with ties_as_captum():
        as_captum = ours() if variant.method == "deeplift" and captum else maps
    rows = []
    for name, attribution, tied in zip(names, maps, as_captum, strict=True):
        v = _cotangent(name, logits, target, foils, on_path=isinstance(run, PathRun))
        expected, size = brute.combine(v)
        rows.append(facts | _number(name, ORACLES[0], attribution, expected, size, TOLERANCE[dtype]))
        if captum is None:
            rows.append(facts | _no_number(name, ORACLES[1], "not in captum", reason))
        else:
            expected = _ask(captum, variant, name, v, classes)[0]
            rows.append(facts | _number(name, ORACLES[1], tied, expected, size, TOLERANCE[dtype]))
    return rows


def _number(name: str, oracle: str, attribution: Tensor, expected: Tensor, size: float, limit: float) -> dict[str, Any]:
    error = float((attribution - expected).norm()) / size
    status = "ok" if error <= limit else "OVER"
    return {"contrast": name, "oracle": oracle, "error": error, "status": status, "reason": ""}


def _no_number(name: str, oracle: str, status: str, reason: object) -> dict[str, Any]:
    return {"contrast": name, "oracle": oracle, "error": float("nan"), "status": status, "reason": str(reason)}


def _cotangent(
    name: str, logits: Tensor, target: int, foils: list[int] | None, on_path: bool
) -> Tensor | Callable[[Tensor], Tensor]:
    if on_path and contrasts.get(name).path_dependent:
        return lambda at: wcx.cotangent(at, target, name, foils)
    return wcx.cotangent(logits, target, name, foils)


def _ask(captum: Captum, variant: Variant, name: str, v: Any, classes: list[int]) -> Tensor:
    if name == "original":
        return captum.original(variant.method, classes[0], variant.options)
    if callable(v):
        choose("contrast along a path that captum is asked for", name, ["probability"])
        return captum.probability(variant.method, classes, variant.options)
    return captum.contrasted(variant.method, v, variant.options)


def check(request: Request) -> Result:
    """Fill the table for networks x methods x contrasts x precisions and write oracle.csv."""
    chosen = [variant for variant in variants() if variant.method in request.methods]
    steps = list(product(request.networks, TOLERANCE, chosen))
    settings = {"contrasts": list(request.contrasts), "steps": STEPS, "typed": list(request.typed)}
    store = Cells(request.folder, "oracle", CODE, settings)
    specimens: dict[str, Specimen] = {}

    def compute(network: str, dtype: torch.dtype, variant: Variant) -> list[dict[str, Any]]:
        if network not in specimens:
            specimens.clear()  # one network at a time in memory
            specimens[network] = specimen(request, network, 1)
        return compare(specimens[network], variant, dtype, request.contrasts)

    tables = []
    for step in cells.progress(steps, "oracle"):
        network, dtype, variant = step
        key = f"{network}-{str(dtype).removeprefix('torch.')}-{variant.label.replace(' ', '_')}"
        tables.append(store.rows(key, partial(compute, *step)))
    table = pd.concat(tables, ignore_index=True)
    cells.save(table, request.folder, "oracle")
    return Result(text(table), agreed=not (table.status == "OVER").any())


def text(table: pd.DataFrame) -> str:
    """Return the largest error over the contrasts by method and network, for each oracle and precision."""
    reasons = [reason for reason in table.reason.unique() if reason]
    notes = {reason: f"({number})" for number, reason in enumerate(reasons, start=1)}
    blocks = []
    for (oracle, precision), rows in table.groupby(["oracle", "precision"], sort=False):
        worst = rows.pivot_table("error", "method", "network", aggfunc="max", sort=False, dropna=False)
        reason = rows.pivot_table("reason", "method", "network", aggfunc="first", sort=False).replace(notes)
        errors = worst.map("{:.0e}".format).where(worst.notna(), reason)
        limit = f"at most {rows.tolerance.iloc[0]:.0e}"
        blocks.append(f"{oracle}, {precision} ({limit}), the largest over contrasts\n{errors.to_string()}")
    blocks.append("\n".join(f"{note} {reason}" for reason, note in notes.items()))
    over = table[table.status == "OVER"]
    blocks.append(f"{len(table)} cells, {int(table.error.notna().sum())} measured, {len(over)} over the tolerance")
    return "\n\n".join(blocks)
