"""From composed configurations to the jobs of wcx.pipeline: one function an experiment, found by the experiment's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from scripts import cli
from wcx import pipeline
from wcx.errors import WcxError
from wcx.experiments import sign_perturbation
from wcx.experiments.protocol import Cell, Settings


def masking_job(cfgs: Sequence[DictConfig]) -> pipeline.MaskingJob:
    """Return the masking job of one (dataset, model) whose cells are the method and contrast of each configuration.

    Raises:
        SkipError: a method that the experiment does not take.
        WcxError: a dataset, model or setting that does not fit.
    """
    cfg = cfgs[0]
    own = {"limit_selected": cfg.limit_selected, "save_maps": cfg.save_maps}
    return _job(pipeline.MaskingJob, cfgs, cli.settings(cfg, Settings), **own)


def perturbation_job(cfgs: Sequence[DictConfig]) -> pipeline.PerturbationJob:
    """Return the sign_perturbation job of one (dataset, model), as `masking_job`."""
    if cfgs[0].save_maps:
        raise WcxError("save_maps=true: experiment sign_perturbation keeps no maps; leave it out.")
    return _job(pipeline.PerturbationJob, cfgs, cli.settings(cfgs[0], sign_perturbation.Settings))


JOBS: dict[str, Callable[[Sequence[DictConfig]], pipeline.Job]] = {
    "masking": masking_job,
    "sign_perturbation": perturbation_job,
}


def job(cfgs: Sequence[DictConfig]) -> pipeline.Job:
    """Return the job of the experiment that the configurations name, as `masking_job`.

    Raises:
        WcxError: an experiment that has no cells.
    """
    name = cfgs[0].experiment
    if name not in JOBS:
        raise WcxError(f"experiment {name} has a runner of its own: python scripts/{name}.py")
    return JOBS[name](cfgs)


def _job(kind: type[pipeline.Job], cfgs: Sequence[DictConfig], protocol: Any, **own: Any) -> Any:
    cfg = cfgs[0]
    for one in cfgs:
        try:
            pipeline.check_method(kind.experiment, kind.space, one.method.name)
        except WcxError as error:
            raise cli.SkipError(str(error)) from error
    dataset = cli.test_images(cfg)
    return kind(
        dataset=dataset,
        loaded=cli.open_model(cfg, dataset),
        cells=[Cell(one.method.name, one.contrast.name) for one in cfgs],
        settings=protocol,
        method_options={one.method.name: cli.options(one.method) for one in cfgs},
        contrast_options={one.contrast.name: cli.options(one.contrast) for one in cfgs},
        results_dir=Path(cfg.paths.results_dir),
        dataset_label=cfg.dataset.get("label") or cfg.dataset.name,
        limit=cfg.limit,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        chunk_size=cfg.chunk_size,
        num_workers=cfg.num_workers,
        on_error=cfg.on_error,
        **own,
    )
