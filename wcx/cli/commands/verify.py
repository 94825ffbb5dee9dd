"""The theory in numbers: oracles, float32's stability, cost, integrated gradients, mean, perturbation; and one figure.

wcx verify                              everything; what is there already is not measured again
wcx verify parts=[oracle] networks=[conv_batchnorm,bias_free] methods=[gradcam] contrasts=[weighted,max]
wcx verify parts=[stability,perturbation] limit=100
wcx stability limit=100                               one of them by its name

Records go to <results>/records, tables to <results>/tables, figures to <results>/verify; plan=true tells what is missing.
Photographs are the ImageNet sample's (paths.data_dir), weights as for run.py.
The oracle needs captum: pip install captum.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from wcx import checks, contrasts, methods, models, pipeline
from wcx.checks import Request, Verification, figure
from wcx.checks.specimens import NETWORKS
from wcx.cli import application, grid, opening
from wcx.cli.grid import Grid
from wcx.datasets import ImageDataset
from wcx.errors import WcxError, choose
from wcx.models import LoadedModel
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report import tables
from wcx.report.pictures.draw import write_figure

FIGURE = "figure"  # the part that draws, and keeps no records


@dataclass(frozen=True)
class ComposedRequest(Request):
    """A request whose datasets and models are those of composed configurations.

    Attributes:
        typed: the settings beside the lists that were chosen, as text.
    """

    typed: tuple[str, ...] = ()

    def images(self, dataset: str, model: str) -> ImageDataset:
        return opening.open_dataset(self._compose(dataset, model), "test")

    def network(self, model: str, dataset: ImageDataset | None = None) -> LoadedModel:
        return opening.open_model(self._compose(dataset.name if dataset else "imagenet", model), dataset)

    def fresh(self, model: str, weights: str) -> LoadedModel:
        cfg = self._compose("imagenet", model)
        arguments = opening.plain(cfg.model) | {"weights": weights, "checkpoint": None, "num_classes": 1000}
        return models.load(**arguments, weights_dir=cfg.paths.weights_dir, device=opening.device(cfg), seed=cfg.seed)

    def _compose(self, dataset: str, model: str) -> DictConfig:
        return application.compose([f"dataset={dataset}", f"model={model}", *self.typed], "verify")


def request(cfg: DictConfig) -> Request:
    """Return what a configuration asks for.

    Raises:
        WcxError: a network, method, contrast or setting that there is not.
    """
    choices = {"networks": NETWORKS, "methods": methods.names(), "contrasts": contrasts.names()}
    usual = choices | {"methods": methods.of_gradients()}
    lists = {key: opening.plain(cfg[key]) or names for key, names in usual.items()}
    for key, names in lists.items():
        for name in names:
            choose(key.removesuffix("s"), name, choices[key])
    return ComposedRequest(
        **lists,
        typed=tuple(Grid.of(cfg).overrides),
        limit=cfg.limit,
        seed=cfg.seed,
        epsilon=cfg.epsilon,
        checkpoints_dir=Path(cfg.paths.checkpoints_dir),
        recipe=cfg.checkpoint_recipe,
        common={"results_dir": Path(cfg.paths.results_dir)} | {key: cfg[key] for key in ("num_workers", "on_error")},
    )


def run(cfg: DictConfig) -> None:
    """Run the parts asked for, or print their plan; exit code 1 if an oracle disagrees."""
    parts = [choose("part", part, [*checks.names(), FIGURE]) for part in cfg.parts]
    run_by = {part: checks.of_part(part) for part in parts if part != FIGURE}
    asked, results, over = request(cfg), Path(cfg.paths.results_dir), 0
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for part in parts:
        print(f"\n== {part}", flush=True)
        if part == FIGURE and not cfg.plan:
            print("figure:", *figure.drawn(asked, results / "verify", opening.plain(cfg.formats), cfg.style))
        for check in run_by.get(part, []):
            shards = filled(check, check.jobs(asked), cfg)
            if shards:
                show(check, shards, cfg)
                over += check.disagreements(shards)
    if over:
        sys.exit(1)


def filled(check: type[Verification], jobs: Iterable[Job], cfg: DictConfig) -> list[Shard]:
    """Return the records of a check's jobs, computed where they are missing; of a plan none, the plan is printed."""
    shards: list[Shard] = []
    config, passes, fresh = OmegaConf.to_yaml(cfg, resolve=True), Counter[str](), 0
    with tqdm(desc=check.name(), unit="row", disable=cfg.plan, mininterval=1.0, delay=1.0, leave=False) as bar:
        for job in jobs:
            if cfg.plan:
                print("; ".join(f"{key}: {value}" for key, value in pipeline.plan(job).items()), flush=True)
                continue
            computed, done = pipeline.run(job, config, progress=bar.update)
            shards, passes = shards + computed, passes + done
        fresh = bar.n
    if shards:
        none = "none was counted" if fresh else "none: all records were there"
        print(f"passes (images): {dict(passes) or none}")
    return shards


def show(check: type[Verification], shards: Sequence[Shard], cfg: DictConfig) -> None:
    """Print the tables of a check and write them, and its drawing."""
    results = Path(cfg.paths.results_dir)
    summary = check.summaries(shards)
    print(*(table.to_text() for table in summary), sep="\n\n")
    if remark := check.remark(shards):
        print(f"\n{remark}")
    tables.write(summary, results)
    if drawing := check.picture(shards):
        print("figure:", *write_figure(drawing, results / "verify" / check.name(), opening.plain(cfg.formats)))
    print(f"table: {results / 'tables' / summary[0].name}_full.csv", f"records: {results / 'records'}", sep="\n")


def complete(arguments: Sequence[str]) -> list[str]:
    """Return the command line with its lists as such.

    Raises:
        WcxError: a dataset or model.
    """
    for text in arguments:
        if text.startswith(("dataset=", "model=")):
            raise WcxError(f"{text}: every part has its own; networks=[...] chooses those of the oracle.")
    return grid.complete(arguments, "verify")
