"""What the perturbation costs beyond the network passes that it needs, and how long Fig. 3 takes.

python scripts/bench_fig3.py                                                          the embedded default, no data needed
python scripts/bench_fig3.py datasets=[imagenet] models=[squeezenet1_1] images=16     on real images
python scripts/bench_fig3.py parts=[estimate]                                         hours for 50,000 images, from FLOPs

- ours / bare: the experiment against the same passes of the bare network, at the same batch: forward with a graph, backward to
  the pixels, forward without a graph.
- naive / ours: against a loop as most people would write it: for every contrast and number of steps a fresh start, its own
  evaluations, and `backward()` with the parameters left requiring gradients. At the same batch, too.
- peak memory, of a process of its own, for few and for many images.

As in scripts/bench.py: the runs take turns, medians are printed, and with one thread on a CPU the seconds are the process's own.
"""

from __future__ import annotations

import dataclasses
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from anywhere

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scripts import cli, fig3
from scripts.bench import seconds
from scripts.spread import Block
from wcx import contrasts, models, pipeline
from wcx.errors import choose
from wcx.experiments import items
from wcx.experiments.sign_perturbation import Settings
from wcx.models import Normalized

MEMORY = "memory_of"  # of the process whose peak memory is read
DEFAULTS = {
    "datasets": ["parts"],
    "models": ["small_cnn"],
    "contrasts": fig3.DEFAULTS["contrasts"],
    "images": ["32"],
    "repeats": ["3"],
    "memory": ["100", "500"],
    "parts": ["time", "memory", "estimate"],
}
SUSTAINED = {"float32": 67e12 * 0.4, "tf32": 495e12 * 0.25}  # FLOP/s of an H100: its peak, and the share assumed


def ours(job: pipeline.PerturbationJob, batch: list[items.Item]) -> dict[str, int]:
    """Run the engine on decoded images; return the passes done, in images."""
    engine = job.engine()
    engine.chunk(batch)
    return dict(engine.passes)


def bare(job: pipeline.PerturbationJob, batch: list[items.Item]) -> None:
    """Do as many passes as needed at the least, with nothing between them."""
    model, least = job.loaded.model, job.settings.passes(len(job.cells))
    flags = [parameter.requires_grad_(requires_grad=False) for parameter in model.parameters()]
    walks = len(job.cells)
    for pixels in _batches(job, batch):
        for i in range(least["forward"]):
            x = pixels.clone().requires_grad_()
            y = model(x)
            for _ in range(walks if i == 0 else 1):
                torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=i == 0)
        with torch.inference_mode():
            for _ in range(least["evaluation"]):
                model(pixels)
    for parameter in flags:
        parameter.requires_grad_()


def naive(job: pipeline.PerturbationJob, batch: list[items.Item]) -> None:
    """Do the same work one contrast and number of steps at a time, each from the start."""
    model, epsilon, foils = job.loaded.model, job.settings.epsilon, job.settings.foils
    labels = torch.tensor([item.label for item in batch])
    for start, x0 in enumerate(_batches(job, batch)):
        t = labels[start * job.batch_size :][: len(x0)].to(x0.device)
        for cell in job.cells:
            options = job.contrast_options.get(cell.contrast, {})
            for n in job.settings.iterations:
                with torch.no_grad():
                    clean = model(x0)
                    clean.softmax(1).gather(1, t[:, None])
                    chosen = contrasts.foil_masks(clean, t, list(foils) if isinstance(foils, tuple) else foils)
                x = x0
                for _ in range(n):
                    x = x.detach().requires_grad_()
                    y = model(x)
                    v = contrasts.evaluate(cell.contrast, y.detach(), t, chosen, **options)
                    (v * y).sum().backward()
                    x = torch.clamp(x + epsilon / n * x.grad.sign(), x0 - epsilon, x0 + epsilon).clamp(0, 1)
                with torch.no_grad():
                    model(x).softmax(1).gather(1, t[:, None])
    model.zero_grad(set_to_none=True)


def _batches(job: pipeline.PerturbationJob, batch: list[items.Item]) -> Sequence[Tensor]:
    device = next(job.loaded.model.parameters()).device
    return torch.stack([item.pixels for item in batch]).to(device).split(job.batch_size)


