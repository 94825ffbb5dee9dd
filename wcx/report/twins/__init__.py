"""The report of the experiment twins: which part a map shows, beside chance, controls and the truth itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
_COMMANDS = ("make twins    # drawn birds: minutes, no data needed",)
_LINE = ("network", "method", "layer", "contrast")
_WHICH = "verified"


def protocol(shard: Shard) -> str:
    """Return what tells apart what stands side by side: settings but the seed, and the layer."""
    settings = {key: value for key, value in shard.parts.get("settings", {}).items() if key != "seed"}
    return json.dumps([settings, shard.parts.get("layer")], sort_keys=True)


def pictures(job: Job, shards: Sequence[Shard], _most: int) -> list[Path]:
    """Draw one image for each method with a contrast; see `wcx.report.pictures.twins`."""
    from wcx.report.pictures import twins  # matplotlib

    return twins.write(job, shards)


def section(shards: Sequence[Shard], refused: list[str] | None = None) -> Section:
    """Return the section.

    Args:
        shards: of the experiment twins.
        refused: where a line goes for each shard that is not what was written; None raises.
    """
    cells = [Opened(shard, rows) for shard in shards if (rows := opened.rows(shard, refused)) is not None]
    frame, pairs, facts = numbers.frame(cells), paired.differences(cells), paired.facts(cells)
    tables = [*_parts(frame), *_scores(frame), _paired(pairs), *_readings(frame), _across(frame), _facts(facts)]
    state = f"{counted(len(cells), 'cell')}, {counted(len(frame), 'number')}" if len(frame) else ""
    notes = [opened.INTERVALS, *opened.unchecked([cell.shard for cell in cells])]
    return Section(
        "twins",
        "Twins: the part that tells",
        _INTRO,
        [table for table in tables if len(table.frame)],
        findings=_findings(pairs, facts),
        problems=list(refused or ()),
        notes=notes,
        commands=_COMMANDS,
        state=state,
        document="twins",
    )


def _parts(frame: pd.DataFrame) -> list[Table]:
    """Return the share of questions whose top part is right, a column a question."""
    chosen = frame[(frame["score"] == "top_mean") & frame["reading"].isin([_WHICH, *numbers.LINES])]
    note = (
        "Share of verified questions in which the visible part with the largest mean is the right one; by image first."
    )
    return [_spread("Top part", chosen, note, ("question",), frame)]


def _scores(frame: pd.DataFrame) -> list[Table]:
    """Return the other scores, a table a question."""
    chosen = frame[~frame["score"].isin(["top_mean"]) & frame["reading"].isin([_WHICH, *numbers.LINES])]
    return [
        _spread(f"Scores of {question}", rows, "Over verified questions.", ("score",), frame, is_main=False)
        for question, rows in chosen.groupby("question", sort=False)
    ]


def _readings(frame: pd.DataFrame) -> list[Table]:
    """Return the top part in other readings: all questions (for a network that answers none), clipped, others, own questions."""
    titles = {
        "all": "Top part over all questions, verified or not",
        "clipped": "Top part of max(map, 0)",
        "others": "Top part of the map against all other classes, whatever the question",
    }
    tables = [
        _spread(
            title,
            frame[(frame["score"] == "top_mean") & (frame["reading"] == reading)],
            "",
            ("question",),
            frame,
            is_main=reading == "all",
        )
        for reading, title in titles.items()
    ]
    note = "The answer is g = v.y, v the contrast's cotangent frozen at the image; right is the part of the largest effect on it."
    frozen = frame[frame["reading"] == "own"]
    return [*tables, _spread("Each contrast's own question", frozen, note, ("score", "question"), frame, is_main=False)]


def _spread(
    title: str, rows: pd.DataFrame, note: str, across: tuple[str, ...], complete: pd.DataFrame, is_main: bool = True
) -> Table:
    """Return a table of a line a map, with the numbers of several questions or scores side by side."""
    return Table(
        "twins",
        title,
        numbers.COLUMNS,
        rows,
        note,
        spread=Spread(_LINE, (Span("mean", across, headed=False),)),
        networks=opened.networks(rows) if is_main and len(rows) else (),
        is_main=is_main,
        whole=complete,
        header=numbers.HEADER,
    )


def _paired(pairs: pd.DataFrame) -> Table:
    note = (
        "Differences in the share of questions whose top part is right, paired over images (all questions of an image together). "
        "p: sign flips of images; Holm over all m tests of this table."
    )
    fields = ("network", "model", "method", "layer", "contrast", "question", "minus", "n")
    fields = (*fields, *(column.name for column in paired.DIFFERENCE[1:]))
    columns = (*numbers.COLUMNS, *paired.DIFFERENCE)
    header = fields[1:] if len(pairs) else ()
    return Table(
        "twins_paired",
        "Contrasts against original, and a named foil against all others",
        columns,
        pairs,
        note,
        fields,
        7,
        is_main=False,
        header=header,
    )


def _across(frame: pd.DataFrame) -> Table:
    rows = paired.across(frame)
    chosen = rows[(rows["score"] == "top_mean") & (rows["reading"] == _WHICH)] if len(rows) else rows
    fields = ("dataset", "model", "method", "layer", "contrast", "question", "trainings", "mean", "lowest", "highest")
    columns = (
        *opened.COLUMNS,
        numbers.COLUMNS[-5],
        *paired.SPREAD,
        Column("mean", "Of the networks' means.", format=".3f"),
    )
    return Table(
        "twins_trainings",
        "Top part across trainings: minimum to maximum",
        columns,
        chosen,
        "",
        fields,
        6,
        is_main=False,
        whole=rows,
        header=(*fields[:5], "score", "question", "reading", *fields[6:]),
    )


def _facts(facts: pd.DataFrame) -> Table:
    columns = (
        *opened.COLUMNS,
        Column("question"),
        Column("asked", "Questions.", format="d"),
        Column(
            "verified", "Those that the network answers by the parts swapped; Q4: whose image it knows.", format="d"
        ),
        Column("flip", "Of the questions answered for the target: the share that the twin turns.", format=".3f"),
        Column(
            "other_part", "Of the verified: the share in which another part has a larger effect.", "another part", ".3f"
        ),
        Column("correct", "Share of images whose class is predicted.", format=".3f"),
    )
    fields = ("network", "model", "weights", "question", "n", "asked", "verified", "flip", "other_part", "correct")
    note = "n: images with a verified question. The ceiling of Q1 is 1 minus the share answered by another part, if right is the part asked for; 1 if it is that part."  # noqa: E501
    return Table(
        "twins_questions",
        "The questions",
        columns,
        facts,
        note,
        fields,
        4,
        is_main=False,
        header=fields[1:] if len(facts) else (),
    )


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
    if len(facts):
        q1 = facts[(facts["question"] == "q1") & ~facts["is_random"] & (facts["verified"] > 0)]
        ends = (q1["other_part"].min(), q1["other_part"].max())
        shares = " to ".join(dict.fromkeys(f"{share:.3f}" for share in ends))
        sentences += (
            [
                f"a share of {shares} of the verified Q1 questions is answered more by another part than by the one that differs"
            ]
            if len(q1)
            else []
        )
    return sentences
