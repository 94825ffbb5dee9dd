"""What experiments look at: a network with its methods, and its maps of a batch of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from wcx import contrasts
from wcx.contrasts import Confused, Foils
from wcx.errors import WcxError
from wcx.explainer import cotangents, upsample
from wcx.images import device_of
from wcx.methods import Method, Run
from wcx.methods._masked import MaskedMethod, MaskedRun
from wcx.methods._parts import distinct
from wcx.methods.activation import ActivationMethod, ActivationRun
from wcx.methods.base import Cotangent
from wcx.models.evaluation import Evaluation

Question = TypeVar("Question", bound=tuple[str, ...])  # a method, a contrast, and what tells its foils
FoilSetting = int | tuple[int, ...] | str | None  # all others, the k most probable, class ids, or confused:k

GRADIENTS = 2**26  # numbers of the gradients at the input that are made at a time, unless one view needs more


class Cell(NamedTuple):
    """One cell of a table: names as on the command line."""

    method: str
    contrast: str


@dataclass
class Subject:
    """A network and the methods that look at it.

    Attributes:
        model: [0, 1] pixels (N, channels, H, W) -> logits (N, C), on its device.
        layer: of the methods in activation space; None looks for it.
        methods: by the name that cells use.
        contrast_options: for each contrast by name.
        batch_size: images a pass: what bounds the memory.
        passes: counts images: forward (those that a gradient is taken from), backward, and what an experiment adds.
        evaluation: what forward passes that no backward pass follows go through; by default the model itself.
        confusion: of the network, (C, C), see `contrasts.Confused`; only needed by foils that are chosen by it.
        apart: where a layer was found, the layers of the methods whose maps cancel there, None until found.
    """

    model: nn.Module
    layer: str | None
    methods: Mapping[str, Method]
    contrast_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch_size: int = 32
    passes: Counter[str] = field(default_factory=Counter)
    evaluation: Evaluation = field(default=None)  # type: ignore[assignment]  # set below
    confusion: Tensor | None = None
    apart: dict[str, str | None] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.evaluation = self.evaluation or Evaluation(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.model)

    @cached_property
    def zero(self) -> list[float]:
        """The pixel value, one a channel, of zero in the normalised space (the mean colour); 0 for a bare network."""
        return getattr(self.model, "zero", [0.0])

    def foil_masks(self, logits: Tensor, targets: Tensor, foils: FoilSetting) -> Tensor:
        """Return the foils that a setting names of targets (..., N) as masks (..., N, C).

        Raises:
            WcxError: a setting that names none, or foils by a confusion that is not there.
        """
        return contrasts.foil_masks(logits, targets, self.as_foils(foils))

    def as_foils(self, foils: FoilSetting) -> Foils:
        """Return a setting as `wcx.explain` takes it: a tuple, from a list in YAML, is a list of class ids."""
        if (count := Confused.count(foils)) is None:
            return list(foils) if isinstance(foils, tuple) else foils  # type: ignore[return-value]
        if self.confusion is None:
            raise WcxError(f"foils={foils} needs the network's confusion, which was not given.")
        return Confused(count, self.confusion)

    def look(self, pixels: Tensor) -> SeenBatch:
        """Do the first forward pass of pixels (N, channels, H, W) on the subject's device."""
        return SeenBatch(self, pixels)

    def groups(self) -> list[Mapping[str, Method]]:
        """Return the methods in groups that share their passes: those of an activation's gradient, and each other alone."""
        layered = {name: method for name, method in self.methods.items() if isinstance(method, ActivationMethod)}
        names = sorted(layered, key=lambda name: layered[name].may_cancel)  # the layer is the first's
        shared: dict[str, Method] = {name: layered[name] for name in names}
        single = [{name: method} for name, method in self.methods.items() if name not in shared]
        return [shared, *single] if shared else [*single]


