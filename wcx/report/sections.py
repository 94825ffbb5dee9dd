"""What is shown of an experiment: a section of tables, figures and sentences, found by the experiment's name.

A section is made by ``wcx.report.<experiment>``, where there is such a module, and by `summary` for every other experiment: a
new one appears without an edit. Such a module has `section(shards, refused)` and `protocol(shard)`, which tells apart what
stands side by side. It may have `pictures(job, shards, most, formats, style)`; IS_RANDOM_FIT = False keeps networks of random
weights out where records are collected.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from types import ModuleType
from typing import Any

from wcx import experiments, records
from wcx.files import write as write_file
from wcx.pipeline import Job
from wcx.records import Shard
from wcx.report import backends, tables
from wcx.report.eligible import eligible
from wcx.report.pictures import FORMATS, file_formats
from wcx.report.tables import Table


@dataclass(frozen=True)
class Plot:
    """A drawing that belongs to a section.

    Attributes:
        name: of its files, without suffix.
        title: in a few words.
        description: what it shows, for who cannot see it.
        draw: writes it, given the files' path without suffix, and their formats; returns the files.
    """

    name: str
    title: str
    description: str
    draw: Callable[[Path, str | Sequence[str]], list[Path]]

    def write(self, folder: Path, formats: str | Sequence[str] = "png") -> list[Path]:
        """Draw it into a folder; return the files."""
        return self.draw(folder / self.name, formats)


@dataclass(frozen=True, eq=False)
class Section:
    """What is shown of one experiment.

    Attributes:
        name: in addresses, and of the experiment.
        title: its heading.
        intro: what is measured, in a few sentences.
        tables: in their order; of one name, when one is divided; those of no line are shown nowhere.
        plots: drawings.
        findings: sentences on what the tables show.
        problems: a line for each set of records that is not what was written.
        notes: lines on what could not be checked, and on how numbers are to be read.
        commands: those that fill it, said where nothing is there yet.
        state: in a few words, what there is; "" where nothing is.
        headline: its first number, and what it is of.
        stale: patterns of an earlier run's drawings, without suffix.
        document: the name of its files in Markdown and LaTeX; "" writes none.
        left_out: a line for each set of records that does not belong into it.
    """

    name: str
    title: str
    intro: str = ""
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    findings: Sequence[str] = ()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()
    state: str = ""
    headline: tuple[str, str] | None = None
    stale: Sequence[str] = ()
    document: str = ""
    left_out: Sequence[str] = ()

    @property
    def filled(self) -> list[Table]:
        """The tables that have a line."""
        return [table for table in self.tables if len(table.frame)]

    def to_text(self) -> str:
        """Return it for a screen: the main tables, or what there is where none has a line, what was found, and notes."""
        tables = [table for table in self.filled if table.is_main] or self.filled
        blocks = [f"\n{table.to_text()}" for table in tables]
        return "\n".join([*(blocks or [f"{self.title}: no records"]), *self.findings, *self.notes, *self.left_out])

    def to_markdown(self, suffix: str = "png") -> str:
        """Return it as a document in Markdown; `suffix` is of the drawings' files."""
        findings = [backends.markdown_text(f"- {sentence[:1].upper()}{sentence[1:]}") for sentence in self.findings]
        pictures = [f"## {plot.title}\n\n![{plot.description}]({plot.name}.{suffix})" for plot in self.plots]
        blocks = [f"# {self.title}", backends.markdown_text(self.intro), "\n".join(findings)]
        blocks += [*(table.to_markdown() for table in self.filled if table.is_shown), *pictures]
        return "\n\n".join(filter(None, blocks)) + "\n"

    def to_latex(self) -> str:
        """Return its main tables for a document in LaTeX; what was found stands in comments."""
        head = ["% Made by wcx from its records; needs \\usepackage{booktabs,graphicx}."]
        head += [f"% {sentence}" for sentence in self.findings]
        return "\n\n".join(["\n".join(head), *(table.to_latex() for table in self.filled if table.is_main)]) + "\n"

    def write(self, folder: Path, formats: str | Sequence[str] = "png") -> list[Path]:
        """Write tables, drawings and documents into a results folder; return the files but for the whole frames."""
        files = [*tables.write(self.tables, folder), *self.draw(folder, formats)]
        if self.document:
            for suffix, text in ((".md", self.to_markdown(file_formats(formats)[0])), (".tex", self.to_latex())):
                write_file(folder / f"{self.document}{suffix}", text)
                files.append(folder / f"{self.document}{suffix}")
        return files

    def draw(self, folder: Path, formats: str | Sequence[str] = "png") -> list[Path]:
        """Draw the figures into a results folder, and remove those of an earlier run; return the files."""
        old = [f"{stem}.{name}" for stem, name in product(self.stale, FORMATS)]
        for path in list(chain.from_iterable(map(folder.glob, old))):
            path.unlink(missing_ok=True)  # another process may draw them, too
        return list(chain.from_iterable(plot.write(folder, formats) for plot in self.plots))


