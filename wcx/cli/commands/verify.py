"""Check the theory in numbers: oracles, float32's stability, cost, integrated gradients, mean, perturbation; and one figure.

python scripts/verify.py                              everything; what is there already is not measured again
python scripts/verify.py parts=[oracle] networks=[conv_batchnorm,bias_free] methods=[gradcam] contrasts=[weighted,max]
python scripts/verify.py parts=[stability,perturbation] limit=100

Tables (CSV) and figures go to <results>/verify. Photographs are the ImageNet sample's (paths.data_dir), weights as for run.py.
The oracle needs captum: pip install captum.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from wcx import contrasts, methods, models
from wcx.checks.cells import Request
from wcx.checks.specimens import NETWORKS
from wcx.cli import application, grid, opening
from wcx.cli.grid import Grid
from wcx.datasets import ImageDataset
from wcx.errors import WcxError, choose
from wcx.models import LoadedModel


class Composed(Request):
    """A request whose datasets and models are those of composed configurations."""

    def images(self, dataset: str, model: str) -> ImageDataset:
        """See `Request.images`."""
        return opening.open_dataset(self._compose(dataset, model), "test")

    def network(self, model: str, dataset: ImageDataset | None = None) -> LoadedModel:
        """See `Request.network`."""
        return opening.open_model(self._compose(dataset.name if dataset else "imagenet", model), dataset)

    def fresh(self, model: str, weights: str) -> LoadedModel:
        """See `Request.fresh`."""
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
    asked = Grid.of(cfg, "verify", "verify")
    choices = {"networks": NETWORKS, "methods": methods.names(), "contrasts": contrasts.names()}
    lists = {key: opening.plain(cfg[key]) or names for key, names in choices.items()}
    for key, names in lists.items():
        for name in names:
            choose(key.removesuffix("s"), name, choices[key])
    return Composed(
        folder=Path(cfg.paths.results_dir) / "verify",
        **lists,
        typed=tuple(asked.overrides),
        limit=cfg.limit,
        seed=cfg.seed,
        epsilon=cfg.epsilon,
        checkpoints_dir=Path(cfg.paths.checkpoints_dir),
    )


def run(cfg: DictConfig) -> None:
    """Run the parts asked for; exit code 1 if an oracle disagrees."""
    parts = [choose("part", part, grid.settings("verify")["parts"]) for part in cfg.parts]
    checks = [importlib.import_module(f"wcx.checks.{part}") for part in parts]
    asked = request(cfg)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    agreed = True
    for part, module in zip(parts, checks, strict=True):
        print(f"\n== {part}")
        result = module.check(asked)
        print(result.text)
        agreed &= result.agreed
    print(f"\ntables and figures: {asked.folder}")
    if not agreed:
        sys.exit(1)


def complete(arguments: Sequence[str]) -> list[str]:
    """Return the command line with its lists as such.

    Raises:
        WcxError: a dataset or model.
    """
    for text in arguments:
        if text.startswith(("dataset=", "model=")):
            raise WcxError(f"{text}: every part has its own; networks=[...] chooses those of the oracle.")
    return grid.complete(arguments, "verify")


def main() -> None:
    """Run the command line."""
    application.main(run, "verify", complete)