class SeenBatch:
    """A batch of images seen by a subject: one forward pass, and further ones only where maps are asked for.

    Attributes:
        logits: (N, C), detached.
    """

    def __init__(self, subject: Subject, pixels: Tensor) -> None:
        self._subject, self._pixels = subject, pixels
        self._groups = subject.groups()
        self._runs: dict[int, Run] = {}
        self._apart: dict[str, ActivationRun] = {}
        self.logits = self._run(0).logits

    def maps(
        self, cells: Sequence[Cell], targets: Tensor, foils: Tensor, places: Tensor | None = None
    ) -> dict[Cell, Tensor]:
        """Return the signed maps of cells: (T, N, h, w) at the layer's resolution, (T, N, channels, H, W) of input methods.

        One backward pass per (target, contrast) for all methods of an activation's gradient together.

        Args:
            cells: of the subject's methods.
            targets: (T, N).
            foils: masks (T, N, C), see `contrasts.foil_masks`.
            places: of the images that maps are wanted of, (n,), which the maps have in the place of N; None: of all. What
                costs passes for each image alone (`MaskedMethod`) is spent on them alone.
        """
        return self.answers(dict.fromkeys(cells, foils), targets, places)

    def answers(
        self, asked: Mapping[Question, Tensor], targets: Tensor, places: Tensor | None = None
    ) -> dict[Question, Tensor]:
        """Return what `maps` returns, of questions that may differ in their foils; a path is walked once for all of them.

        Args:
            asked: the foils of each question, which begins with method and contrast as a cell does. Questions that differ in
                the method alone have the same foils.
            targets: (T, N).
            places: see `maps`.
        """
        answers: dict[Question, Tensor] = {}
        for number, group in enumerate(self._groups):
            questions = {question: foils for question, foils in asked.items() if question[0] in group}
            if not questions:
                continue
            run = self._run(number)
            if places is None:
                answers |= self._answer(run, group, questions, targets)
            elif isinstance(run, MaskedRun):
                questions = {question: foils[:, places] for question, foils in questions.items()}
                answers |= self._answer(run.chosen(places), group, questions, targets[:, places])
            else:  # other runs are of the whole batch: in batches of other sizes their numbers would move by rounding
                maps = self._answer(run, group, questions, targets)
                answers |= {question: each[:, places] for question, each in maps.items()}
        return {question: answers[question] for question in asked}

    def _answer(
        self, run: Run, methods: Mapping[str, Method], asked: Mapping[Question, Tensor], targets: Tensor
    ) -> dict[Question, Tensor]:
        """Return the maps (T, N, ...) of questions to the methods of one group, so many at once as memory holds."""
        views = list(dict.fromkeys(question[1:] for question in asked))
        size = self._at_once(next(iter(methods.values())), len(targets))
        answers: dict[Question, Tensor] = {}
        for start in range(0, len(views), size):
            part = views[start : start + size]
            answers |= self._explain(run, methods, {q: foils for q, foils in asked.items() if q[1:] in part}, targets)
        return answers

    def _at_once(self, method: Method, targets: int) -> int:
        """Return how many (contrast, foils) are explained together, so that memory is bounded.

        A layer's gradients are many times its maps, and are gone before the next are made. Those of the input are its maps, but
        a path has them for a whole batch of its points.
        """
        if isinstance(method, ActivationMethod):
            return 1
        images = max(len(self._pixels), self._subject.batch_size)
        return max(1, GRADIENTS // (targets * images * self._pixels[0].numel()))

    def _explain(
        self, run: Run, methods: Mapping[str, Method], asked: Mapping[Question, Tensor], targets: Tensor
    ) -> dict[Question, Tensor]:
        """Return the maps (T, N, ...) of questions to the methods of one group."""
        options = self._subject.contrast_options
        views = {question[1:]: foils for question, foils in asked.items()}
        v = stacked([cotangents([view[0]], run.logits, targets, foils, options) for view, foils in views.items()])
        maps = self._explained(run, {question[0]: methods[question[0]] for question in asked}, v)
        parts = {name: dict(zip(views, stack.split(len(targets)), strict=True)) for name, stack in maps.items()}
        return {question: parts[question[0]][question[1:]] for question in asked}

    def attributions(self, v: Tensor) -> dict[str, Tensor]:
        """Return the signed maps of every method under cotangents v (K, N, C), frozen: shaped as `maps`, K in the place of T."""
        maps: dict[str, Tensor] = {}
        for number, group in enumerate(self._groups):
            pieces = v.split(self._at_once(next(iter(group.values())), 1))
            parts = [self._explained(self._run(number), group, piece) for piece in pieces]
            maps |= {name: torch.cat(list(map(itemgetter(name), parts))) for name in group}
        return maps

    def _explained(self, run: Run, group: Mapping[str, Method], v: Cotangent) -> dict[str, Tensor]:
        """Return the maps (K, N, ...) of methods of one group under cotangents."""
        if isinstance(run, ActivationRun):  # it walks no path
            return self._at_layers(run, group, v(run.logits) if callable(v) else v)
        self._count(v(run.logits) if callable(v) else v, group)
        before = run.versions
        maps = dict.fromkeys(group, run.explain(v))
        if run.versions > before:
            self._subject.passes["versions"] += run.versions - before
        return maps

    def _count(self, v: Tensor, sharing: Mapping[str, Method]) -> None:
        """Count the backward passes of methods that share them, for cotangents v (K, N, C)."""
        self._subject.passes["backward"] += v.shape[0] * v.shape[1] * len(distinct(sharing.values()))

    def _at_layers(self, run: ActivationRun, group: Mapping[str, Method], v: Tensor) -> dict[str, Tensor]:
        """Return the maps (K, N, h, w) of methods that stop at a layer: the run's or, where they may cancel there, their own."""
        subject = self._subject
        sharing = {name: method for name, method in group.items() if isinstance(method, ActivationMethod)}
        own = {name: sharing.pop(name) for name in subject.apart if name in sharing}
        self._count(v, sharing)
        maps = run.explain_each(sharing, v) if sharing else {}
        for name, method in own.items():
            if name not in self._apart:
                self._apart[name] = method.run(subject.model, self._pixels, subject.apart[name])
                subject.apart[name] = self._apart[name].layer
                subject.passes["forward"] += len(self._pixels)
            self._count(v, {name: method})
            maps |= self._apart[name].explain_each({name: method}, v)
        return maps

    def _run(self, number: int) -> Run:
        if number not in self._runs:
            subject, method = self._subject, next(iter(self._groups[number].values()))
            layer = subject.layer if method.space == "activation" else None
            through = {"network": subject.evaluation.logits} if isinstance(method, MaskedMethod) else {}
            self._runs[number] = run = method.run(subject.model, self._pixels, layer, **through)
            if layer is None and isinstance(run, ActivationRun) and not run.method.may_cancel:
                layered = {n: m for n, m in subject.methods.items() if isinstance(m, ActivationMethod)}
                subject.apart = {n: None for n, m in layered.items() if run.cancels(m)}
            subject.layer = run.layer or subject.layer  # looked for once
            subject.passes["forward"] += len(self._pixels)
        return self._runs[number]


def stacked(parts: Sequence[Cotangent]) -> Cotangent:
    """Return cotangents (K, N, C), some of them functions of the logits, one after the other: a function if one of them is."""

    def at(logits: Tensor) -> Tensor:
        return torch.cat([part(logits) if callable(part) else part for part in parts])

    return at if any(map(callable, parts)) else torch.cat([part for part in parts if isinstance(part, Tensor)])


def at_pixels(maps: Tensor, shape: Sequence[int], align_corners: bool = False) -> Tensor:
    """Return maps (T, N, h, w) up-sampled to (T, N, H, W), or those of the input (T, N, channels, H, W) summed over channels."""
    return maps.sum(2) if maps.ndim == 5 else upsample(maps, (shape[-2], shape[-1]), align_corners)
