"""What a GPU is to be trusted with, and how fast it is: one table, measured in some minutes; on a CPU a smaller one.

- agreement: maps of every method and contrast in float32, here and on the CPU, against the CPU's float64.
- records: masking and perturbation of the same images, here against the CPU.
- throughput: forward passes of the networks at their best batch in each precision, and the logits' error.
- ratios: ours / bare passes and naive / ours, of Table 1 and Fig. 3.
- memory: the batch is halved where it does not fit, and the numbers stay.
- finetuning: mixed precision against float32.
- ray: two workers that share the GPU.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from wcx import contrasts, methods, models, pipeline, training
from wcx.checks import bench
from wcx.checks.findings import Finding, LeftOut, LeftOutError, text
from wcx.checks.processes import scarce
from wcx.checks.workloads import WORKLOADS
from wcx.experiments import Cell
from wcx.experiments.images import stacked
from wcx.files import write
from wcx.manifest import manifest
from wcx.models import precision
from wcx.pipeline import Job

log = logging.getLogger("wcx")
BATCHES = (32, 64, 128, 256, 512)  # on a GPU
EXPERIMENTS = {"masking": ("gradcam", "Table 1"), "sign_perturbation": ("gradient", "Fig. 3")}


@dataclass(frozen=True)
class Setup:
    """What is asked for.

    Attributes:
        open_job: opens a job on so many images: (images, network, experiment, cells, device, results folder); with ray=True its
            workers are on the device.
        device: that is checked.
        networks: small ones, with weights where there are some.
        fast: networks whose passes are timed.
        images: of the ImageNet sample.
        seconds: no part begins after so many.
    """

    open_job: Callable[..., Job]
    device: torch.device
    networks: Sequence[str]
    fast: Sequence[str]
    images: int
    seconds: float
    begun: float = field(default_factory=time.monotonic)

    def opened(self, network: str, experiment: str, cells: Sequence[Cell], device: str = "") -> Job:
        """Open a job whose records nobody wants; by default on the device."""
        with tempfile.TemporaryDirectory() as folder:
            return self.open_job(self.images, network, experiment, cells, device or str(self.device), Path(folder))

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() - self.begun > self.seconds


def check(setup: Setup, parts: Sequence[str], folder: Path) -> tuple[list[Finding], dict[str, str]]:
    """Run the parts, and write check_gpu.md and check_gpu.json; return the findings, and why parts were left out."""
    folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be had is told before minutes are spent
    lines: list[Finding | LeftOut] = []
    left_out: dict[str, str] = {}
    for part in parts:
        if setup.late():
            left_out[part] = f"{setup.seconds:.0f} s are over"
            continue
        log.info("%s ...", part)
        try:
            lines += PARTS[part](setup)
        except LeftOutError as error:
            left_out[part] = str(error)
    findings = [line for line in lines if isinstance(line, Finding)]
    left_out |= {f"{line.part}: {line.subject}": line.reason for line in lines if isinstance(line, LeftOut)}
    facts = manifest(setup.device, seconds=round(time.monotonic() - setup.begun))
    rows = [dataclasses.asdict(f) | {"goal": f.goal, "kept": f.kept} for f in findings]
    write(folder / "check_gpu.json", json.dumps({**facts, "findings": rows, "left_out": left_out}, indent=1))
    write(folder / "check_gpu.md", text(findings, left_out, f"{facts['device']}, torch {torch.__version__}"))
    return findings, left_out


def agreement(setup: Setup) -> Iterator[Finding | LeftOut]:
    """Relative error (L2) of maps in float32 against float64: 5 times that of the CPU is too much."""
    for network in setup.networks:
        cells = [Cell(*pair) for pair in product(methods.of_gradients(), contrasts.names())]
        jobs = [setup.opened(network, "masking", cells, device) for device in ("cpu", "")]
        pixels = stacked(jobs[0].read(jobs[0].chunks()[0][:2]))
        accepted, refused = methods.accepted(methods.of_gradients(), {}, jobs[0].loaded.model, pixels[:1])
        for method, error in refused.items():  # LRP has no rule for all that networks do
            yield LeftOut("agreement", f"{network} {method}", str(error))
        cells = [cell for cell in cells if cell.method in accepted]
        jobs = [dataclasses.replace(job, cells=cells) for job in jobs]
        exact = _maps(jobs[0], cells, pixels.double())
        errors = [_errors(_maps(job, cells, pixels), exact) for job in jobs]
        for method in accepted:
            cpu, here = (max(value for cell, value in error.items() if cell.method == method) for error in errors)
            yield Finding("agreement", f"{network} {method}, float32 error", here, most=max(5 * cpu, 1e-4))


def _maps(job: Job, cells: Sequence[Cell], pixels: Tensor) -> dict[Cell, Tensor]:
    """Return the maps of cells in the dtype of the pixels, for the most probable class."""
    subject = job.subject(cells)
    subject = dataclasses.replace(subject, model=precision.cast(subject.model, pixels.dtype))
    with precision.tf32(allowed=False):
        look = subject.look(pixels.to(subject.device))
        targets = contrasts.most_probable(look.logits, 1)
        maps = look.maps(cells, targets, contrasts.foil_masks(look.logits, targets, None))
    return {cell: attribution.double().cpu() for cell, attribution in maps.items()}


def _errors(maps: dict[Cell, Tensor], exact: dict[Cell, Tensor]) -> dict[Cell, float]:
    return {cell: float((maps[cell] - exact[cell]).norm() / exact[cell].norm()) for cell in exact}


def records(setup: Setup) -> Iterator[Finding]:
    """Difference of the records' numbers from those of the CPU: a pixel of a map near 0 may be hidden here and not there."""
    for network in setup.networks:
        for experiment in EXPERIMENTS:
            (here, _), (cpu, _) = (_run(setup, network, experiment, device) for device in (str(setup.device), "cpu"))
            difference = _differences(here, cpu)
            label = f"{network} {experiment}, {len(cpu)} rows, difference of probabilities"
            yield Finding("records", f"{label}, median", float(difference.median()), most=1e-4)
            yield Finding("records", f"{label}, largest", float(difference.max()), most=0.05)


