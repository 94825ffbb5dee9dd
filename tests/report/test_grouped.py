"""A spread in groups: every number of the grid is said once, above its group or in its line."""

from __future__ import annotations

from itertools import product

import pandas as pd
import pytest

from wcx.report.page import html
from wcx.report.page.grouped import grouped
from wcx.report.tables import Column, Span, Spread, Table


def table(unmasked: tuple[str, ...]) -> Table:
    """Two methods and two contrasts down, two baselines across; what is `unmasked` may differ by contrast."""
    rows = []
    for i, (contrast, method, baseline) in enumerate(
        product(("original", "weighted"), ("gradcam", "lrp"), ("blur", "zeros"))
    ):
        whole = float("".join(str(ord({"contrast": contrast, "method": method}[key][0])) for key in unmasked))
        rows.append(
            {"method": method, "contrast": contrast, "baseline": baseline, "number": i + 0.5, "unmasked": whole}
        )
    columns = (Column("unmasked", format=".0f"), Column("number", format=".1f"))
    blocks = (Span("unmasked"), Span("number", ("baseline",), headed=False))
    spread = Spread(("method", "contrast"), blocks, "contrast")
    return Table("t", "T", columns, pd.DataFrame(rows), spread=spread)


@pytest.mark.parametrize("last", ["method", "dataset"])
def test_a_group_of_several_methods_or_datasets_is_filtered_line_by_line(last: str) -> None:
    """Where what is filtered by is the last label, the group above the lines is of all of them."""
    subjects = [("original", "CUB", "gradcam"), ("original", "Cars" if last == "dataset" else "CUB", "lrp")]
    rows = [{"contrast": c, "dataset": d, "method": m, "number": 1.0} for c, d, m in subjects]
    spread = Spread(("contrast", last), (Span("number"),))
    [group] = grouped(
        Table("t", "T", (Column("number", format=".1f"),), pd.DataFrame(rows), spread=spread).grid()
    ).groups
    assert group.facts == {"dataset": "CUB" if last == "method" else "", "method": "gradcam lrp"}
    text = html(Table("t", "T", (Column("number", format=".1f"),), pd.DataFrame(rows), spread=spread))
    for _, dataset, method in subjects:
        assert f'<tr data-dataset="{dataset}" data-method="{method}">' in text


@pytest.mark.parametrize("unmasked", [("method",), ("method", "contrast")])
def test_every_number_is_said_once(unmasked: tuple[str, ...]) -> None:
    frame, grid = table(unmasked).frame, table(unmasked).grid()
    shown = grouped(grid)
    is_shared = unmasked == ("method",)
    assert [[entry.text for entry in group.labels] for group in shown.groups] == [["gradcam"], ["lrp"]]
    assert [heading.text for heading in shown.head[0]] == [
        "contrast",
        *([] if is_shared else ["unmasked"]),
        "blur",
        "zeros",
    ]
    assert shown.width == (3 if is_shared else 4)
    for group, method in zip(shown.groups, ("gradcam", "lrp"), strict=True):
        rows = frame[frame["method"] == method]
        assert [line.labels[0].text for line in group.lines] == ["original", "weighted"]
        assert bool(group.shared) == is_shared
        if is_shared:
            assert group.shared == (("unmasked", f"{rows['unmasked'].iloc[0]:.0f}", "", ""),)
        for line in group.lines:
            cells = rows[rows["contrast"] == line.labels[0].text]
            whole = [] if is_shared else [cells["unmasked"].iloc[0]]
            assert [entry.value for entry in line.entries] == [*whole, *cells["number"]]
