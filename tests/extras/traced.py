"""A driver for test_ray_kills.py: small_cnn x parts, four chunks; every reading of a chunk's images is noted.

python tests/extras/traced.py <results folder> <file of notes> <local, new, or the address of a cluster>
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from omegaconf import DictConfig

from wcx import pipeline
from wcx.cli import application, opening
from wcx.pipeline import Job, Local
from wcx.pipeline.ray import Ray

SETTINGS = [
    "dataset=parts",
    "dataset.size=96",
    "model=small_cnn",
    "model.weights=random",
    "threshold=0",
    "limit=96",
    "chunk_size=24",
    "batch_size=8",
    "num_workers=1",
    "seed=1",
]


def noting(cfgs: Sequence[DictConfig], notes: str) -> Job:
    """Open the job where each reading of a chunk writes a line: process, time, the chunk's first image."""
    read = Job.read

    def noted(job: Job, indices: Sequence[int]) -> list:
        if list(indices) in job.chunks():  # the driver reads a few images, too, to choose what evaluates
            with Path(notes).open("a") as file:
                file.write(f"{os.getpid()} {time.time()} {indices[0]}\n")
        return read(job, indices)

    if read.__name__ != "noted":
        Job.read = noted
    return opening.job(cfgs)


def main(folder: str, notes: str, where: str) -> None:
    """Fill the records."""
    cfgs = [
        application.compose([*SETTINGS, f"contrast={name}", f"paths.results_dir={folder}"])
        for name in ("original", "weighted")
    ]
    opener = functools.partial(noting, cfgs, notes)
    job = dataclasses.replace(opener(), opener=opener)
    print(job.chunks(), flush=True)
    with Local(1) if where == "local" else Ray(None if where == "new" else where, workers=2, threads=1) as executor:
        pipeline.run(job, quiet=True, executor=executor)


if __name__ == "__main__":
    main(*sys.argv[1:])
