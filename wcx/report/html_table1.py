"""The report's section on Table 1: the paper's layout with intervals and the paper's numbers, tests, and ours against theirs."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Sequence

import pandas as pd

from wcx.report import collected, html_cells, layout, published
from wcx.report.html_elements import Markup, command, join, known, number, scroll, subject, tag, words
from wcx.report.html_images import Pictures
from wcx.report.html_results import Results
from wcx.report.html_section import Section, count, framed
from wcx.report.layout import Grid, Line, Part, Value
from wcx.report.published import Comparison
from wcx.report.recorded import INTERVALS

_INTRO = (
    "Hide the pixels that speak against a class, and its relative probability should rise; hide those that speak for it, and it "
    "should fall. Each number is the relative probability of t_i, exp(y_ti) / (exp(y_t1) + exp(y_t2)), on average over the "
    "images selected; t_1 and t_2 are the most and the second most probable class. ↑: only positive features are kept, which "
    "should raise it; ↓: only negative ones. Bold is the best contrast. Hidden: the share of the pixels, the same for "
    "all baselines; who hides more, changes more."
)
COLLECT = "python scripts/table1.py collect=only paths.results_dir={}"
_KEPT = {"positive": "positive ↑", "negative": "negative ↓"}
_CAUTIONS = ("stand-in", "subset", "sample", "random", "limit", "incomplete", "skipped", "not the")
_CELL = [*published.CELL, "model", "weights", "mask", "threshold", "foils"]


def section(results: Results, pictures: Pictures) -> Section:
    """Return the section."""
    main = beside_the_paper(results.tables["table1"], results.tables["table1_vs_published"])
    body: list[object] = [_untold(results, main)]
    paired = dict(protocols(results.tables["table1_paired"]))
    for name, frame in protocols(main):
        body += [_grid(grid) for grid in layout.grids(frame, name)]
        body.append(_findings(name, paired.get(name)))
    if not main.empty:
        body += [html_cells.pairs(results.tables["table1_paired"], main), _against_the_paper(results, pictures)]
        body += html_cells.others(results.tables)
    networks = len(main[["dataset", "model", "weights"]].drop_duplicates())
    state = f"{count(len(main), 'number')}, {count(networks, 'network')}" if networks else ""
    fills = ("make table1 DATASETS=cub MODELS=vgg16", "make demo    # drawn birds: two minutes, no data needed")
    return Section("table1", "Table 1: masking", state, join(body), fills, words(_INTRO))


def beside_the_paper(main: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """Return Table 1 with the columns published, published_unmasked and published_model, empty where the paper has no number."""
    theirs = ["published", "published_unmasked", "published_model"]
    return main.merge(compared[[*_CELL, *theirs]].drop_duplicates(_CELL), how="left", on=_CELL)


def protocols(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each protocol in words and its rows of a table: threshold, mask and foils, as far as the file tells them."""
    keys = [name for name in _CELL if name in frame]
    again = frame.groupby(keys, sort=False, dropna=False).cumcount()
    told = [frame[name] for name in ("threshold", "mask", "foils")]
    for (threshold, mask, foils, time), rows in frame.groupby([*told, again], sort=False):
        name = f"p_t2 > {threshold:g}, mask={mask}" + ("" if foils == "others" else f", foils={foils}")
        yield (f"{name} (protocol {time + 1} of that name, see table1.md)" if time else name), rows


def notes(said: Sequence[str]) -> Markup:
    """Return what is to be said of numbers as labels; what keeps them from being the paper's stands out."""
    items = [tag("li", words(note), class_="caution" if _is_caution(note) else None) for note in said]
    return tag("ul", items, class_="pills") if items else Markup("")


def _is_caution(note: str) -> bool:
    return any(word in note for word in _CAUTIONS)


def _grid(grid: Grid) -> Markup:
    model, _, protocol = grid.title.partition(", ")
    networks = [
        tag("div", tag("b", dataset), f" n = {n} images", notes(said), class_="network", data_dataset=dataset)
        for dataset, n, said in grid.networks
    ]
    name = f"Table 1 of {model}, {protocol}"
    whole = tag("table", tag("caption", words(name), class_="unseen"), _head(grid), _bodies(grid), class_="grid")
    heading = tag("h3", model, " ", tag("span", words(f"images with {protocol}"), class_="state"))
    return join(heading, networks, scroll(whole, name), tag("p", INTERVALS, class_="note"))


