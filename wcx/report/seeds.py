"""Rows across fine-tuning seeds: what the intervals over images do not cover."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from scipy import stats

from wcx.report.recorded import Recorded

HEADER = (
    "dataset", "model", "method", "target", "baseline", "features_kept", "contrast", "mask", "seeds", "n",
    "relative_probability", "sd", "ci_low", "ci_high", "lowest", "highest", "n_skipped", "threshold", "foils",
    "subset",
)  # fmt: skip


def table(recorded: Sequence[Recorded]) -> pd.DataFrame:
    """Return one row per cell of Table 1 for networks fine-tuned with several seeds, and one for weighted - original.

    Args:
        recorded: of one protocol.

    Returns:
        columns `HEADER`: mean over the seeds of each network's mean over its images, standard deviation, 95 % interval
        from Student's t over seeds (another training, of this recipe), lowest and highest; `seeds` names them, `n` is the
        number of images and `n_skipped` of unreadable ones, all seeds together. Empty without a second seed.
    """
    rows = []
    for several in _several(recorded):
        rows += [row for contrast in several.values() if len(contrast) > 1 for row in _rows(contrast)]
        both = [several[name] for name in ("weighted", "original") if name in several]
        common = sorted(set.intersection(*(set(those) for those in both))) if len(both) == 2 else []
        if len(common) > 1:
            weighted, original = ({seed: those[seed] for seed in common} for those in both)
            rows += _rows(weighted, minus=original)
    return pd.DataFrame(rows, columns=list(HEADER))


def _several(recorded: Sequence[Recorded]) -> Iterator[dict[str, dict[int, Recorded]]]:
    """Yield contrast -> seed -> records, for every (dataset, model, method, recipe) with more than one seed."""
    groups: dict[tuple[object, ...], dict[str, dict[int, Recorded]]] = {}
    for one in recorded:
        if one.seed is not None:
            key = (*one.shard.key[:3], one.shard.labels.get("recipe"))
            groups.setdefault(key, {}).setdefault(one.shard.key[3], {})[one.seed] = one
    yield from (group for group in groups.values() if any(len(seeds) > 1 for seeds in group.values()))


def _rows(seeds: dict[int, Recorded], minus: dict[int, Recorded] | None = None) -> list[dict[str, object]]:
    first = next(iter(seeds.values()))
    means = pd.DataFrame({seed: one.selected[first.values].mean() for seed, one in seeds.items()})
    contrast = first.shard.key[3]
    if minus:
        means -= pd.DataFrame({seed: one.selected[first.values].mean() for seed, one in minus.items()})
        contrast = f"{contrast} - {next(iter(minus.values())).shard.key[3]}"
    k = means.shape[1]
    mean, sd = means.mean(axis=1), means.std(axis=1)
    half = stats.t.ppf(0.975, k - 1) * sd / k**0.5
    summary = pd.DataFrame(
        {
            "relative_probability": mean,
            "sd": sd,
            "ci_low": mean - half,
            "ci_high": mean + half,
            "lowest": means.min(axis=1),
            "highest": means.max(axis=1),
        }
    )
    dataset, (_, model, method, _) = first.shard.labels["dataset"], first.shard.key
    shared = {
        "dataset": dataset,
        "model": model,
        "method": method,
        "contrast": contrast,
        "mask": first.settings["mask"],
    }
    shared |= {"seeds": " ".join(map(str, seeds)), "n": sum(len(one.selected) for one in seeds.values())}
    shared |= {"n_skipped": sum(int(one.rows["skipped"].sum()) for one in seeds.values()), "threshold": first.threshold}
    shared |= {"foils": first.foils, "subset": first.subset}
    return [
        shared | {"target": target, "baseline": baseline, "features_kept": kept} | summary.loc[column].to_dict()
        for (target, baseline, kept), column in zip(first.cells, first.values, strict=True)
    ]