def measure(job: pipeline.PerturbationJob, images: int, repeats: int) -> list[str]:
    """Return the ratios of one (dataset, model).

    Raises:
        WcxError: a method that `bare` and `naive` do not know.
    """
    for cell in job.cells:
        choose("method to compare with", cell.method, ["gradient"])
    batch = list(items.read(job.dataset, items.order(len(job.dataset), images, 0), None, job.num_workers))
    passes = ours(job, batch)  # warms up, too
    least = {name: count * len(batch) for name, count in job.settings.passes(len(job.cells)).items()}
    times: dict[str, list[float]] = {"ours": [], "bare": [], "naive": []}
    for _ in range(repeats):
        times["ours"].append(seconds(lambda: ours(job, batch)))
        times["bare"].append(seconds(lambda: bare(job, batch)))
        times["naive"].append(seconds(lambda: naive(job, batch)))
    median = {name: statistics.median(those) for name, those in times.items()}
    walks, threads = len(job.cells), torch.get_num_threads()
    head = f"{job.dataset.name} {job.loaded.name}: {len(batch)} images, {walks} contrasts, n = {list(job.settings.iterations)}"
    return [
        f"{head}, batches of {job.batch_size}, {threads} threads, {repeats} repeats",
        f"  passes (images): {passes}; the least: {least}",
        f"  seconds (median): {', '.join(f'{name} {value:.1f}' for name, value in median.items())}",
        f"  ours / bare {median['ours'] / median['bare']:.2f}; naive / ours {median['naive'] / median['ours']:.2f}",
    ]


def peak_memory(arguments: Sequence[str], images: int) -> float:
    """Return the peak memory, MiB, of a process that makes the records of so many images."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *arguments, f"{MEMORY}=[{images}]", f"paths.results_dir={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def flops(name: str) -> tuple[float, float]:
    """Return the FLOPs of one image (3, 224, 224): forward, and backward to the pixels; a product and a sum are two."""
    net = Normalized(models.build(name, init_weights=False)).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(requires_grad=False)
    pixels = torch.rand(1, 3, 224, 224, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        logits = net(pixels)
        forward = counter.get_total_flops()
        logits.sum().backward()
    return float(forward), float(counter.get_total_flops() - forward)


def estimate(networks: Sequence[str], settings: Settings, walks: int, images: int = 50_000) -> pd.DataFrame:
    """Return FLOPs an image and the expected hours for `images` on an H100, a row a network and one for all.

    An estimate from pass counts: `SUSTAINED` is assumed, not measured; small networks are bound by memory and take longer.
    """
    passes = settings.passes(walks)
    rows = []
    for name in networks:
        forward, backward = flops(name)
        total = forward * (passes["forward"] + passes["evaluation"]) + backward * passes["backward"]
        rows.append(
            {"model": name, "GFLOP_forward": forward / 1e9, "GFLOP_backward": backward / 1e9, "TFLOP": total / 1e12}
        )
    table = pd.DataFrame(rows)
    whole = {"model": "all", **table.drop(columns="model").sum()}
    table = pd.concat([table, pd.DataFrame([whole])], ignore_index=True)
    for precision, rate in SUSTAINED.items():
        table[f"hours_{precision}"] = table.TFLOP * 1e12 * images / rate / 3600
    return table


def main() -> None:
    """Measure and print."""
    lists, overrides = cli.split_lists(sys.argv[1:], DEFAULTS | {MEMORY: []})
    for part in lists["parts"]:
        choose("part", part, DEFAULTS["parts"])
    overrides = ["model.weights=random", *overrides]
    if "estimate" in lists["parts"] and not lists[MEMORY]:
        table = estimate(fig3.DEFAULTS["models"], Settings(), len(lists["contrasts"]))
        print(
            "estimate for 50,000 images on one H100 (FLOPs counted, rates assumed: "
            + ", ".join(f"{name} {rate / 1e12:.0f} TFLOP/s" for name, rate in SUSTAINED.items())
            + "); TFLOP of all walks of an image"
        )
        print(table.to_string(index=False, float_format="{:.2f}".format))
    for dataset in lists["datasets"]:
        for model in lists["models"]:
            shared = [f"dataset={dataset}", *overrides]
            block = Block(model, [__file__, f"contrasts=[{','.join(lists['contrasts'])}]", *shared])
            if lists[MEMORY]:
                job = dataclasses.replace(fig3.job(block)[0], limit=int(lists[MEMORY][0]))
                pipeline.run(job, quiet=True)
                print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
                return
            if "time" in lists["parts"]:
                print(*measure(fig3.job(block)[0], int(lists["images"][0]), int(lists["repeats"][0])), sep="\n")
            if "memory" in lists["parts"]:
                own = [f"datasets=[{dataset}]", f"models=[{model}]", *block.command[1:2], *overrides]
                few, many = (peak_memory(own, int(n)) for n in lists["memory"])
                counts = " and ".join(lists["memory"])
                print(f"  peak memory for {counts} images: {few:.0f} and {many:.0f} MiB, ratio {many / few:.2f}")


if __name__ == "__main__":
    cli.guarded(main)