def of(experiment: str, shards: Sequence[Shard], refused: list[str] | None = None, **options: Any) -> Section:
    """Return the section of an experiment's records.

    Args:
        refused: where a line goes for each shard that is not what was written; None raises.
        options: for the experiment's own module.
    """
    return _module(experiment).section(shards, refused, **options)


def collect(
    experiment: str, results_dir: Path, shards: Sequence[Shard] = (), refused: list[str] | None = None
) -> tuple[list[Shard], list[str]]:
    """Return the records of an experiment that belong into one section, and why others do not; see `eligible`."""
    module = _module(experiment)
    is_random_fit = getattr(module, "IS_RANDOM_FIT", True)
    return eligible(results_dir, experiment, module.protocol, shards, refused, is_random_fit)


def pictures(
    job: Job, shards: Sequence[Shard], most: int, formats: str | Sequence[str] = "png", style: str = "colour"
) -> list[Path]:
    """Draw some images of a job beside its records, at most so many, as `pictures` of its module does; return the files."""
    draw = getattr(_module(job.experiment.name()), "pictures", None)
    return draw(job, shards, most, formats, style) if draw and most else []


def outdated(shards: Sequence[Shard]) -> list[str]:
    """Return a line on records that another version of their experiment has made than there is now."""
    versions = {(shard.experiment, shard.parts.get("version")) for shard in shards}
    return [
        f"records of version {version} of the experiment {name}; it is at version {experiments.get(name).version} now"
        for name, version in versions
        if name in experiments.names() and version != experiments.get(name).version
    ]


def of_folder(results_dir: Path) -> list[Section]:
    """Return the section of every experiment that has records in a results folder, those with a module of their own first.

    A shard.json that is damaged is no section's problem: `records.find` names it.
    """
    names = {shard.experiment for shard in records.find(results_dir, refused=[])}
    sections = []
    for name in sorted(names, key=lambda name: (_module(name).__name__.endswith("summary"), name)):
        shards, left_out = collect(name, results_dir, refused=[])
        if shards or left_out:
            section = of(name, shards, []) if shards else Section(name, name.replace("_", " ").capitalize())
            commands = [f"wcx {name}"] if name in experiments.names() else []
            notes = [*section.notes, *outdated(shards)]
            sections.append(replace(section, notes=notes, left_out=left_out, commands=commands))
    return sections


def counted(n: int, noun: str) -> str:
    """Return a number of things.

    Example:
        >>> counted(1, "image"), counted(2, "image")
        ('1 image', '2 images')
    """
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _module(experiment: str) -> ModuleType:
    """Return the module that makes an experiment's section: its own, or `summary`."""
    package = importlib.import_module("wcx.report")
    named = {module.name for module in pkgutil.iter_modules(package.__path__)} & {*experiments.names()}
    return importlib.import_module(f"wcx.report.{experiment if experiment in named else 'summary'}")
