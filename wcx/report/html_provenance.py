"""The report's last sections: the commands that make each item again, and what the records were made with."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from typing import Any

from wcx.manifest import command_line
from wcx.report import commands
from wcx.report.html_cells import text
from wcx.report.html_elements import Column, Markup, command, join, number, table, tag, words
from wcx.report.html_results import Made, Results
from wcx.report.html_section import Section, count, details

_RUN = ("make table1", "make fig3", "python run.py")
_HASHES = ("weights hash", "listing hash", "fingerprint", "commit")
_SHORT = 12  # digits of a hash


def reproduce(results: Results) -> Section:
    """Return the section of commands, in the order in which they are to be run."""
    steps = [
        ("The networks", "Fine-tune once; what is finished is skipped.", _trained(results.made)),
        ("Table 1", "What is recorded already is not computed again.", _recorded(results.of("masking"))),
        ("Fig. 3", "", _recorded(results.of("sign_perturbation"))),
        ("Pictures", "", _drawn(results)),
        ("This page", "", [f"python scripts/report.py {shlex.quote(f'paths.results_dir={results.folder}')}"]),
    ]
    body = [
        join(tag("h3", title), tag("p", said, class_="note") if said else None, map(command, lines))
        for title, said, lines in steps
        if lines
    ]
    total = sum(len(list(lines)) for _, _, lines in steps)
    intro = words(
        "Run in the repository, in this order. The commands are those that made the numbers, as recorded with them; one that "
        "was run from elsewhere is written anew from its records."
    )
    return Section("reproduce", "How to reproduce", count(total, "command"), join(body), intro=intro)


def command_of(made: Made) -> str:
    """Return the command that made a shard: as its manifest has it; from its records, if that was no runner of ours."""
    return command_line(made.manifest.get("command")) or commands.command(made.shard)


def _recorded(made: Iterable[Made]) -> list[str]:
    return list(dict.fromkeys(map(command_of, made)))


def _drawn(results: Results) -> list[str]:
    """Return the commands of the pictures."""
    items = (*results.gallery, *results.photographs)
    return list(dict.fromkeys(item.command for item in items if item.command))


def _trained(made: Iterable[Made]) -> list[str]:
    """Return the commands of fine-tuning, for the records of networks that were."""
    steps: dict[str, None] = {}
    for shard in (record.shard for record in made):
        labels = shard.labels
        named = re.search(r"recipe (\w+)", str(labels.get("weights", "")))  # all that old records tell
        if recipe := labels.get("recipe") or (named and named[1]):
            overrides = [f"dataset={shard.key[0]}", *commands.network(shard), f"recipe={recipe}"]
            overrides += [f"seed={labels['seed']}"] if labels.get("seed") else []
            steps[f"python scripts/finetune.py {shlex.join(overrides)}"] = None
    return list(steps)


def made_with(results: Results) -> Section:
    """Return the section on records and manifests: what, how much, with which versions, weights, seed and commit."""
    places: dict[str, list[Made]] = {}
    for made in results.made:
        shared = {key: made.manifest.get(key) for key in ("git_commit", "device", "platform", "versions")}
        places.setdefault(json.dumps(shared, sort_keys=True), []).append(made)
    body = [_place(json.loads(shared), len(made)) for shared, made in places.items()]
    if results.made:
        whole = table("Records", _COLUMNS, [_row(made) for made in results.made])
        body.append(details(f"Every set of records ({len(results.made)})", whole, open_=len(results.made) <= 24))
    commits = {str(made.manifest.get("git_commit")) for made in results.made}
    state = f"{count(len(results.made), 'set')} of records, {count(len(commits), 'commit')}" if results.made else ""
    intro = words(
        "Records are one row an image; every number above is computed from them. + behind a commit: files were changed."
    )
    return Section("manifest", "Manifest", state, join(body), _RUN, intro)


def _place(shared: dict[str, Any], sets: int) -> Markup:
    versions = shared.get("versions") if isinstance(shared.get("versions"), dict) else {}
    pairs = [
        ("commit", shared.get("git_commit") or "not recorded"),
        ("device", shared.get("device") or "not recorded"),
        ("platform", shared.get("platform") or "not recorded"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version) or "not recorded"),
        ("made", f"{count(sets, 'set')} of records"),
    ]
    return tag("dl", [tag("div", tag("dt", key), tag("dd", value)) for key, value in pairs])


def _state(made: Made) -> str:
    """Return whether the records are all there, and what was written."""
    if made.fault:
        return f"damaged: {made.fault}"
    if not made.shard.complete:
        return f"incomplete: {count(made.shard.chunks(), 'chunk')} so far"
    return "complete, unchecked" if made.shard.unchecked else "complete"


_COLUMNS = [
    *(text(name) for name in ("dataset", "model", "method", "contrast", "experiment")),
    Column("images", lambda row: number(row["images"], ".0f"), "images"),
    text("state"),
    text("seed"),
    *(
        Column(name, lambda row, name=name: tag("code", row[name]))
        for name in ("weights hash", "listing hash", "fingerprint", "commit")
    ),
    text("weights"),
    text("subset"),
]


def _row(made: Made) -> dict[str, Any]:
    shard, manifest = made.shard, made.manifest
    names = dict(zip(("dataset", "model", "method", "contrast"), made.cell, strict=True))
    return names | {
        "experiment": shard.experiment,
        "images": shard.rows if shard.complete and not made.fault else float("nan"),
        "state": _state(made),
        "seed": manifest.get("seed", "–"),
        "weights hash": str(shard.parts.get("weights", "–"))[:_SHORT],
        "listing hash": str(shard.parts.get("dataset", "–"))[:_SHORT],
        "fingerprint": shard.path.name.rpartition("-")[2],
        "commit": str(manifest.get("git_commit") or "–")[:_SHORT],
        "weights": shard.labels.get("weights", ""),
        "subset": shard.labels.get("subset", "") or "all images",
    }
