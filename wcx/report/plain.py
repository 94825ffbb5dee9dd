"""The table of a cell's records: an experiment's own where it has one, else the plain one, a line a recorded quantity."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType

import pandas as pd

from wcx import statistics
from wcx.records import Shard
from wcx.report.recorded import Opened

_TABLES = {"masking": "wcx.report.table1", "sign_perturbation": "wcx.report.fig3"}  # with `table` and `text`
HEADER = (
    *("dataset", "model", "method", "contrast", "quantity", "n", "mean", "ci_low", "ci_high", "n_skipped"),
    *("weights", "subset"),
)
_FACTS = ("index", "id", "label", "skipped", "above_threshold")  # of an image: no quantities


def table(shards: Sequence[Shard]) -> pd.DataFrame:
    """Return the table of one experiment's records: `table` of its own module, or `quantities`."""
    module = _module(shards[0].experiment)
    return module.table(shards) if module else quantities(shards)


def text(frame: pd.DataFrame, experiment: str) -> str:
    """Return a table of `table` for a screen."""
    module = _module(experiment)
    if module:
        return str(module.text(frame))
    columns = [name for name in HEADER if name not in ("weights", "subset")]
    notes = [
        f"{name}: {'; '.join(frame[name].unique())}" for name in ("weights", "subset") if (frame[name] != "").any()
    ]
    return "\n".join([frame[columns].to_string(index=False, float_format="{:.4g}".format), *notes])


def quantities(shards: Sequence[Shard]) -> pd.DataFrame:
    """Return one row per (cell, quantity): its mean over the images above the threshold, where there is one.

    Columns `HEADER`; intervals are 95 % percentile bootstrap over images. An image where a quantity is not defined is left
    out of its mean and of n.
    """
    rows = []
    for shard in shards:
        opened = Opened(shard, shard.read())
        measured = opened.rows[~opened.rows["skipped"]]
        if "above_threshold" in measured:
            measured = measured[measured["above_threshold"]]
        about = dict(zip(HEADER, (shard.labels["dataset"], *shard.key[1:]), strict=False))
        for name in measured.select_dtypes("number"):
            values = measured[name].dropna()
            if name in _FACTS or name.startswith("t_"):
                continue
            low, high = statistics.bootstrap(values, opened.key(name))
            row = {"quantity": name, "n": len(values), "mean": values.mean(), "ci_low": low, "ci_high": high}
            row |= {"n_skipped": int(opened.rows["skipped"].sum())}
            rows.append(about | row | {"weights": opened.weights, "subset": opened.subset})
    return pd.DataFrame(rows, columns=list(HEADER))


def _module(experiment: str) -> ModuleType | None:
    return importlib.import_module(_TABLES[experiment]) if experiment in _TABLES else None
