"""Which records of the masking experiment in a results folder stand in one table together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from wcx import records
from wcx.experiments import masking
from wcx.records import Shard
from wcx.report.recorded import Recorded

_CONTRASTS = ("original", "mean", "max", "weighted")  # as in the paper's text; others follow


def table1(
    results_dir: Path, own: Sequence[Shard] = (), refused: list[str] | None = None
) -> tuple[list[Shard], list[str]]:
    """Return all records that belong into one Table 1, and why others do not.

    They are complete, of this version of the experiment, and of trained networks: for each (dataset, model, seed) of one
    network, that of `own` or else of the newest records. Where two sets would be one line (other limits, say), it is the
    one of `own`, or else of the method's newer version, or else the one of more images, or else the newer.

    Args:
        results_dir: searched for records.
        own: those of the command that asks: they are always among the result.
        refused: where a line goes for each set whose shard.json is damaged; None is the log.

    Returns:
        the records, by dataset, model, method and contrast; a line for each of those left out.
    """
    chosen = {_line(shard): shard for shard in own}
    networks = {_trained(shard): shard.parts["weights"] for shard in own}
    there = {shard.path for shard in own}
    others, left_out = [], []
    for shard in records.find(results_dir, "masking", refused):
        if shard.path in there:
            continue
        if reason := _unfit(shard):
            left_out.append(f"left out: {shard.path}: {reason}")
        else:
            others.append(shard)
    for shard in sorted(others, key=_finished, reverse=True):
        networks.setdefault(_trained(shard), shard.parts["weights"])
    for shard in sorted(others, key=lambda shard: (_method(shard), shard.rows, _finished(shard)), reverse=True):
        if shard.parts["weights"] != networks[_trained(shard)]:
            left_out.append(f"left out: {shard.path}: another network of the same name than the newest records'")
        elif (line := _line(shard)) in chosen:
            newer = _method(chosen[line]) > _method(shard)
            by = f", by version {_method(chosen[line])} of the method, not {_method(shard)}" if newer else ""
            left_out.append(f"left out: {shard.path}: {chosen[line].path} is the same line of the table{by}")
        else:
            chosen[line] = shard
    return sorted(chosen.values(), key=_place), sorted(left_out)


def _place(shard: Shard) -> tuple[object, ...]:
    contrast = shard.key[3]
    order = _CONTRASTS.index(contrast) if contrast in _CONTRASTS else len(_CONTRASTS)
    return (*shard.key[:3], order, contrast, shard.path)


def _unfit(shard: Shard) -> str:
    if not shard.complete:
        return "incomplete"
    if (version := shard.parts.get("version")) != masking.Masking.version:
        return f"made by version {version} of the experiment, not {masking.Masking.version}"
    if absent := {"dataset", "weights", "subset"} - set(shard.labels):
        return f"shard.json tells no {', '.join(sorted(absent))}"
    return "random weights" if shard.labels["weights"] == "random" else ""


def _trained(shard: Shard) -> tuple[object, ...]:
    return (*shard.key[:2], shard.labels.get("seed"))


def _line(shard: Shard) -> tuple[object, ...]:
    protocol = Recorded(shard, pd.DataFrame(), shard.parts["settings"]["threshold"]).protocol
    return (*shard.key, protocol, shard.labels.get("seed"))


def _method(shard: Shard) -> int:
    return shard.parts.get("method_version", 1)


def _finished(shard: Shard) -> float:
    return (shard.path / "complete.json").stat().st_mtime
