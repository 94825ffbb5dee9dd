"""What an experiment costs beyond the network passes that it needs, as ratios measured in one run.

python scripts/bench.py                                            the embedded default, no data needed
python scripts/bench.py datasets=[cub] models=[alexnet] images=32  on real images (random weights will do)
python scripts/bench.py experiment=sign_perturbation               Fig. 3's experiment, see scripts/bench_fig3.py

- ours / bare: the masking experiment against the same number of images sent through the bare network, batch by batch.
- naive / ours: against a loop as most people would write it: one image at a time, a fresh forward pass and a new blur in two
  dimensions for every cell, target and mask.
- peak memory, of a process of its own, for few and for many images.

Machines are shared and noisy: the runs take turns, and medians over `repeats` are printed. With one thread on a CPU
(OMP_NUM_THREADS=1) the seconds are the process's own, which others on the machine cannot lengthen. parts=[time] or
parts=[memory] leaves out the other.
"""

from __future__ import annotations

import dataclasses
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from anywhere

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

import wcx
from scripts import cli, jobs
from scripts.table1 import cells
from wcx import baselines, pipeline
from wcx.errors import choose
from wcx.experiments import items
from wcx.experiments.protocol import KEPT

DEFAULTS = {
    "datasets": ["parts"],
    "models": ["small_cnn"],
    "methods": ["gradcam", "linear_approximation"],
    "contrasts": ["original", "weighted"],
    "images": ["32"],
    "repeats": ["3"],
    "memory": ["100", "500"],
    "parts": ["time", "memory"],
}
NAIVE_IMAGES = 4  # the naive loop is slow; its time is scaled to all images
MEMORY_ONLY = "bench_memory"  # of the process whose peak memory is read


def ours(job: pipeline.MaskingJob, batch: list[items.Item]) -> dict[str, int]:
    """Run the engine on decoded images; return the passes done, in images."""
    engine = job.engine()
    engine.chunk(batch)
    return dict(engine.passes)


def bare(job: pipeline.MaskingJob, batch: list[items.Item], passes: int) -> None:
    """Send so many images through the bare network, at the same batch size."""
    pixels = torch.stack([item.pixels for item in batch])
    pixels = pixels.repeat(-(-job.batch_size // len(pixels)), 1, 1, 1)
    with torch.inference_mode():
        for start in range(0, passes, job.batch_size):
            job.loaded.model(pixels[: min(job.batch_size, passes - start)])


@torch.no_grad()
def naive(job: pipeline.MaskingJob, batch: list[items.Item]) -> None:
    """Do the same work one image, cell, target and mask at a time.

    Raises:
        WcxError: other masks than by sign.
    """
    model, settings, foils = job.loaded.model, job.settings, job.settings.foils
    choose("mask of the naive loop", settings.mask, ["sign"])
    foils = list(foils) if isinstance(foils, tuple) else foils
    for item in batch:
        image = item.pixels[None]
        for cell in job.cells:
            for i in range(settings.targets):
                t = int(model(image)[0].sort(descending=True).indices[i])
                question = (cell.contrast, foils, job.loaded.layer, dict(job.contrast_options[cell.contrast]))
                small = wcx.explain(model, image, t, cell.method, *question, **job.method_options[cell.method])
                phi = wcx.upsample(small, image.shape[2:])
                for name in settings.baselines:
                    for kept in KEPT:
                        other = _fresh_baseline(name, image)
                        hidden = phi < 0 if kept == "positive" else phi > 0
                        model(torch.where(hidden[:, None], other, image))


def _fresh_baseline(name: str, image: Tensor) -> Tensor:
    if name != "blur":
        return baselines.make(name, image)
    side = image.shape[-1]
    kernel = 2 * (round(101 * side / 224) // 2) + 1
    return F.gaussian_blur(image, [kernel, kernel], [15 * side / 224] * 2)


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds of one call: of this process alone, if it has one thread on a CPU."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = time.process_time if alone else time.perf_counter
    start = clock()
    function()
    return clock() - start


def peak_memory(arguments: list[str], images: int) -> float:
    """Return the peak memory, MiB, of a process that makes the records of so many images."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *arguments, f"images=[{images}]", f"paths.results_dir={folder}"]
        done = subprocess.run([*command, f"{MEMORY_ONLY}=[1]"], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    if "experiment=sign_perturbation" in sys.argv:
        from scripts import bench_fig3

        sys.argv.remove("experiment=sign_perturbation")
        bench_fig3.main()
        return
    lists, overrides = cli.split_lists(sys.argv[1:], DEFAULTS | {MEMORY_ONLY: []})
    for part in lists["parts"]:
        choose("part", part, DEFAULTS["parts"])
    overrides = ["model.weights=random", "threshold=0", "select=all", *overrides]
    images, repeats = int(lists["images"][0]), int(lists["repeats"][0])
    for dataset in lists["datasets"]:
        for model in lists["models"]:
            job = jobs.masking_job(cells(dataset, model, lists, overrides))
            if lists[MEMORY_ONLY]:
                pipeline.run_masking(dataclasses.replace(job, limit=images), quiet=True)
                print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
                return
            if "time" in lists["parts"]:
                measure(job, images, repeats)
            if "memory" in lists["parts"]:
                print(memory(dataset, model, [int(n) for n in lists["memory"]]))


def memory(dataset: str, model: str, images: Sequence[int]) -> str:
    """Return the peak memory for few and for many images, as a line."""
    own = ("images", "datasets", "models", "memory", "parts")
    rest = [argument for argument in sys.argv[1:] if argument.partition("=")[0] not in own]
    few, many = (peak_memory([f"datasets=[{dataset}]", f"models=[{model}]", *rest], n) for n in images)
    return (
        f"{dataset} {model}: peak memory {few:.0f} MiB for {images[0]} images, {many:.0f} MiB for {images[1]}: "
        f"ratio {many / few:.2f}"
    )


def measure(job: pipeline.MaskingJob, images: int, repeats: int) -> None:
    """Print the ratios of one (dataset, model)."""
    indices = items.order(len(job.dataset), images, 0)
    batch = list(items.read(job.dataset, indices, None, job.num_workers))
    few = batch[:NAIVE_IMAGES]
    passes = ours(job, batch)  # warms up, too
    total = passes["forward"] + passes["masked"]
    full = len(job.cells) * job.settings.targets * len(KEPT) * len(job.settings.baselines)
    times: dict[str, list[float]] = {"ours": [], "bare": [], "naive": []}
    for _ in range(repeats):
        times["ours"].append(seconds(lambda: ours(job, batch)))
        times["bare"].append(seconds(lambda: bare(job, batch, total)))
        times["naive"].append(seconds(lambda: naive(job, few)) * len(batch) / len(few))
    median = {name: statistics.median(those) for name, those in times.items()}
    threads = torch.get_num_threads()
    print(
        f"{job.dataset.name} {job.loaded.name}: {len(batch)} images, {len(job.cells)} cells, {threads} threads, n = {repeats}"
    )
    print(f"  passes (images): {passes}; without sharing {len(batch)} + {len(batch) * full} masked")
    print(f"  seconds (median): {', '.join(f'{name} {value:.1f}' for name, value in median.items())}")
    print(f"  ours / bare {median['ours'] / median['bare']:.2f}; naive / ours {median['naive'] / median['ours']:.1f}")


if __name__ == "__main__":
    cli.guarded(main)