def _differences(rows: pd.DataFrame, expected: pd.DataFrame) -> pd.Series:
    """Return by how much the probabilities in records differ."""
    columns = [name for name in expected if name.startswith(("relative_probability", "p_t"))]
    return pd.Series((rows[columns] - expected[columns]).abs().to_numpy().ravel())


def _run(
    setup: Setup, network: str, experiment: str, device: str, executor: pipeline.Executor | None = None
) -> tuple[pd.DataFrame, float]:
    """Return the records of the images, and the seconds that they took."""
    cells = [Cell(EXPERIMENTS[experiment][0], contrast) for contrast in ("original", "weighted")]
    with tempfile.TemporaryDirectory() as folder:
        job = setup.open_job(setup.images, network, experiment, cells, device, Path(folder), ray=executor is not None)
        begun = time.monotonic()
        shards, _ = pipeline.run(job, quiet=True, executor=executor)
        seconds = time.monotonic() - begun
        return pd.concat([shard.read() for shard in shards], ignore_index=True), seconds


def throughput(setup: Setup) -> Iterator[Finding]:
    """Images a second of forward passes, and max |difference| / max |y| of the logits from float32's."""
    for network in setup.fast:
        if setup.late():
            raise LeftOutError(f"{network} and what follows it: no time left")
        model = models.load(network, weights="random", device=setup.device).to_channels_last().model
        pixels = torch.rand(max(BATCHES) if setup.cuda else 4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        pixels = pixels.to(setup.device, memory_format=torch.channels_last)
        expected = None
        for kind in ("float32", "tf32", "bfloat16"):
            chosen = precision.get(kind)
            with torch.inference_mode(), precision.tf32(allowed=chosen.tf32), _autocast(setup, chosen):
                logits = model(pixels[:32]).double()
                expected = logits if expected is None else expected
                rates = {len(pixels): 0.0} if not setup.cuda else dict.fromkeys(BATCHES, 0.0)
                for batch in rates:
                    rates[batch] = _rate(setup, model, pixels[:batch])
            best = max(rates, key=lambda batch: rates[batch])
            error = float((logits - expected).abs().max() / expected.abs().max())
            yield Finding("throughput", f"{network} {kind}, images/s in batches of {best}", rates[best])
            yield Finding("throughput", f"{network} {kind}, error of the logits", error)


def _autocast(setup: Setup, chosen: precision.Precision) -> torch.autocast:
    kind = chosen.gradient
    return torch.autocast(setup.device.type, dtype=kind or torch.bfloat16, enabled=kind is not None)


def _rate(setup: Setup, model: nn.Module, pixels: Tensor) -> float:
    """Return images a second, the median of some passes; 0 where memory does not suffice."""
    seconds = []
    try:
        for _ in range(8 if setup.cuda else 2):
            begun = time.perf_counter()
            model(pixels)
            if setup.cuda:
                torch.cuda.synchronize(setup.device)
            seconds.append(time.perf_counter() - begun)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return 0.0
    return len(pixels) / statistics.median(seconds[len(seconds) // 2 :])  # the first half warms up


def ratios(setup: Setup) -> Iterator[Finding]:
    """How much more time ours takes than its bare passes, and a naive loop than ours; see `wcx.checks.workloads`."""
    for experiment, (method, table) in EXPERIMENTS.items():
        for network in setup.networks:
            cells = [Cell(method, contrast) for contrast in ("original", "weighted")]
            measured = WORKLOADS[experiment](setup.opened(network, experiment, cells), setup.images)
            ours, bare, naive = (bench.seconds(call) for call in (measured.ours, measured.bare, measured.naive))
            naive *= len(measured.items) / measured.few
            yield Finding("ratios", f"{table}, {network}, ours / bare", ours / bare)
            yield Finding("ratios", f"{table}, {network}, naive / ours", naive / ours)


def memory(setup: Setup) -> Iterator[Finding]:
    """Fig. 3's experiment where a batch does not fit: on a GPU it gets too little memory, on a CPU the network complains."""
    network, cells = setup.networks[0], [Cell("gradient", "weighted")]
    job = setup.opened(network, "sign_perturbation", cells)
    items = job.read(job.chunks()[0][:8])
    expected = dataclasses.replace(job, batch_size=1).opened(cells)
    rows = pd.DataFrame(expected.rows(items)[cells[0]])
    with scarce(setup.device, job.loaded.model):
        halved = dataclasses.replace(job, batch_size=len(items)).opened(cells)
        again = pd.DataFrame(halved.rows(items)[cells[0]])
    label = f"{network} sign_perturbation of {len(items)} images"
    yield Finding("memory", f"{label}, batch in the end", halved.subject.batch_size, most=len(items) / 2)
    yield Finding(
        "memory", f"{label}, largest difference of probabilities", float(_differences(again, rows).max()), most=1e-3
    )


class _Samples(Dataset[tuple[Tensor, int]]):
    """Images and whether they are bright: what any network learns."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        brightness = pixels.mean((1, 2, 3))
        self.labels = (brightness > brightness.median()).long().tolist()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        return self.pixels[key[1]], self.labels[key[1]]


def finetuning(setup: Setup) -> Iterator[Finding]:
    """Some epochs of a fresh network in mixed precision and in float32: the loss that is reached, and images a second."""
    network, epochs = setup.networks[-1], 3
    job = setup.opened(network, "masking", [Cell("gradcam", "weighted")], "cpu")
    samples = _Samples(stacked(job.read(job.chunks()[0])))
    losses = []
    for amp in (False, True):
        net = models.load(network, weights="random", num_classes=2).model
        recipe = training.Recipe("check", lr=0.01, epochs=epochs, batch_size=8)
        begun = time.monotonic()
        history = training.fit(net, samples, recipe, indices=range(len(samples)), device=setup.device, amp=amp)
        rate = epochs * len(samples) / (time.monotonic() - begun)
        losses.append(history[-1]["train_loss"])
        yield Finding("finetuning", f"{network} {'mixed precision' if amp else 'float32'}, images/s", rate)
    yield Finding("finetuning", f"{network}, loss mixed / float32", losses[1] / losses[0], least=0.7, most=1.4)


def ray(setup: Setup) -> Iterator[Finding]:
    """The masking records by one worker and by two, which share the GPU."""
    if importlib.util.find_spec("ray") is None:
        raise LeftOutError("Ray is not installed (pip install 'wcx[ray]')")
    from wcx.pipeline.ray import Ray

    network, device = setup.networks[0], str(setup.device)
    expected, _ = _run(setup, network, "masking", device)
    seconds = {}
    for workers in (1, 2):
        with Ray(workers=workers, num_cpus=1, num_gpus=0.5 if setup.cuda else 0) as executor:
            table, _ = _run(setup, network, "masking", device, executor)  # the workers open dataset and network
            table, seconds[workers] = _run(setup, network, "masking", device, executor)
        difference = float(_differences(table, expected).max())
        yield Finding("ray", f"{network}, {workers} workers, difference of probabilities", difference, most=0.05)
    yield Finding("ray", f"{network}, two workers / one, images/s", seconds[1] / seconds[2])


PARTS: dict[str, Callable[[Setup], Iterator[Finding | LeftOut]]] = {
    part.__name__: part for part in (agreement, records, throughput, ratios, memory, finetuning, ray)
}
