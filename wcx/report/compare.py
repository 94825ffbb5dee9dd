"""Two results folders side by side: every quantity of the same images, what else differs, and what only one of them holds.

Sets of records of the same cell (dataset, model, method, contrast, experiment) are paired, those that differ in the fewest facts
first. Images are paired by their ids, and are the clusters of interval and test; see `wcx.statistics`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from wcx import records, statistics
from wcx.errors import WcxError
from wcx.records import KEY, Shard
from wcx.report import opened
from wcx.report.opened import Opened
from wcx.report.sections import Section, counted
from wcx.report.summary import measured
from wcx.report.tables import Column, Table

LEVEL = 0.05
MOST_SHOWN = 60  # rows on the screen; of more, those whose corrected p is below LEVEL
NOTE = (
    "Paired over the images that both have: mean of b - a, 95 % percentile bootstrap interval, two-sided sign-flip p, and p "
    "corrected by Holm for the m tests of this table. "
) + opened.INTERVALS
_CELL = (
    Column("experiment", "What was measured.", folded=True),
    *(Column(name, folded=name != "contrast") for name in KEY),
    Column("setting", "What tells sets of records of one cell apart.", folded=True),
)
COLUMNS = (
    *_CELL,
    Column("quantity", "What was recorded of each image."),
    Column("n", "Images that both have.", format="d"),
    Column("mean_a", "Over those images.", "a", ".4g"),
    Column("mean_b", "Over those images.", "b", ".4g"),
    Column("difference", "Paired over images.", "b − a", "+.4g", interval=("ci_low", "ci_high")),
    *opened.TESTS,
)
SETS = (
    *_CELL,
    Column("where", "Which folder holds it."),
    Column("n", "Images that count, in both.", "images in both", ".0f"),
    Column("only_a", "Images that count in a alone.", "in a alone", ".0f"),
    Column("only_b", "Images that count in b alone.", "in b alone", ".0f"),
    Column("other_classes", "Of those in both: where a and b explain other classes t_1, ...", "other classes", ".0f"),
    Column("tests", "Quantities compared.", format=".0f"),
    Column("differ", f"Of them with p Holm < {LEVEL}.", f"p Holm < {LEVEL}", ".0f"),
    Column(
        "listing", "Whether both are of the same list of files; else images of the same name are paired.", folded=True
    ),
)
FACTS = (
    Column("fact", "What differs."),
    Column("a", "In the first folder."),
    Column("b", "In the second."),
    Column("pairs", "Pairs of sets of records that differ so.", format="d"),
)
HEADER = (*(column.name for column in COLUMNS[:-4]), "difference", "ci_low", "ci_high", "p", "p_holm", "m")
MADE_WITH = ("versions", "device", "platform", "git_commit", "evaluation_reason")  # of the manifest
_HASHES = ("weights", "dataset")  # among the parts


def facts(shard: Shard) -> dict[str, str]:
    """Return everything that is stated of a set of records but its cell, as text by name: settings, network, images, machine."""
    parts = {f"{name} hash" if name in _HASHES else name: value for name, value in shard.parts.items()}
    parts |= {"method": opened.stated(shard)} if "method" in parts else {}
    labels = {name: value for name, value in shard.labels.items() if name != "class_names"}
    try:
        manifest = json.loads((shard.path / "manifest.json").read_bytes())
        made = {name: manifest[name] for name in MADE_WITH if name in manifest}
    except (OSError, ValueError, TypeError):
        made = {}
    named = {**parts, **labels, **made, "complete": shard.complete}
    return {name: text for name, text in _leaves(named) if name != "experiment"}


def _leaves(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{within}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{within}{name}", text[:12] if name.endswith(" hash") else text


@dataclass(frozen=True, eq=False)
class MatchedSets:
    """A set of records of one folder beside that of the other.

    Attributes:
        a: its cell, opened.
        b: likewise.
    """

    a: Opened
    b: Opened

    @cached_property
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The quantities of a and of b, columns that both have, a row an image that counts in both, by id."""
        a, b = (measured(cell).set_axis(cell.rows.loc[measured(cell).index, "id"]) for cell in (self.a, self.b))
        ids, names = a.index.intersection(b.index), [name for name in a if name in b]
        return a.loc[ids, names], b.loc[ids, names]

    def counts(self) -> dict[str, Any]:
        """Return how many images count in both and in one alone, and in how many of both other classes are explained."""
        ids = self.tables[0].index
        a, b = (cell.rows.set_index("id").loc[ids] for cell in (self.a, self.b))
        targets = [name for name in a if name in b and name.startswith("t_")]
        others = (a[targets].fillna(-1) != b[targets].fillna(-1)).any(axis=1).sum()
        alone = {f"only_{name}": len(measured(cell)) - len(ids) for name, cell in (("a", self.a), ("b", self.b))}
        same = self.a.shard.parts.get("dataset") == self.b.shard.parts.get("dataset")
        listing = "same" if same else "other: paired by name"
        return {"n": len(ids), **alone, "other_classes": int(others), "listing": listing}

    def differing(self) -> Iterator[tuple[str, str, str]]:
        """Yield (fact, in a, in b) of what differs."""
        a, b = facts(self.a.shard), facts(self.b.shard)
        for name in dict.fromkeys([*a, *b]):
            if a.get(name) != b.get(name):
                yield name, a.get(name, "-"), b.get(name, "-")

    def rows(self, quantities: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield a row a quantity; those of the same images are resampled together."""
        a, b = self.tables
        names = [name for name in a if not quantities or any(fnmatchcase(name, pattern) for pattern in quantities)]
        for mask, columns in opened.same_images((b - a)[names]):
            key = [*self.a.shard.key, self.a.shard.experiment, "compare", int(mask.sum())]
            result = statistics.paired(b.loc[mask, columns], a.loc[mask, columns], key)
            means = {"mean_a": a.loc[mask, columns].mean(), "mean_b": b.loc[mask, columns].mean()}
            frame = pd.DataFrame({"quantity": columns, "n": result.n, **means, **result._asdict()}, index=columns)
            yield from frame.to_dict("records")


def matched(a: Sequence[Shard], b: Sequence[Shard]) -> tuple[list[tuple[Shard, Shard]], list[Shard], list[Shard]]:
    """Return pairs of sets of records of the same cell, those that differ in the fewest facts first, and what is left over.

    Returns:
        the pairs, in the order of `a`; the rest of `a`; the rest of `b`.
    """
    stated = {shard.path: facts(shard) for shard in (*a, *b)}

    def distance(pair: tuple[Shard, Shard]) -> int:
        first, second = (stated[shard.path] for shard in pair)
        return sum(first.get(name) != second.get(name) for name in {**first, **second})

    fitting = [(s, t) for s, t in product(a, b) if (s.key, s.experiment) == (t.key, t.experiment)]
    partner: dict[Path, Shard] = {}
    for s, t in sorted(fitting, key=distance):
        if s.path not in partner and t.path not in partner:
            partner |= {s.path: t, t.path: s}
    left = ([shard for shard in folder if shard.path not in partner] for folder in (a, b))
    return [(shard, partner[shard.path]) for shard in a if shard.path in partner], *left


def _found(folder: Path, name: str, refused: list[str]) -> list[Shard]:
    shards = records.find(folder, refused=refused)
    if not (shards or refused):
        raise WcxError(f"{name}={folder} holds no records; give a results folder, which has a folder records/ in it.")
    return shards


def _settings(shards: Sequence[Shard]) -> dict[Path, str]:
    """Return for each set of records the parts in which it differs from others of its cell."""
    cells: dict[object, dict[Path, dict[str, str]]] = defaultdict(dict)
    for shard in shards:
        parts = dict(_leaves({**shard.parts, "seed of training": shard.labels.get("seed")}))
        cells[shard.key, shard.experiment][shard.path] = {k: v for k, v in parts.items() if k not in _HASHES}
    texts = {}
    for sets in cells.values():
        telling: list[str] = []
        for name in dict.fromkeys(name for parts in sets.values() for name in parts):
            if len(_apart(sets.values(), [*telling, name])) > len(_apart(sets.values(), telling)):
                telling.append(name)
        for path, parts in sets.items():
            texts[path] = ", ".join(f"{name.removeprefix('settings.')}={parts.get(name, '-')}" for name in telling)
    return texts


def _apart(sets: Iterable[Mapping[str, str]], names: Sequence[str]) -> set[tuple[str | None, ...]]:
    """Return the combinations of some facts that there are."""
    return {tuple(parts.get(name) for name in names) for parts in sets}


def section(a: Path, b: Path, quantities: Sequence[str] = (), refused: list[str] | None = None) -> Section:
    """Return what two results folders hold, side by side.

    Args:
        a: a results folder.
        b: another; differences are b - a.
        quantities: patterns of names (`fnmatch`), the family of tests; () is all.
        refused: where a line goes for each set of records that is not what was written.

    Raises:
        WcxError: a folder without records; a pattern that no quantity fits.
    """
    refused = [] if refused is None else refused
    pairs, *alone = matched(_found(a, "a", refused), _found(b, "b", refused))
    setting = _settings([shard for shard, _ in pairs] + alone[0]) | _settings(alone[1])
    rows: list[dict[str, Any]] = []
    sets: list[dict[str, Any]] = []
    differing: dict[tuple[str, str, str], int] = defaultdict(int)
    notes: dict[str, None] = {}

    def cell(shard: Shard) -> dict[str, Any]:
        return {
            "experiment": shard.experiment,
            **dict(zip(KEY, shard.key, strict=True)),
            "setting": setting[shard.path] or None,
        }

    for first, second in tqdm(pairs, desc="compare", unit="pair"):
        frames = [opened.rows(shard, refused) for shard in (first, second)]
        if frames[0] is None or frames[1] is None:
            continue
        pair = MatchedSets(Opened(first, frames[0]), Opened(second, frames[1]))
        stated = {
            f"{name}_{key}": text for name, shard in (("a", first), ("b", second)) for key, text in facts(shard).items()
        }
        compared = [cell(first) | row | stated | {"set": len(sets)} for row in pair.rows(quantities)]
        sets.append(cell(first) | {"where": "a and b", **pair.counts(), "tests": len(compared)})
        notes |= dict.fromkeys((_network("a", first), _network("b", second)))
        for fact in pair.differing():
            differing[fact] += 1
        rows += compared
    if pairs and sets and not rows and quantities:
        raise WcxError(f"quantities = {list(quantities)}: none fits; leave it out to see what there is.")
    frame = pd.DataFrame(rows, columns=None if rows else [*HEADER, "set"])
    frame = opened.corrected(frame)
    low = frame.loc[frame["p_holm"] < LEVEL]
    sets = [row | {"differ": int((low["set"] == number).sum())} for number, row in enumerate(sets)]
    sets += [
        cell(shard) | {"where": f"only {name}"} for name, shards in zip("ab", alone, strict=True) for shard in shards
    ]
    notes |= dict.fromkeys(opened.unchecked([shard for pair in pairs for shard in pair]))
    tables = _tables(frame.drop(columns="set"), low.index, sets, differing)
    findings = [
        f"a: {a}; b: {b}; {counted(len(pairs), 'pair')} of sets of records, {len(alone[0])} in a alone, {len(alone[1])} in b alone",
        f"{counted(len(low), 'difference')} of m = {int(frame['p'].notna().sum())} with p Holm < {LEVEL}",
    ]
    options = {"findings": findings, "problems": refused, "notes": list(notes)}
    return Section("compare", "Two results folders", "", tables, document="compare", **options)


def _network(folder: str, shard: Shard) -> str:
    """Return what is to be said of a set of records' network and images."""
    stated = facts(shard)
    weights, subset = stated.get("weights", "weights not recorded"), stated.get("subset") or "all images"
    return f"{folder}: {', '.join(shard.key[:2])}: {weights}; {subset}"


def _tables(
    frame: pd.DataFrame, low: pd.Index, sets: Sequence[dict[str, Any]], differing: Mapping[tuple[str, str, str], int]
) -> list[Table]:
    """Return the tables: sets of records, facts, and the differences, divided for the eye where there are many."""
    listed = pd.DataFrame(list(sets), columns=[column.name for column in SETS])
    stated = pd.DataFrame(
        [(*fact, count) for fact, count in differing.items()], columns=[column.name for column in FACTS]
    )
    is_short = len(frame) <= MOST_SHOWN
    blocks = (
        [("b − a", frame)] if is_short else [(f"b − a, p Holm < {LEVEL}", frame.loc[low]), ("b − a", frame.drop(low))]
    )
    options: dict[str, Any] = {"whole": frame, "header": HEADER}
    return [
        Table("compare_sets", "Sets of records in a and in b", SETS, listed),
        Table("compare_facts", "Facts that differ", FACTS, stated),
        *(
            Table("compare", title, COLUMNS, block, NOTE, is_main=place == 0, **options)
            for place, (title, block) in enumerate(blocks)
        ),
    ]
