"""Records, maps and manifests as Parquet with a data card; experiment=twins: drawn birds with their truth (wcx[export]).

wcx export                                                   all records of the results folder, into <results>/export
wcx export experiment=masking paths.results_dir=elsewhere    those of one experiment
wcx export experiment=twins limit=100 to=birds               drawn birds, their twins, part masks, Shapley values, questions

Nothing is uploaded, and no photograph is written. Damaged records are left out and named, and the exit code is 1.
"""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from wcx import experiments
from wcx.cli import grid, opening


def run(cfg: DictConfig) -> None:
    """Write the files, and name them."""
    from wcx.report.sharing import birds, results  # pandas is slow to import

    refused: list[str] = []
    typed = {str(text).partition("=")[0] for text in HydraConfig.get().overrides.task}
    if "experiment" in typed and experiments.get(cfg.experiment).needs_twins:
        files = birds.write(opening.job([cfg]), Path(cfg.to))
    else:
        name = cfg.experiment if "experiment" in typed else None
        files = results.write(Path(cfg.paths.results_dir), Path(cfg.to), name, refused)
    print(f"{len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB; data card: {files[-1]}")
    grid.fail({}, refused)
