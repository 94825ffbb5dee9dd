"""What a results folder shows of an experiment: a section of tables, figures and sentences, found by the experiment's name.

A section is made by `section(shards, results_dir)` of ``wcx.report.<experiment>`` where there is such a module, and by
`summary` for every other experiment: a new one appears without an edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wcx.report.tables import Table


@dataclass(frozen=True)
class Plot:
    """A drawing that belongs to a section: its file, a title, what it shows for who cannot see it."""

    path: Path
    title: str
    description: str


@dataclass(frozen=True, eq=False)
class Section:
    """What is shown of one experiment.

    Attributes:
        name: in addresses, and of the experiment.
        title: its heading.
        intro: what is measured, in a few sentences.
        tables: in their order; of one name, when one is divided.
        figures: files that are there.
        findings: sentences on what the tables show.
        problems: a line for each set of records that is not what was written.
        notes: lines on what was left out for another reason, and on what could not be checked.
        commands: those that fill it, said where nothing is there yet.
        state: in a few words, what there is; "" where nothing is.
    """

    name: str
    title: str
    intro: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Plot] = ()
    findings: Sequence[str] = ()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()
    state: str = ""
