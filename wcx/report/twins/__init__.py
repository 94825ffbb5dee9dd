"""The report of the experiment twins: which part a map shows, beside chance, controls and the truth itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report import opened
from wcx.report.opened import Opened
from wcx.report.sections import Section, counted
from wcx.report.tables import Column, Span, Spread, Table
from wcx.report.twins import numbers, paired

_INTRO = (
    "An image's twins show the same scene with some parts in their other look, each a class that the network knows. So it is "
    "known, for this very network, what each part does to the answer to why this class and not those: its Shapley value under "
    "the log-odds. Q1: the foil differs in one part; Q2: in two or three; Q3: two foils that differ in different parts, both "
    "right; Q4: against all siblings, all classes, or two siblings at once; Q5: a mistake, why the predicted class and not the "
    "true one."
)
_COMMANDS = ("wcx twins    # drawn birds: minutes, no data needed",)
_WHICH = "verified"


def protocol(shard: Shard) -> str:
    """Return what tells apart what stands side by side: settings but the seed, and the layer."""
    settings = {key: value for key, value in shard.parts.get("settings", {}).items() if key != "seed"}
    return json.dumps([settings, shard.parts.get("layer")], sort_keys=True)


def pictures(
    job: Job, shards: Sequence[Shard], _most: int, formats: str | Sequence[str] = "png", style: str = "colour"
) -> list[Path]:
    """Draw one image for each method with a contrast; see `wcx.report.pictures.twins`."""
    from wcx.report.pictures import twins  # matplotlib

    return twins.write(job, shards, formats, style)


def section(shards: Sequence[Shard], refused: list[str] | None = None) -> Section:
    """Return the section; see `sections.of`."""
    cells = [Opened(shard, rows) for shard in shards if (rows := opened.rows(shard, refused)) is not None]
    frame, pairs, facts = numbers.frame(cells), paired.differences(cells), paired.facts(cells)
    mistakes = paired.differences(cells, paired.MISTAKES)
    tables = [*_shares(frame), _paired(pairs), _mistakes(mistakes), *_readings(frame), _across(frame), _facts(facts)]
    state = f"{counted(len(cells), 'cell')}, {counted(len(frame), 'number')}" if len(frame) else ""
    notes = [opened.INTERVALS, *opened.unchecked([cell.shard for cell in cells])]
    return Section(
        "twins",
        "Twins: the part that tells",
        _INTRO,
        [table for table in tables if len(table.frame)],
        findings=[*_findings(pairs, facts), *_findings_of_mistakes(mistakes)],
        problems=list(refused or ()),
        notes=notes,
        commands=_COMMANDS,
        state=state,
        document="twins",
    )


def _shares(frame: pd.DataFrame) -> list[Table]:
    """Return the share of questions whose top part is right, a column a question; and the other scores, a table a question."""
    chosen = frame[frame["reading"].isin([_WHICH, *numbers.LINES])]
    is_top = chosen["score"] == paired.SCORE
    note = (
        "Share of verified questions in which the visible part with the largest mean is the right one; by image first."
    )
    scores = chosen[~is_top].groupby("question", sort=False)
    return [
        _spread("Top part", chosen[is_top], note, ("question",), frame, is_main=True),
        *(_spread(f"Scores of {name}", rows, "Over verified questions.", ("score",), frame) for name, rows in scores),
    ]


def _readings(frame: pd.DataFrame) -> list[Table]:
    """Return the top part in other readings: all questions (for a network that answers none), clipped, others, own questions."""
    titles = {
        "all": "Top part over all questions, verified or not",
        "clipped": "Top part of max(map, 0)",
        "others": "Top part of the map against all other classes, whatever the question",
    }
    top = frame[frame["score"] == paired.SCORE]
    tables = [
        _spread(title, top[top["reading"] == reading], "", ("question",), frame, is_main=reading == "all")
        for reading, title in titles.items()
    ]
    note = "The answer is g = v.y, v the contrast's cotangent frozen at the image; right is the part of the largest effect on it."
    frozen = frame[frame["reading"] == "own"]
    return [*tables, _spread("Each contrast's own question", frozen, note, ("score", "question"), frame)]


def _spread(
    title: str, rows: pd.DataFrame, note: str, across: tuple[str, ...], complete: pd.DataFrame, is_main: bool = False
) -> Table:
    """Return a table of a line a map, with the numbers of several questions or scores side by side."""
    spread = Spread(("network", "method", "layer", "contrast"), (Span("mean", across, headed=False),))
    networks = opened.networks(rows) if is_main and len(rows) else ()
    files = {"whole": complete, "header": numbers.HEADER, "is_main": is_main}
    return Table("twins", title, numbers.COLUMNS, rows, note, spread=spread, networks=networks, **files)


def _paired(pairs: pd.DataFrame) -> Table:
    note = (
        "Differences in the share of questions whose top part is right, paired over images (all questions of an image together). "
        "p: sign flips of images; Holm over all m tests of this table."
    )
    title = "Contrasts against original, and a named foil against all others"
    return _differences("paired", title, pairs, note, "question")


def _mistakes(pairs: pd.DataFrame) -> Table:
    note = (
        "Images that are taken for another class of their family: the map of the predicted class against the label minus that of "
        "original. tau_mean: order of the parts; sign: of their means. p: sign flips of images; Holm over all m tests of this "
        "table."
    )
    return _differences("paired_mistakes", "Contrasts against original: mistakes (Q5)", pairs, note, "score")


def _differences(name: str, title: str, pairs: pd.DataFrame, note: str, tells: str) -> Table:
    """Return a table of paired differences, whose lines of one map a column `tells` apart."""
    keys = ("network", "model", "method", "layer", "contrast", tells, "minus")
    columns = (*numbers.COLUMNS, paired.MINUS, *paired.DIFFERENCE)
    return _long(name, title, columns, pairs, note, keys, ("n", *(column.name for column in paired.DIFFERENCE)))


def _across(frame: pd.DataFrame) -> Table:
    rows = paired.across(frame)
    chosen = rows[(rows["score"] == paired.SCORE) & (rows["reading"] == _WHICH)] if len(rows) else rows
    keys, values = (
        ("dataset", "model", "method", "layer", "contrast", "question"),
        ("trainings", "mean", "lowest", "highest"),
    )
    columns = (*numbers.COLUMNS[:-1], *paired.SPREAD)
    header = (*keys[:5], "score", "question", "reading", *values)
    title = "Top part across trainings: minimum to maximum"
    return replace(_long("trainings", title, columns, chosen, "", keys, values), whole=rows, header=header)


def _facts(facts: pd.DataFrame) -> Table:
    note = (
        "n: images with a verified question. The ceiling of Q1 is 1 minus the share answered by another part, if right is the "
        "part asked for; 1 if it is that part."
    )
    columns, keys = (*numbers.COLUMNS, *paired.FACTS), ("network", "model", "weights", "question")
    values = ("n", *(column.name for column in paired.FACTS))
    return _long("questions", "The questions", columns, facts, note, keys, values)


def _long(
    name: str,
    title: str,
    columns: Sequence[Column],
    rows: pd.DataFrame,
    note: str,
    keys: tuple[str, ...],
    values: tuple[str, ...],
) -> Table:
    """Return a table of a line a row, shown on request; its file begins with the same columns, but for the network's name."""
    header = (*keys[1:], *values) if len(rows) else ()
    layout = {"shown": (*keys, *values), "is_main": False, "header": header}
    return Table(f"twins_{name}", title, tuple(columns), rows, note, **layout)


