"""The accuracy table: all finished checkpoints of a folder in one CSV."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from wcx import files
from wcx.models.checkpoints import read_meta

COLUMNS = (
    "dataset",
    "model",
    "recipe",
    "seed",
    "accuracy",
    "validation_accuracy",
    "epoch",
    "train_images",
    "test_images",
    "weights",
    "stand_in",
    "subset",
    "seconds",
    "device",
    "checkpoint",
)


def accuracies(checkpoints_dir: Path) -> pd.DataFrame:
    """Return one row for every checkpoint `<checkpoints_dir>/<dataset>/*.safetensors`, in the order of their paths."""
    rows = []
    for path in sorted(checkpoints_dir.glob("*/*.safetensors")):
        meta = read_meta(path)
        name = path.relative_to(checkpoints_dir).as_posix()
        rows.append({**meta, "recipe": meta["recipe"]["name"], "checkpoint": name})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_accuracies(checkpoints_dir: Path) -> Path:
    """Write `accuracies` to `<checkpoints_dir>/accuracies.csv`; return the file."""
    path = checkpoints_dir / "accuracies.csv"
    files.write(path, accuracies(checkpoints_dir).to_csv(index=False))
    return path
