r"""Gradient-sign perturbation (section 5.1, Fig. 3): walk along the sign of an explanation, and see what becomes of y_t and p_t.

    x^{j+1} = clamp(x^j + a sign(phi(x^j)), max(x^0 - eps, 0), min(x^0 + eps, 1)),    a = eps / n,    j = 0 ... n - 1

in pixel space [0, 1], phi evaluated afresh at every x^j. (The paper prints the clamp with min and max exchanged.) Where phi is 0,
the pixel stays.

No pass is done twice: the clean image's forward pass serves all contrasts and all n, and its logits are y_t and p_t before;
a contrast's first gradient serves all n; the forward pass at x^j is the one that the gradient there is taken from; the last
image needs a forward pass only. For K contrasts and n = 1, 2, 10: 1 + 13 K forward and 11 K backward passes an image.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor

from wcx.errors import WcxError, choose
from wcx.experiments._walks import Walks
from wcx.experiments.base import Cell, Experiment, FoilSetting, Keep, Row, Subject
from wcx.experiments.images import Item, stacked
from wcx.explainer import Explainer
from wcx.models import precision

TARGET_RULES = ("label", "predicted")

log = logging.getLogger("wcx")


@dataclass(frozen=True)
class Settings:
    """The protocol. Defaults are what the paper prints.

    Attributes:
        epsilon: largest change of a pixel, in [0, 1].
        iterations: the numbers of steps n, each a walk of its own with a = epsilon / n.
        target_rule: t is the image's ``label``, or the class ``predicted`` for the clean image.
        precision: of the computation; see `wcx.models.precision` and docs/protocols.md.
        foils: of the contrasts; None is every other class, an int k the k most probable others of the clean image.

    Raises:
        WcxError: a value outside of these.
    """

    epsilon: float = 1e-3
    iterations: tuple[int, ...] = (1, 2, 10)
    target_rule: str = "label"
    precision: str = "float32"
    foils: FoilSetting = None

    def __post_init__(self) -> None:
        choose("target_rule", self.target_rule, TARGET_RULES)
        precision.get(self.precision)
        if not 0 < self.epsilon <= 1:
            raise WcxError(f"epsilon = {self.epsilon} is no change of a pixel in [0, 1]; give a number such as 0.001.")
        counts = self.iterations
        if not counts or len(set(counts)) < len(counts) or not all(type(n) is int and n >= 1 for n in counts):
            raise WcxError(f"iterations = {list(counts)} are not numbers of steps; give different ones, e.g. [1,2,10].")

    def columns(self) -> list[str]:
        """Return the columns of a record, in their order."""
        names = ["index", "id", "label", "skipped", "target", "y_t", "p_t", "correct"]
        measured = product(self.iterations, ("y_t", "p_t", "correct", "zero_gradient"))
        return names + [f"{name}/{n}" for n, name in measured]

    def passes(self, contrasts: int) -> Counter[str]:
        """Return the passes that one image needs at the least, of a method that needs one forward pass a gradient."""
        later = contrasts * sum(n - 1 for n in self.iterations)
        clean = int(precision.get(self.precision).gradient is not None)  # its logits come from a pass of their own
        return Counter(
            forward=1 + later, evaluation=clean + contrasts * len(self.iterations), backward=contrasts + later
        )


class SignPerturbation(Experiment):
    """The experiment; `Subject.passes` counts forward (with a graph), evaluation (without) and backward.

    The subject's batch size is halved when the device runs out of memory.
    """

    protocol = Settings
    version = 2  # 2: the last image of a walk goes through a folded copy of the network
    spaces = ("input",)
    means: ClassVar[dict[str, str]] = {
        "target": "class explained: an output of the network",
        "y_t": "logit of the target; after a slash: at the end of a walk of so many steps",
        "p_t": "its probability",
        "correct": "whether the target is the likeliest class",
        "zero_gradient": "share of pixels in which the explanation is 0",
    }
    walks = True

    def __init__(self, subject: Subject, cells: Sequence[Cell], settings: Settings) -> None:
        self._precision = precision.get(settings.precision)
        evaluation = subject.evaluation.cast(self._precision)
        super().__init__(replace(subject, model=evaluation.model, evaluation=evaluation), cells, settings)
        self._explainers = {name: Explainer(self.subject.model, method) for name, method in subject.methods.items()}

    @classmethod
    def columns(cls, settings: Settings, boxes: bool = False) -> list[str]:  # noqa: ARG003
        return settings.columns()

    @classmethod
    def evaluations(cls, settings: Settings) -> int:
        return settings.passes(1)["evaluation"]

    def rows(self, items: Sequence[Item], most: int | None = None, keep: Keep | None = None) -> dict[Cell, list[Row]]:  # noqa: ARG002
        """See `Experiment.rows`.

        Raises:
            WcxError: the model's logits are not finite; memory does not suffice for a single image.
        """
        rows = self.blank(items)
        waiting = [position for position, item in enumerate(items) if item.pixels is not None]
        while waiting:
            batch = waiting[: self.subject.batch_size]
            measured = self._fitting([items[position] for position in batch])
            if measured is None:
                continue  # with a smaller batch
            for cell, values in measured.items():
                for position, row in zip(batch, values, strict=True):
                    rows[cell][position].update(row)
            waiting = waiting[len(batch) :]
        return rows

    def passes(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for method in self.subject.methods:
            total += self.settings.passes(sum(cell.method == method for cell in self.cells))
        return total

    def plan(self, probe: Sequence[Item], images: int, most: int | None = None) -> dict[str, Any]:  # noqa: ARG002
        """See `Experiment.plan`; timed by walks of two steps."""
        passes = dict(self.passes())
        return {
            "passes_an_image": passes,
            "forward_passes": images * (passes["forward"] + passes["evaluation"]),
            "backward_passes": images * passes["backward"],
            "seconds": round(self.seconds(probe) * images, 1),
            "megabytes": f"about {len(self.cells) * images * 0.0003:.1f}",
        }

    def seconds(self, probe: Sequence[Item]) -> float:
        """Return about how long an image takes, all cells together, from a walk of two steps under one contrast."""
        cells = list({cell.method: cell for cell in self.cells}.values())
        short = replace(self.settings, iterations=(2,))
        subject = replace(self.subject, batch_size=len(probe), passes=Counter())
        experiment = type(self)(subject, cells, short)
        for _ in range(2):  # the first warms up
            start = time.perf_counter()
            experiment.rows(probe)  # ends with numbers on the CPU: the device has finished
        ratio = self.passes().total() / experiment.passes().total()
        return (time.perf_counter() - start) / len(probe) * ratio

    def _fitting(self, items: Sequence[Item]) -> dict[Cell, list[Row]] | None:
        """Return the rows of a batch; None, and the batch size halved, if it does not fit into memory."""
        subject = self.subject
        before = subject.passes.copy()
        try:
            return self._batch(items)
        except torch.OutOfMemoryError:
            subject.passes.clear()
            subject.passes.update(before)
        # Outside of the handler: its traceback held the tensors.
        if subject.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(items) == 1:
            raise WcxError(f"out of memory on {subject.device} with one image; free it, or give another device.")
        subject.batch_size = len(items) // 2
        log.warning("out of memory with %d images a pass: going on with %d", len(items), subject.batch_size)
        return None

    def _batch(self, items: Sequence[Item]) -> dict[Cell, list[Row]]:
        device = self.subject.device
        pixels = stacked(items).to(device, self._precision.dtype)
        labels = torch.tensor([item.label for item in items]).to(device)
        rows = {}
        with precision.tf32(allowed=self._precision.tf32):
            for method in dict.fromkeys(cell.method for cell in self.cells):
                names = [cell.contrast for cell in self.cells if cell.method == method]
                walks = Walks(self, self._explainers[method], pixels, labels)
                columns = walks.run(names)
                for name in names:
                    rows[Cell(method, name)] = _transposed({**walks.clean, **columns[name]})
        return rows

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """The passes that gradients are made of run in here."""
        kind = self._precision.gradient
        with torch.autocast(self.subject.device.type, dtype=kind or torch.bfloat16, enabled=kind is not None):
            yield

    def logits(self, pixels: Tensor) -> Tensor:
        """Return logits (N, C) of pixels (N, 3, H, W), for evaluation alone."""
        self.subject.passes["evaluation"] += len(pixels)
        return self.subject.evaluation.logits(pixels)

    @property
    def separate(self) -> bool:
        """Whether the logits behind a gradient are too coarse to be an evaluation."""
        return self._precision.gradient is not None


def _transposed(columns: Mapping[str, Tensor]) -> list[Row]:
    """Return one row an image of columns (N,); truth values as 0 and 1."""
    values = [(column.long() if column.dtype == torch.bool else column).tolist() for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
