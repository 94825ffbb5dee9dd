"""Sweeps by Hydra's launchers: jobs in processes of their own, here as on SLURM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="make test-extras")
SMALL = [
    "dataset=parts",
    "dataset.size=48",
    "model.weights=random",
    "limit=8",
    "threshold=0",
    "figure=0",
    "batch_size=4",
]


@pytest.mark.parametrize(
    "launcher", [["submitit_local"], ["joblib", "hydra.launcher.n_jobs=2"]], ids=["submitit", "joblib"]
)
def test_a_sweep(launcher: list[str], tmp_path: Path, root: Path) -> None:
    name, *more = launcher
    arguments = [f"hydra/launcher={name}", *more, "contrast=original,weighted", f"paths.results_dir={tmp_path}"]
    command = [sys.executable, str(root / "run.py"), "-m", *arguments, *SMALL]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    contrasts = {file.parent.parent.name for file in tmp_path.rglob("complete.json")}
    assert contrasts == {"original", "weighted"}
