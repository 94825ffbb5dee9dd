"""What explanations cost at C = 1000: time, network passes, memory. All on one network and one batch, in one run.

Times are wall and CPU time of whole `wcx.explain` calls; what is compared is interleaved, and medians are taken. Passes are
counted by hooks. Peak memory is that of a process of its own for each call, less what it held before the call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import wcx
from wcx import methods
from wcx.checks import cells, processes
from wcx.checks.cells import Cells, Request, Result
from wcx.checks.specimens import Specimen, specimen

CODE = ("images", "methods", "checks/processes")
NETWORK = "squeezenet1_1"
IMAGES = 4  # a batch
REPEATS = 15
BRUTE = ("gradcam", "gradient")  # the methods whose thousand classes are explained, too
FOUR = ["original", "mean", "max", "weighted"]
STEPS = 8
EXPECTED = {  # the design's table, for K = 4 cotangents: forward, backward to the image or layer
    "gradient": (1, 4),
    "input_x_gradient": (1, 4),
    "gradcam": (1, 4),
    "linear_approximation": (1, 4),
    "xgradcam": (1, 4),
    "integrated_gradients": (STEPS, 4 * STEPS),
    "deeplift": (2, 4),
    "lrp": (1, 4),
}


class Case:
    """One network, batch and method, ready to be timed.

    Args:
        subject: network and images.
        method: its name.
    """

    def __init__(self, subject: Specimen, method: str) -> None:
        self.net, self.images, self.method = subject.net, subject.images, method
        self.layer = subject.layer if methods.get(method).space == "activation" else None
        self.options: dict[str, Any] = {"steps": STEPS} if method == "integrated_gradients" else {}
        with torch.no_grad():
            self.target = subject.net(subject.images).argmax(1)

    def explain(self, contrast: str | Sequence[str], target: Any = None) -> Tensor:
        """Return `wcx.explain` for the predicted classes, or others."""
        target = self.target if target is None else target
        return wcx.explain(self.net, self.images, target, self.method, contrast, layer=self.layer, **self.options)

    def calls(self) -> dict[str, Callable[[], Any]]:
        """Return what is compared, by name."""
        return {
            "original": lambda: self.explain("original"),
            "weighted": lambda: self.explain("weighted"),
            "4 together": lambda: self.explain(FOUR),
            "4 apart": lambda: [self.explain(name) for name in FOUR],
        }


def clocked(function: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def times(case: Case, repeats: int) -> list[dict[str, Any]]:
    """Return the times of `Case.calls`, interleaved, the first round left out."""
    rows: list[dict[str, Any]] = []
    for repeat in range(-1, repeats):
        calls = list(case.calls().items())
        for name, function in calls if repeat % 2 else calls[::-1]:
            wall, cpu = clocked(function)
            rows.append({"method": case.method, "what": name, "repeat": repeat, "wall": wall, "cpu": cpu})
    return [row for row in rows if row["repeat"] >= 0]


def brute_force(case: Case, classes: int) -> list[dict[str, Any]]:
    """Return the times of one `original` call per class, with a `weighted` call after every 20."""
    case.explain("weighted")
    rows = []
    for s in cells.progress(range(classes), f"brute force, {case.method}"):
        wall, cpu = clocked(partial(case.explain, "original", s))
        rows.append({"method": case.method, "what": "one class", "repeat": s, "wall": wall, "cpu": cpu})
        if s % 20 == 0:
            wall, cpu = clocked(partial(case.explain, "weighted"))
            rows.append({"method": case.method, "what": "weighted beside", "repeat": s, "wall": wall, "cpu": cpu})
    return rows


@contextmanager
def counted(net: nn.Module, images: int) -> Iterator[dict[str, float]]:
    """Count passes of whole batches: forward, and backward from the logits and as far as the first module's input."""
    first = next(module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
    seen = {"forward": 0.0, "backward": 0.0, "backward to the image": 0.0}

    def watch(tensor: Tensor, kind: str) -> None:
        def add(_gradient: Tensor) -> None:
            seen[kind] += len(tensor) / images

        if tensor.requires_grad:
            tensor.register_hook(add)

    def output(_module: nn.Module, _args: Any, logits: Tensor) -> None:
        seen["forward"] += len(logits) / images
        watch(logits, "backward")

    handles = [
        net.register_forward_hook(output),
        first.register_forward_pre_hook(lambda _module, args: watch(args[0], "backward to the image")),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def passes(case: Case) -> list[dict[str, Any]]:
    """Return the passes of 4 contrasts together, against the design's table."""
    with counted(case.net, len(case.images)) as seen:
        case.explain(FOUR)
    forward, backward = EXPECTED.get(case.method, ("", ""))
    return [{"method": case.method, **seen, "design forward": forward, "design backward": backward}]


def memory(request: Request, method: str, call: str) -> dict[str, Any]:
    """Return the peak memory (MiB) of one of `Case.calls`, beyond what the process held before: for a process of its own."""
    function = Case(specimen(request, NETWORK, IMAGES), method).calls()[call]
    before = processes.mebibytes("VmRSS")
    function()
    return {"method": method, "what": call, "peak_mib": processes.mebibytes("VmHWM") - before}


def check(request: Request) -> Result:
    """Measure; write cost_times.csv, cost_passes.csv, cost_memory.csv (on Linux) and cost.csv, the summary."""
    facts = {"network": NETWORK, "count": IMAGES, "repeats": REPEATS, "threads": torch.get_num_threads()}
    facts |= {"typed": list(request.typed)}
    store = Cells(request.folder, "cost", CODE, facts)
    subject = specimen(request, NETWORK, IMAGES)
    classes = subject.net(subject.images[:1]).shape[1]
    tables: dict[str, list[pd.DataFrame]] = {"times": [], "passes": [], "memory": []}
    for name in cells.progress(request.methods, "cost"):
        case = Case(subject, name)
        tables["times"].append(store.rows(f"times-{name}", partial(times, case, REPEATS)))
        tables["passes"].append(store.rows(f"passes-{name}", partial(passes, case)))
        if name in BRUTE:
            tables["times"].append(store.rows(f"brute-{name}", partial(brute_force, case, classes)))
        if processes.STATUS.exists():
            peaks = partial(_peaks, request, case)
            tables["memory"].append(store.rows(f"memory-{name}", peaks))
    joined = {name: pd.concat(parts) for name, parts in tables.items() if parts}
    for name, table in joined.items():
        cells.save(table, request.folder, f"cost_{name}")
    table = summary(joined["times"], joined["passes"], joined.get("memory"))
    cells.save(table, request.folder, "cost")
    return Result(table.set_index("method").T.to_string(float_format="{:.3g}".format))


def _peaks(request: Request, case: Case) -> list[dict[str, Any]]:
    return [processes.alone(memory, request, case.method, call) for call in case.calls()]


def summary(timed: pd.DataFrame, counts: pd.DataFrame, peaks: pd.DataFrame | None) -> pd.DataFrame:
    """Return a line a method: seconds of original, the ratios (wall, and CPU time), passes and peak memory (MiB)."""
    rows = []
    for method in counts.method:
        row: dict[str, Any] = {"method": method}
        durations = timed[timed.method == method]
        for clock in ("wall", "cpu"):
            median = durations.groupby("what")[clock].median()
            if clock == "wall":
                row["original_s"] = median["original"]
            row[f"weighted/original {clock}"] = median["weighted"] / median["original"]
            row[f"together/apart {clock}"] = median["4 together"] / median["4 apart"]
            if "one class" in median:
                row[f"brute/weighted {clock}"] = (
                    durations[durations.what == "one class"][clock].sum() / median["weighted beside"]
                )
        row |= {key: value for key, value in counts[counts.method == method].iloc[0].items() if key != "method"}
        if peaks is not None:
            row |= {f"MiB {call}": mib for call, mib in peaks[peaks.method == method][["what", "peak_mib"]].values}
        rows.append(row)
    return pd.DataFrame(rows)
