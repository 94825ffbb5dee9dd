"""The report's sections on experiments that have none of their own: the plain table of each one's records."""

from __future__ import annotations

from itertools import groupby

from wcx.report import plain
from wcx.report.html_cells import estimate, text, value
from wcx.report.html_elements import join, table, tag
from wcx.report.html_results import Made, Results
from wcx.report.html_section import Section, count, details
from wcx.report.recorded import INTERVALS

_DRAWN = ("masking", "sign_perturbation")  # in sections of their own


def sections(results: Results) -> list[Section]:
    """Return a section for every such experiment that has complete records."""
    complete = [made for made in results.made if made.shard.experiment not in _DRAWN and made.shard.complete]
    ordered = sorted(complete, key=lambda made: made.shard.experiment)
    return [_section(name, list(group)) for name, group in groupby(ordered, lambda made: made.shard.experiment)]


def _section(name: str, records: list[Made]) -> Section:
    frame = plain.quantities([made.shard for made in records])
    numbers = [value("n", "n", "d"), estimate("mean", "mean", "ci_low", "ci_high", form=".4g")]
    columns = [
        *map(text, ("dataset", "model", "method", "contrast", "quantity")),
        *numbers,
        *map(text, ("weights", "subset")),
    ]
    title = name.replace("_", " ").capitalize()
    body = join(
        tag("p", INTERVALS, class_="note"),
        details(f"All quantities ({count(len(frame), 'row')})", table(title, columns, frame.to_dict("records"))),
    )
    return Section(name, title, f"{count(len(records), 'cell')}, {count(len(frame), 'row')}", body)
