"""Rows across fine-tuning seeds: what the intervals over images do not cover."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
from scipy import stats

from wcx.report.masking.cells import COLUMNS, KEYS, MaskedCell, table
from wcx.report.tables import Column, Table

HEADER = (
    *KEYS, "contrast", "mask", "seeds", "n", "relative_probability", "sd", "ci_low", "ci_high", "lowest", "highest",
    "n_skipped", "threshold", "foils", "subset",
)  # fmt: skip
_COLUMNS = (
    Column("seeds", "Of the fine-tuning."),
    Column("relative_probability", "Mean over the seeds.", "mean", ".3f", interval=("ci_low", "ci_high")),
    Column("sd", "Standard deviation over the seeds.", format=".3f"),
    Column("lowest", "Of the seeds' means.", format=".3f"),
    Column("highest", "Of the seeds' means.", format=".3f"),
)
_SHOWN = (*KEYS, "contrast", "seeds", "mask", "threshold", "foils", "n", *(column.name for column in _COLUMNS[1:]))


def frame(cells: Sequence[MaskedCell]) -> pd.DataFrame:
    """Return one row per cell of Table 1 for networks fine-tuned with several seeds, and one for weighted - original.

    Args:
        cells: of one protocol.

    Returns:
        columns `HEADER`, then recipe and protocol: mean over the seeds of each network's mean over its images, standard
        deviation, 95 % interval from Student's t over seeds (another training, of this recipe), lowest and highest; `seeds`
        names them, `n` is the number of images and `n_skipped` of unreadable ones, all seeds together. Empty without a
        second seed.
    """
    frames = []
    for contrasts in _trainings(cells):
        frames += [_rows(contrast) for contrast in contrasts.values() if len(contrast) > 1]
        pair = [contrasts[name] for name in ("weighted", "original") if name in contrasts]
        common = sorted(set(pair[0]) & set(pair[1])) if len(pair) == 2 else []
        if len(common) > 1:
            weighted, original = ({seed: seeds[seed] for seed in common} for seeds in pair)
            frames.append(_rows(weighted, minus=original))
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(HEADER))
    return rows[[*HEADER, *(name for name in rows if name not in HEADER)]]


def seeds_table(rows: pd.DataFrame, protocol: str) -> Table:
    """Return the table of a frame."""
    note = (
        "Mean over the seeds of each network's mean; the interval (Student's t over seeds) covers another training, and with a "
        "limit other images, as each seed draws its own. n: images, all seeds together."
    )
    columns, title = (*COLUMNS, *_COLUMNS), f"Across fine-tuning seeds ({protocol})"
    return table("seeds", title, columns, rows, HEADER, note, shown=_SHOWN)


def _trainings(cells: Sequence[MaskedCell]) -> Iterator[Mapping[str, Mapping[int, MaskedCell]]]:
    """Yield contrast -> seed -> records, for every (dataset, model, method, recipe) with more than one seed."""
    groups: dict[tuple[object, ...], dict[str, dict[int, MaskedCell]]] = {}
    for cell in cells:
        if cell.seed is not None:
            key = (*cell.shard.key[:3], cell.shard.labels.get("recipe"))
            groups.setdefault(key, {}).setdefault(cell.shard.key[3], {})[cell.seed] = cell
    yield from (group for group in groups.values() if max(map(len, group.values())) > 1)


def _rows(seeds: Mapping[int, MaskedCell], minus: Mapping[int, MaskedCell] | None = None) -> pd.DataFrame:
    first = next(iter(seeds.values()))
    means, contrast = _means(seeds), first.shard.key[3]
    if minus:
        means -= _means(minus)
        contrast = f"{contrast} - {next(iter(minus.values())).shard.key[3]}"
    k = means.shape[1]
    mean, sd = means.mean(axis=1), means.std(axis=1)
    half = stats.t.ppf(0.975, k - 1) * sd / k**0.5
    numbers = {"relative_probability": mean, "sd": sd, "ci_low": mean - half, "ci_high": mean + half}
    numbers |= {"lowest": means.min(axis=1), "highest": means.max(axis=1)}
    shared = first.names | {"contrast": contrast, "mask": first.settings["mask"], "seeds": " ".join(map(str, seeds))}
    shared |= {"n": sum(len(cell.selected) for cell in seeds.values())}
    shared |= {"n_skipped": sum(cell.n_skipped for cell in seeds.values()), "threshold": first.threshold}
    shared |= {"foils": first.foils, "subset": first.subset}
    shared |= {"recipe": first.shard.labels.get("recipe"), "protocol": first.protocol}
    return first.places.assign(**numbers, **shared)


def _means(seeds: Mapping[int, MaskedCell]) -> pd.DataFrame:
    """Return the mean of every number of a cell, a column a seed."""
    return pd.DataFrame({seed: cell.selected[cell.places.index].mean() for seed, cell in seeds.items()})
