"""Which records of the masking experiment in a results folder stand in one table together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from wcx import records
from wcx.experiments import masking
from wcx.records import Shard
from wcx.report.recorded import Recorded

_CONTRASTS = ("original", "mean", "max", "weighted")  # as in the paper's text; others follow


def table1(results_dir: Path, own: Sequence[Shard] = ()) -> tuple[list[Shard], list[str]]:
    """Return all records that belong into one Table 1, and why others do not.

    They are complete, of this version of the experiment, and of trained networks: for each (dataset, model, seed) of one
    network, that of `own` or else of the newest records. Where two sets would be one line (other limits, say), it is the
    one of `own`, or else the one of more images, or else the newer.

    Args:
        results_dir: searched for records.
        own: those of the command that asks: they are always among the result.

    Returns:
        the records, by dataset, model, method and contrast; a line for each of those left out.
    """
    chosen = {_line(shard): shard for shard in own}
    networks = {_trained(shard): shard.parts["weights"] for shard in own}
    there = {shard.path for shard in own}
    others, left_out = [], []
    for shard in records.find(results_dir, "masking"):
        if shard.path in there:
            continue
        if reason := _unfit(shard):
            left_out.append(f"left out: {shard.path}: {reason}")
        else:
            others.append(shard)
    for shard in sorted(others, key=_finished, reverse=True):
        networks.setdefault(_trained(shard), shard.parts["weights"])
    for shard in sorted(others, key=lambda one: (_rows(one), _finished(one)), reverse=True):
        if shard.parts["weights"] != networks[_trained(shard)]:
            left_out.append(f"left out: {shard.path}: another network of the same name than the newest records'")
        elif (line := _line(shard)) in chosen:
            left_out.append(f"left out: {shard.path}: {chosen[line].path} is the same line of the table")
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
    if (version := shard.parts.get("version")) != masking.VERSION:
        return f"made by version {version} of the experiment, not {masking.VERSION}"
    return "random weights" if shard.labels["weights"] == "random" else ""


def _trained(shard: Shard) -> tuple[object, ...]:
    return (*shard.key[:2], shard.labels.get("seed"))


def _line(shard: Shard) -> tuple[object, ...]:
    protocol = Recorded(shard, pd.DataFrame(), shard.parts["settings"]["threshold"]).protocol
    return (*shard.key, protocol, shard.labels.get("seed"))


def _rows(shard: Shard) -> int:
    return json.loads((shard.path / "complete.json").read_text())["rows"]


def _finished(shard: Shard) -> float:
    return (shard.path / "complete.json").stat().st_mtime
