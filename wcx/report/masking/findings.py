"""What the tests of Table 1 found, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

LEVEL = 0.05


def paired(frame: pd.DataFrame, protocol: str) -> Iterator[str]:
    """Yield in how many cells weighted beats original, a sentence a model."""
    for model, cells in frame.groupby("model", sort=False):
        is_sure, wins, losses = cells["p_holm"] < LEVEL, cells["better"] == "weighted", cells["better"] == "original"
        yield (
            f"{model}, {protocol}: weighted beats original in {wins.sum()} of {len(cells)} cells ({(wins & is_sure).sum()} with "
            f"p < {LEVEL} after Holm's correction for m = {cells['m'].iloc[0]}), original beats weighted in {losses.sum()} "
            f"({(losses & is_sure).sum()}). Hidden pixels, weighted against original: {_hidden(cells, 'positive')} where positive "
            f"features are kept, {_hidden(cells, 'negative')} where negative ones are"
        )


def localisation(frame: pd.DataFrame) -> Iterator[str]:
    """Yield in how many cells original has more of its positive attribution inside the box, a sentence a model and dataset."""
    for (model, dataset), cells in frame[frame["n"] > 0].groupby(["model", "dataset"], sort=False):
        is_sure, ahead, behind = cells["p_holm"] < LEVEL, cells["difference"] < 0, cells["difference"] > 0
        yield (
            f"{model}, {dataset}: original has more of its positive attribution inside the box in {ahead.sum()} of {len(cells)} "
            f"cells ({(ahead & is_sure).sum()} with p < {LEVEL} after Holm's correction for m = {cells['m'].iloc[0]}), weighted in "
            f"{behind.sum()} ({(behind & is_sure).sum()})"
        )


def headline(frame: pd.DataFrame) -> tuple[str, str] | None:
    """Return the first number: in how many cells weighted beats original, and what that is of."""
    if frame.empty:
        return None
    wins = (frame["better"] == "weighted").sum()
    return (
        f"{wins} of {len(frame)}",
        f"cells in which weighted beats original, {', '.join(dict.fromkeys(frame['model']))}",
    )


def _hidden(cells: pd.DataFrame, kept: str) -> str:
    shares = cells[cells["features_kept"] == kept]
    return " against ".join(f"{100 * shares[f'masked_{name}'].mean():.0f} %" for name in ("weighted", "original"))