def _findings(pairs: pd.DataFrame, facts: pd.DataFrame) -> list[str]:
    """Return in how many cells a contrast is better than original, and which share of questions another part answers."""
    sentences = []
    for (minus, kind), rows in pairs.groupby(["minus", "question"], sort=False) if len(pairs) else ():
        better, worse = ((rows["p_holm"] < 0.05) & (sign * rows["difference"] > 0) for sign in (1, -1))
        than = "original" if minus == paired.BASE else "the map against all other classes"
        sentences.append(
            f"{kind.upper()}: the contrast's top part is right more often than that of {than} in {int(better.sum())} of "
            f"{len(rows)} comparisons, less often in {int(worse.sum())} (p Holm < 0.05, m = {int(rows['m'].iloc[0])})"
        )
    q1 = facts[(facts["question"] == "q1") & ~facts["is_random"] & (facts["verified"] > 0)] if len(facts) else facts
    if len(q1):
        ends = (q1["other_part"].min(), q1["other_part"].max())
        shares = " to ".join(dict.fromkeys(f"{share:.3f}" for share in ends))
        sentences.append(
            f"a share of {shares} of the verified Q1 questions is answered more by another part than by the one that differs"
        )
    return sentences


def _findings_of_mistakes(pairs: pd.DataFrame) -> list[str]:
    """Return in how many cells a contrast is better than original on mistakes, and of how many images."""
    sentences = []
    for score, rows in pairs.groupby("score", sort=False) if len(pairs) else ():
        better, worse = (int(((rows["p_holm"] < 0.05) & (sign * rows["difference"] > 0)).sum()) for sign in (1, -1))
        images = " to ".join(str(n) for n in sorted({rows["n"].min(), rows["n"].max()}))
        least = rows["detectable"].max()
        detectable = "" if pd.isna(least) else f": a difference of {least:.2f} would show"  # one image has no spread
        sentences.append(
            f"Q5 ({score}): higher than original in {better} of {len(rows)} comparisons, lower in {worse} (p Holm < 0.05, "
            f"m = {int(rows['m'].iloc[0])}; n = {images} mistakes{detectable})"
        )
    return sentences
