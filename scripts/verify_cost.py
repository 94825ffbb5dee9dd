"""What explanations cost at C = 1000: time, network passes, memory. All on one network and one batch, in one run.

Times are wall and CPU time of whole `wcx.explain` calls; what is compared is interleaved, and medians are taken. Passes are counted
by hooks. Peak memory is that of a fresh process for each call (VmHWM of Linux) less
what the process held before the call: this file is that process, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, too

import wcx
from scripts import verify_cells
from scripts.verify_cells import Cells, Subject
from wcx import methods

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

    def __init__(self, subject: Subject, method: str) -> None:
        self.net, self.images, self.method = subject.net, subject.images, method
        self.layer = subject.layer if methods.get(method).space == "activation" else None
        self.options = {"steps": STEPS} if method == "integrated_gradients" else {}
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
    rows = []
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
    for s in verify_cells.progress(range(classes), classes, f"brute force, {case.method}"):
        wall, cpu = clocked(lambda target=s: case.explain("original", target))
        rows.append({"method": case.method, "what": "one class", "repeat": s, "wall": wall, "cpu": cpu})
        if s % 20 == 0:
            wall, cpu = clocked(lambda: case.explain("weighted"))
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


def memory(subject_name: str, count: int, method: str, what: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the peak memory (MiB) of one call in a process of its own, beyond what it held before."""
    command = [sys.executable, __file__, json.dumps([subject_name, count, method, what, list(overrides)])]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def _measure(subject_name: str, count: int, method: str, what: str, overrides: Sequence[str]) -> dict[str, Any]:
    case = Case(verify_cells.subject(subject_name, count, overrides), method)
    call = case.calls()[what]
    before = _status("VmRSS")
    call()
    return {"method": method, "what": what, "peak_mib": (_status("VmHWM") - before) / 1024}


def _status(key: str) -> int:
    """Return a line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def run(
    folder: Path,
    names: Sequence[str],
    overrides: Sequence[str] = (),
    network: str = "squeezenet1_1",
    count: int = 4,
    repeats: int = 15,
    brute: Sequence[str] = ("gradcam", "gradient"),
) -> pd.DataFrame:
    """Measure; write cost_times.csv, cost_passes.csv, cost_memory.csv and cost.csv (the summary, returned)."""
    settings = {"network": network, "count": count, "repeats": repeats, "threads": torch.get_num_threads()}
    cells = Cells(
        folder,
        "cost",
        ["wcx/baselines", "wcx/methods/*", "scripts/verify_cost"],
        {**settings, "overrides": list(overrides)},
    )
    subject = verify_cells.subject(network, count, overrides)
    cases = {name: Case(subject, name) for name in names}
    timed, seen, peaks = [], [], []
    for name in verify_cells.progress(names, len(names), "cost"):
        timed.append(cells.rows(f"times-{name}", lambda case=cases[name]: times(case, repeats)))
        seen.append(cells.rows(f"passes-{name}", lambda case=cases[name]: passes(case)))
        if Path("/proc/self/status").exists():
            peak = lambda n=name: [memory(network, count, n, what, overrides) for what in cases[n].calls()]  # noqa: E731
            peaks.append(cells.rows(f"memory-{name}", peak))
    classes = subject.net(subject.images[:1]).shape[1]
    timed += [
        cells.rows(f"brute-{name}", lambda case=cases[name]: brute_force(case, classes))
        for name in brute
        if name in names
    ]
    verify_cells.save(pd.concat(timed), folder, "cost_times")
    verify_cells.save(pd.concat(seen), folder, "cost_passes")
    if peaks:
        verify_cells.save(pd.concat(peaks), folder, "cost_memory")
    table = summary(pd.concat(timed), pd.concat(seen), pd.concat(peaks) if peaks else None)
    verify_cells.save(table, folder, "cost")
    return table


def summary(timed: pd.DataFrame, seen: pd.DataFrame, peaks: pd.DataFrame | None) -> pd.DataFrame:
    """Return a line a method: seconds of original, the ratios (wall, and CPU time), passes and peak memory (MiB)."""
    rows = []
    for method in seen.method:
        row: dict[str, Any] = {"method": method}
        for clock in ("wall", "cpu"):
            middle = timed[timed.method == method].groupby("what")[clock].median()
            if clock == "wall":
                row["original_s"] = middle["original"]
            row[f"weighted/original {clock}"] = middle["weighted"] / middle["original"]
            row[f"together/apart {clock}"] = middle["4 together"] / middle["4 apart"]
            if "one class" in middle:
                each = timed[(timed.method == method) & (timed.what == "one class")][clock]
                row[f"brute/weighted {clock}"] = each.sum() / middle["weighted beside"]
        row |= {key: value for key, value in seen[seen.method == method].iloc[0].items() if key != "method"}
        if peaks is not None:
            row |= {f"MiB {what}": mib for what, mib in peaks[peaks.method == method][["what", "peak_mib"]].values}
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    print(json.dumps(_measure(*json.loads(sys.argv[1]))))
