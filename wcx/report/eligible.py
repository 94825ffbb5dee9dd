"""Which records of an experiment in a results folder stand in one report together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from wcx import experiments, records
from wcx.records import Shard
from wcx.report.opened import UNCHECKED, stated

_CONTRASTS = ("original", "mean", "max", "weighted", "probability")  # as in the paper's text; others follow
_LABELS = ("dataset", "weights", "subset")


def eligible(
    results_dir: Path,
    experiment: str,
    protocol: Callable[[Shard], Hashable],
    shards: Sequence[Shard] = (),
    refused: list[str] | None = None,
    is_random_fit: bool = True,
) -> tuple[list[Shard], list[str]]:
    """Return all records that belong into one report, and why others do not.

    They are complete and of one version of the experiment, its own or, where it has no such records here, the newest: versions
    are never pooled. For each (dataset, model, seed, recipe) of one network, that of `shards` or else of the newest records, a
    trained one first. Where two sets would be one line (other limits, say), it is the one of `shards`, or else of the method's
    newer version, or else one that tells LRP's composite, or else the one of more images, or else the newer.

    Args:
        protocol: what tells protocols apart that stand side by side.
        shards: those of the command that asks: they are always among the result.
        refused: where a line goes for each set whose shard.json is damaged; None is the log.
        is_random_fit: whether networks of random weights are taken.

    Returns:
        the records, by dataset, model, method and contrast; a line for each of those left out.
    """

    def line(shard: Shard) -> tuple[Hashable, ...]:
        return (*shard.key, protocol(shard), shard.labels.get("seed"), shard.parts["weights"])

    current = experiments.get(experiment).version if experiment in experiments.names() else None
    versions = {shard.parts.get("version") for shard in records.find(results_dir, experiment, []) if shard.complete}
    is_current = shards or current in versions or not versions
    version = current if is_current else max(versions, key=lambda version: version or 0)
    chosen = {line(shard): shard for shard in shards}
    networks = {_trained(shard): shard.parts["weights"] for shard in shards}
    present = {shard.path for shard in shards}
    candidates, left_out = [], []
    for shard in records.find(results_dir, experiment, refused):
        if shard.path in present:
            continue
        if reason := _unfit(shard, version, is_random_fit):
            left_out.append(f"left out: {shard.path}: {reason}")
        else:
            candidates.append(shard)
    for shard in sorted(candidates, key=lambda shard: (not _is_random(shard), _finished(shard)), reverse=True):
        networks.setdefault(_trained(shard), shard.parts["weights"])
    for shard in sorted(candidates, key=lambda shard: (_method(shard), shard.rows, _finished(shard)), reverse=True):
        if shard.parts["weights"] != networks[_trained(shard)]:
            left_out.append(f"left out: {shard.path}: another network of the same name than the newest records'")
        elif (rival := chosen.setdefault(line(shard), shard)) is not shard:
            (newer, is_told), (older, was_told) = _method(rival), _method(shard)
            by = f", by version {newer} of the method, not {older}" if newer > older else ""
            by = by or ", and tells the composite of lrp" * (is_told and not was_told)
            left_out.append(f"left out: {shard.path}: {rival.path} is the same line of the table{by}")
    return sorted(chosen.values(), key=_place), sorted(left_out)


def _place(shard: Shard) -> tuple[object, ...]:
    contrast = shard.key[3]
    order = _CONTRASTS.index(contrast) if contrast in _CONTRASTS else len(_CONTRASTS)
    return (*shard.key[:3], order, contrast, shard.path)


def _unfit(shard: Shard, version: int | None, is_random_fit: bool) -> str:
    if not shard.complete:
        return "incomplete"
    if version is not None and (recorded := shard.parts.get("version")) != version:
        return f"made by version {recorded} of the experiment, not {version}"
    if absent := set(_LABELS) - set(shard.labels):
        return f"shard.json tells no {', '.join(sorted(absent))}"
    return "" if is_random_fit or not _is_random(shard) else "random weights"


def _is_random(shard: Shard) -> bool:
    return bool(shard.labels["weights"] == "random")


def _trained(shard: Shard) -> tuple[object, ...]:
    return (*shard.key[:2], shard.labels.get("seed"), shard.labels.get("recipe"))


def _method(shard: Shard) -> tuple[int, bool]:
    """Return the method's version, and whether the records tell the rules that were taken."""
    return int(shard.parts.get("method_version", 1)), stated(shard).get("composite") != UNCHECKED


def _finished(shard: Shard) -> float:
    return (shard.path / "complete.json").stat().st_mtime
