"""The history of a fine-tuning as CSV and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wcx.training.loop import HISTORY


def write_history(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Write one line per epoch; values that do not exist (no hold-out) are empty."""
    pd.DataFrame(history, columns=list(HISTORY)).to_csv(path, index=False)


def write_curve(path: Path, history: Sequence[dict[str, float]], accuracy: float, title: str) -> None:
    """Draw loss and accuracy over the epochs (PNG), with the final test accuracy as a level."""
    table = pd.DataFrame(history, columns=list(HISTORY))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    figure.suptitle(title)
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        parts = ("train", "train (while learning)", "o-"), ("validation", "held-out tenth of train", "s--")
        for part, name, line in parts:
            values = table[f"{part}_{what}"]
            if values.notna().any():
                axes.plot(table["epoch"], values, line, markersize=3, label=name)
        if what == "accuracy":
            axes.axhline(accuracy, color="black", linestyle=":", linewidth=1, label=f"test, at the end: {accuracy:.3f}")
            axes.set_ylim(0, 1.02)
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel(what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper right" if what == "loss" else "lower right")
    figure.savefig(path, dpi=120)
