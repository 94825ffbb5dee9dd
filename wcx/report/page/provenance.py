"""How results are made again, and what they were made with: commands in their order, machines, and every set of records."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from wcx.records import Shard
from wcx.report import commands
from wcx.report.page.contents import Contents, RecordSet
from wcx.report.sections import counted
from wcx.report.tables import Column, Table

_SHORT = 12  # digits of a hash
_SHARED = ("git_commit", "device", "platform", "versions")


def steps(contents: Contents, titles: Mapping[str, str]) -> list[tuple[str, str, list[str]]]:
    """Return (title, note, commands) of everything there is, in the order in which it is to be run."""
    recorded = [
        (title, "", _once(each.command for each in contents.sets if each.shard.experiment == name))
        for name, title in titles.items()
    ]
    pictures = [*contents.galleries, *contents.photographs]
    page = f"wcx report {shlex.quote(f'paths.results_dir={contents.folder}')}"
    networks = finetuning(each.shard for each in contents.sets)
    listed = [
        ("The networks", "Fine-tune once; what is finished is skipped.", networks),
        *recorded,
        ("Pictures", "", _once(drawn.command for drawn in pictures)),
        ("This page", "", [page]),
    ]
    return [step for step in listed if step[2]]


def finetuning(shards: Iterable[Shard]) -> list[str]:
    """Return the commands of fine-tuning, for the records of networks that were fine-tuned."""
    lines = []
    for shard in shards:
        if recipe := shard.labels.get("recipe"):  # older records have no such fact
            overrides = [*commands.dataset(shard), *commands.network(shard), f"recipe={recipe}"]
            overrides += [f"seed={shard.labels['seed']}"] if shard.labels.get("seed") else []
            lines.append(f"wcx finetune {shlex.join(overrides)}")
    return _once(lines)


def machines(sets: Iterable[RecordSet]) -> list[dict[str, str]]:
    """Return what records were made with, those of the same commit, device and versions together."""
    shared = Counter(json.dumps({key: each.manifest.get(key) for key in _SHARED}, sort_keys=True) for each in sets)
    return [_machine(json.loads(facts)) | {"made": f"{counted(n, 'set')} of records"} for facts, n in shared.items()]


def _machine(shared: Mapping[str, Any]) -> dict[str, str]:
    versions = shared["versions"] if isinstance(shared["versions"], dict) else {}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    facts = {"commit": shared["git_commit"], "device": shared["device"], "platform": shared["platform"]}
    return {name: str(fact or "not recorded") for name, fact in (facts | {"versions": listed}).items()}


def table(sets: Sequence[RecordSet]) -> Table:
    """Return a table of every set of records: what, how much, its state, seed, hashes and commit."""
    images = Column("images", "rows of complete records", format=".0f")
    columns = [images if name == "images" else Column(name) for name in _row(sets[0])]
    frame = pd.DataFrame([_row(each) for each in sets])
    return Table("records", "Every set of records", tuple(columns), frame, is_main=False)


def _row(each: RecordSet) -> dict[str, Any]:
    shard, manifest = each.shard, each.manifest
    return {
        "dataset": each.dataset,
        "model": shard.key[1],
        "method": shard.key[2],
        "contrast": shard.key[3],
        "experiment": shard.experiment,
        "images": shard.rows if shard.complete and not each.fault else float("nan"),
        "state": each.state,
        "seed": str(manifest.get("seed", "–")),
        "weights hash": str(shard.parts.get("weights", "–"))[:_SHORT],
        "listing hash": str(shard.parts.get("dataset", "–"))[:_SHORT],
        "fingerprint": shard.path.name.rpartition("-")[2],
        "commit": str(manifest.get("git_commit") or "–")[:_SHORT],
        "weights": str(shard.labels.get("weights", "")),
        "subset": str(shard.labels.get("subset", "") or "all images"),
    }


def _once(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, lines)))
