"""A spread in groups of lines: what the lines of a group share stands once above them, so that their numbers begin at the left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from wcx.report.grids import GridEntry, GridLine, Heading, TableGrid


@dataclass(frozen=True)
class LineGroup:
    """Lines that share all their labels but the last.

    Attributes:
        labels: that they share.
        shared: (heading, number, title of the line beneath, its number; "" where there is none) of what a group has once.
        lines: with their last label and what is not shared.
    """

    labels: tuple[GridEntry, ...]
    shared: tuple[tuple[str, str, str, str], ...]
    lines: tuple[GridLine, ...]

    @property
    def is_mixed(self) -> bool:
        """Whether its lines are of several datasets or methods: each says which, then."""
        return len({(line.facts.get("dataset"), line.facts.get("method")) for line in self.lines}) > 1

    @property
    def facts(self) -> dict[str, str]:
        """The dataset, if its lines share it, and their methods: what the group is filtered by."""
        datasets, methods = (
            dict.fromkeys(str(line.facts.get(key, "")) for line in self.lines) for key in ("dataset", "method")
        )
        return {"dataset": "".join(datasets) if len(datasets) == 1 else "", "method": " ".join(methods)}


@dataclass(frozen=True)
class GroupedGrid:
    """A spread in groups.

    Attributes:
        head: levels of headings, without those of what stands above the lines.
        groups: in their order.
        width: how many columns are left.
    """

    head: tuple[tuple[Heading, ...], ...]
    groups: tuple[LineGroup, ...]
    width: int


def grouped(grid: TableGrid) -> GroupedGrid:
    """Return a spread in groups."""
    members: dict[tuple[str, ...], list[GridLine]] = {}
    for title, line in _titled(grid):
        members.setdefault(title, []).append(line)
    starts = accumulate((heading.width for heading in grid.head[0][:-1]), initial=0)
    level = list(zip(starts, grid.head[0], strict=True))
    single = [(start - grid.labels, heading) for start, heading in level if heading.depth == len(grid.head)]
    above = {
        place: heading.text
        for place, heading in single
        if place >= 0 and all(_is_shared(lines, place) for lines in members.values())
    }
    gone = {*range(grid.labels - 1), *(place + grid.labels for place in above)}
    first = [heading for start, heading in level if start not in gone]
    groups = tuple(_group(lines, above) for lines in members.values())
    return GroupedGrid((tuple(first), *grid.head[1:]), groups, len(grid.columns) - len(gone))


def _titled(grid: TableGrid) -> Iterator[tuple[tuple[str, ...], GridLine]]:
    """Yield each line with the labels that its group shares; a line beneath has those of the line above it."""
    title: tuple[str, ...] = ()
    for line in grid.lines:
        title = title if line.beneath else tuple(entry.text for entry in line.labels[:-1])
        yield title, line


def _is_shared(lines: Sequence[GridLine], place: int) -> bool:
    """Return whether the lines of a group say the same in a place, and those beneath them, too."""
    texts = {(line.beneath, line.entries[place].text) for line in lines}
    return len(texts) == len({beneath for beneath, _ in texts})


def _group(lines: Sequence[GridLine], above: dict[int, str]) -> LineGroup:
    beneath = next((line for line in lines if line.beneath), None)
    below = [(beneath.labels[0].text, beneath.entries[place].text) if beneath else ("", "") for place in above]
    shared = [
        (text, lines[0].entries[place].text, *pair) for (place, text), pair in zip(above.items(), below, strict=True)
    ]
    return LineGroup(lines[0].labels[:-1], tuple(shared), tuple(_line(line, above) for line in lines))


def _line(line: GridLine, above: dict[int, str]) -> GridLine:
    label = line.labels[0] if line.beneath else line.labels[-1]
    entries = tuple(entry for place, entry in enumerate(line.entries) if place not in above)
    return replace(line, labels=(label,), entries=entries)
