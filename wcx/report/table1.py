"""Table 1 from the records of the masking experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from wcx.errors import WcxError
from wcx.records import Shard
from wcx.statistics import bootstrap

HEADER = (
    "dataset", "model", "method", "target", "baseline", "features_kept", "contrast", "mask", "n",
    "relative_probability_unmasked", "relative_probability", "ci_low", "ci_high", "masked_fraction", "n_skipped", "threshold",
    "foils", "weights", "subset",
)  # fmt: skip


def table(shards: Sequence[Shard], threshold: float | None = None) -> pd.DataFrame:
    """Return one row per (cell, target, baseline, features kept): means over the images above the threshold.

    Args:
        shards: of the masking experiment.
        threshold: on p_t2; None is the records' own.

    Returns:
        columns `HEADER`; the values of the names shared with results/published/table1_published.csv are as there. Intervals are
        95 % percentile bootstrap over images.

    Raises:
        WcxError: a threshold below the records' own, where masked passes were spent above it only.
    """
    return pd.DataFrame([row for shard in shards for row in _rows(shard, threshold)], columns=list(HEADER))


def _rows(shard: Shard, threshold: float | None) -> list[dict[str, Any]]:
    settings = shard.parts["settings"]
    recorded = settings["threshold"]
    threshold = recorded if threshold is None else threshold
    if threshold < recorded and settings["select"] == "above":
        raise WcxError(
            f"threshold {threshold} is below the {recorded} that {shard.path} was recorded with; run again with select=all."
        )
    records = shard.read()
    above = records[records["p_t_2"] > threshold]
    dataset, model, method, contrast = shard.key
    rows = []
    for i in range(settings["targets"]):
        target = f"t_{i + 1}"
        for baseline in settings["baselines"]:
            for kept in ("positive", "negative"):
                values = above[f"relative_probability/{target}/{baseline}/{kept}"]
                low, high = bootstrap(values, [dataset, model, method, contrast, target, baseline, kept])
                row = {
                    "dataset": shard.labels["dataset"],
                    "model": model,
                    "method": method,
                    "target": target,
                    "baseline": baseline,
                    "features_kept": kept,
                    "contrast": contrast,
                    "mask": settings["mask"],
                    "n": len(values),
                    "relative_probability_unmasked": above[f"relative_probability_unmasked/{target}"].mean(),
                    "relative_probability": values.mean(),
                    "ci_low": low,
                    "ci_high": high,
                    "masked_fraction": above[f"masked_fraction/{target}/{kept}"].mean(),
                    "n_skipped": int(records["skipped"].sum()),
                    "threshold": threshold,
                    "foils": "others" if settings["foils"] is None else str(settings["foils"]),
                    "weights": shard.labels["weights"],
                    "subset": shard.labels["subset"],
                }
                rows.append(row)
    return rows


def text(table: pd.DataFrame) -> str:
    """Return the table for a screen, in the paper's layout: a line a (dataset, model, method, target), original beside weighted."""
    if table.empty:
        return "no records"
    blocks = []
    for (dataset, model, mask, threshold), block in table.groupby(
        ["dataset", "model", "mask", "threshold"], sort=False
    ):
        n = "/".join(str(n) for n in dict.fromkeys(block["n"]))
        title = f"{dataset}, {model} [{block['weights'].iloc[0]}]: relative probability of t_i, n = {n} images with p_t2 > {threshold}, mask={mask}"
        notes = [note for note in dict.fromkeys(block["subset"]) if note]
        skipped = int(block["n_skipped"].max())
        if skipped:
            notes.append(f"{skipped} unreadable images skipped")
        wide = block.pivot_table(
            index=["method", "target", "relative_probability_unmasked"],
            columns=["baseline", "features_kept", "contrast"],
            values="relative_probability",
            sort=False,
        ).sort_index(axis=1, level=[0, 1], sort_remaining=False, key=_paper_order)
        wide = wide.reset_index("relative_probability_unmasked").rename(
            columns={"relative_probability_unmasked": "unmasked"}
        )
        blocks.append("\n".join([title, *notes, wide.to_string(float_format=lambda x: f"{x:.3f}")]))
    return "\n\n".join(blocks)


def _paper_order(labels: pd.Index) -> pd.Index:
    rank = {"blur": 0, "zeros": 1, "mean": 2, "positive": 0, "negative": 1}
    return pd.Index([rank.get(label, label) for label in labels])