def _head(grid: Grid) -> Markup:
    beside = any(contrast for _, _, contrast in grid.columns)
    depth = 3 if beside else 2
    names = ("dataset, method", *grid.stub[1:])
    stub = [tag("th", name, rowspan=depth, scope="col") for name in names]
    stub.append(tag("th", "unmasked", rowspan=depth, scope="col", class_="number"))
    shares = [("hidden, %", kept, layout.CONTRASTS.get(contrast, contrast)) for kept, contrast in grid.masked]
    columns = [*grid.columns, *shares]
    first = [_over(layout.BASELINES.get(b, b), cells) for b, cells in _runs(columns, 1)]
    second = [_over(_KEPT[kept], cells) for (_, kept), cells in _runs(columns, 2)]
    third = [tag("th", contrast, scope="col", class_="number") for _, _, contrast in columns]
    rows = [tag("tr", stub, first), tag("tr", second)] + ([tag("tr", third)] if beside else [])
    return tag("thead", rows)


def _runs(columns: Sequence[tuple[str, ...]], parts: int) -> Iterator[tuple[object, int]]:
    """Yield the first parts of neighbouring columns that share them, and how many columns do."""
    for key, group in itertools.groupby(columns, key=lambda column: column[:parts] if parts > 1 else column[0]):
        yield key, len(list(group))


def _over(title: str, columns: int) -> Markup:
    return tag("th", title, colspan=columns, scope="colgroup", class_="over")


def _bodies(grid: Grid) -> list[Markup]:
    return [_body(grid, line) for line in grid.lines]


def _body(grid: Grid, line: Line) -> Markup:
    dataset = grid.networks[line.network][0]
    rows = [value.row for value in line.values if value.row]
    method = rows[0]["method"] if rows else line.labels[0]
    first = tag("th", dataset, tag("small", method, class_="method"), scope="row")
    full = {short: name for name, short in layout.CONTRASTS.items()}
    names = [first, *(tag("th", words(full.get(name, name)), scope="row") for name in line.labels[1:])]
    ours = [
        *names,
        tag("td", line.unmasked, class_="number"),
        map(_value, line.values),
        [tag("td", m, class_="number") for m in line.masked],
    ]
    theirs = None
    if compared := [row for row in rows if known(row.get("published"))]:
        title = f"the paper's {compared[0]['published_model']}"
        cells = [number(compared[0]["published_unmasked"])] + [
            number(value.row.get("published", float("nan"))) for value in line.values
        ]
        theirs = tag(
            "tr",
            tag("th", title, scope="row", colspan=len(names)),
            [tag("td", cell, class_="number") for cell in cells],
            tag("td", colspan=len(line.masked)),
            class_="paper",
        )
    return tag("tbody", tag("tr", ours), theirs, **subject({"dataset": dataset, "method": method}))


def _value(value: Value) -> Markup:
    shown = tag("b", value.text) if value.best else value.text
    return tag("td", shown, html_cells.interval(value.row, below=True), class_="number")


def _findings(name: str, frame: pd.DataFrame | None) -> Markup | None:
    if frame is None or frame.empty:
        return None
    empty = pd.DataFrame(columns=["model", "dataset"])
    found = layout.findings(Part(name, [], {"paired": frame, "localisation": empty}))
    return tag("ul", [tag("li", words(f"{sentence}.")) for sentence in found], class_="findings")


def comparisons(results: Results) -> list[Comparison]:
    """Return ours against the paper, as `published.comparisons` does from records."""
    frame = results.tables["table1_vs_published"]
    seeds = pd.to_numeric(frame["weights"].str.extract(r"seed (\d+)")[0])
    frame = frame.assign(seed=seeds, stand_in=frame["weights"].str.contains("stand-in"))
    return [one for name, rows in protocols(frame) for one in published.comparisons(rows, name)]


def _against_the_paper(results: Results, pictures: Pictures) -> Markup | None:
    compared = comparisons(results)
    if not compared:
        return None
    sentences = [layout.capital(one.sentence) for one in compared]
    picture = results.folder / "table1_vs_published.png"
    figure = None
    if picture.is_file():
        alt = (
            "Ours against the paper, cell by cell: a point a number on the left, weighted minus original on the right."
        )
        figure = framed(pictures.show(picture, f"{alt} {sentences[0]}"))
    said = tag("ul", [tag("li", words(sentence)) for sentence in sentences], class_="findings")
    return join(tag("h3", "Beside the paper"), figure, said)


def _untold(results: Results, main: pd.DataFrame) -> Markup | None:
    """Say which records of the masking experiment stand in no table, and what puts them there."""
    told = set(main[["dataset", "model", "method", "contrast"]].itertuples(index=False, name=None))
    fit = {shard.path for shard in collected.table1(results.folder, refused=[])[0]}  # `gather` has named them
    left = [
        made for made in results.of("masking") if made.shard.path in fit and not made.fault and made.cell not in told
    ]
    if not left:
        return None
    said = f"Complete records of {count(len(left), 'cell')} stand in no table yet; this makes the tables of all:"
    return tag("div", tag("p", said), command(COLLECT.format(shlex.quote(str(results.folder)))), class_="empty")


__all__ = ["beside_the_paper", "comparisons", "notes", "protocols", "section"]
