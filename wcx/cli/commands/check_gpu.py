"""What a GPU is to be trusted with, and how fast it is; on a CPU a smaller check.

make check-gpu CHECK_GPU_DATA=folder       folder/data/imagenet and folder/weights
wcx check_gpu parts=[agreement,records] networks=[squeezenet1_1]

Table and figures: <results>/check_gpu.md and check_gpu.json. At most 8 minutes; nothing is downloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from wcx.checks import findings, gpu
from wcx.cli import application, opening
from wcx.errors import WcxError, choose
from wcx.experiments import Cell
from wcx.pipeline import Job


def open_job(
    typed: Sequence[str],
    images: int,
    network: str,
    experiment: str,
    cells: Sequence[Cell],
    device: str,
    folder: Path,
    *,
    ray: bool = False,
) -> Job:
    """Open a job by composed configurations, see `gpu.Setup`; `typed` are settings of the command line."""
    shared = [f"model={network}", *typed, f"experiment={experiment}", f"device={device}", f"limit={images}"]
    shared += [f"paths.results_dir={folder}", f"executor={'ray' if ray else 'local'}", "chunk_size=8"]
    shared += ["select=all"] if experiment == "masking" else []
    return opening.job([application.compose([*shared, f"method={m}", f"contrast={c}"], "check_gpu") for m, c in cells])


def run(cfg: DictConfig) -> None:
    """Run the parts; exit code 1 if a goal is missed."""
    from hydra.core.hydra_config import HydraConfig

    parts = [choose("part", part, gpu.PARTS) for part in opening.plain(cfg.parts)]
    device = opening.device(cfg)
    images = (32 if device.type == "cuda" else 4) if cfg.images is None else cfg.images
    if type(images) is not int or images < 2:
        raise WcxError(f"images = {images!r}: give a whole number of at least 2.")
    own = ("parts", "networks", "fast", "images", "seconds", "device", "model", "experiment", "method", "contrast")
    task = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    typed = [text for text in map(str, list(task or ())) if text.partition("=")[0] not in own]
    fast = opening.plain(cfg.fast) if device.type == "cuda" else opening.plain(cfg.networks)
    setup = gpu.Setup(partial(open_job, typed), device, opening.plain(cfg.networks), fast, images, cfg.seconds)
    folder = Path(cfg.paths.results_dir)
    measured, _ = gpu.check(setup, parts, folder)
    print((folder / "check_gpu.md").read_text(encoding="utf-8"), end="")
    print(f"{findings.verdict(measured)}; {folder / 'check_gpu.md'}, {folder / 'check_gpu.json'}")
    if findings.failed(measured):
        sys.exit(1)
