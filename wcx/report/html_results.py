"""What lies in a results folder, opened for the report: tables, pictures with what is said of them, records, manifests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from wcx import records
from wcx.errors import WcxError
from wcx.manifest import again, command_line
from wcx.records import Shard
from wcx.report import fig3_tables, localisation, paired, published, seeds, strata, table1
from wcx.report.pictures import selected

HEADERS = {
    "table1": table1.HEADER,
    "table1_paired": paired.HEADER,
    "table1_vs_published": published.HEADER,
    "table1_localisation": localisation.HEADER,
    "table1_strata": strata.HEADER,
    "table1_seeds": seeds.HEADER,
    "fig3": fig3_tables.HEADER,
    "fig3_paired": fig3_tables.PAIRED,
    "fig3_correlation": fig3_tables.CORRELATION,
}


@dataclass(frozen=True)
class Item:
    """A picture and what is said of it.

    Attributes:
        path: of the picture (or, of a switch, its index).
        about: from the JSON file beside it.
    """

    path: Path
    about: Mapping[str, Any]

    def say(self, key: str) -> str:
        """Return what the file says under a key, as text; "" if nothing."""
        value = self.about.get(key)
        if isinstance(value, (list, tuple)):
            return ", ".join(map(str, value))
        return "" if value is None else str(value)

    @property
    def command(self) -> str:
        """The command that made it; "" if the file tells none."""
        made = self.about.get("manifest")
        return self.say("command") or command_line(made.get("command") if isinstance(made, dict) else None)


@dataclass(frozen=True)
class Made:
    """A shard of records, and what it was made with.

    Attributes:
        shard: the records.
        manifest: its manifest.json.
        fault: what is not as it was written; "" if nothing is known to be wrong.
    """

    shard: Shard
    manifest: Mapping[str, Any]
    fault: str = ""

    @property
    def cell(self) -> tuple[str, str, str, str]:
        """Dataset (its name in tables), model, method, contrast."""
        return (str(self.shard.labels.get("dataset", self.shard.key[0])), *self.shard.key[1:])


@dataclass
class Results:
    """A results folder.

    Attributes:
        folder: where it is.
        tables: by file name without suffix, see `HEADERS`; empty ones where there is no such file.
        made: every shard of records.
        gallery: figures of gallery/.
        photographs: figures of images/.
        figures: of figures/, those of which there are no frames.
        switches: indices of frames (see `frames`) below figures/ and gallery/.
        problems: a line for every file that could not be read.
    """

    folder: Path
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)
    gallery: list[Item] = field(default_factory=list)
    photographs: list[Item] = field(default_factory=list)
    figures: list[Item] = field(default_factory=list)
    switches: list[Item] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def label(self, dataset: str) -> str:
        """Return a dataset's name in tables."""
        return {made.shard.key[0]: made.cell[0] for made in self.made}.get(dataset, dataset)

    def label_of(self, item: Item) -> str:
        """Return the name in tables of an item's dataset; "" if it names none."""
        return item.say("dataset_label") or self.label(item.say("dataset"))

    def of(self, experiment: str) -> list[Made]:
        """Return the records of one experiment."""
        return [made for made in self.made if made.shard.experiment == experiment]


def gather(folder: Path) -> Results:
    """Open whatever there is in a results folder; an absent folder is an empty one."""
    results = Results(Path(folder))
    results.tables = {name: _csv(results, name, header) for name, header in HEADERS.items()}
    results.made = [_made(results, shard) for shard in records.find(results.folder, refused=results.problems)]
    results.gallery = _pictures(results, "gallery")
    results.photographs = _pictures(results, "images")
    indices = [file for name in ("figures", "gallery") for file in results.folder.glob(f"{name}/**/{selected.INDEX}")]
    results.switches = [Item(file, _json(results, file)) for file in sorted(indices)]
    drawn = {item.path.parent for item in results.switches}
    results.figures = [item for item in _pictures(results, "figures") if item.path.with_suffix("") not in drawn]
    return results


def _made(results: Results, shard: Shard) -> Made:
    """Return a shard with its manifest; what is damaged is named in `problems`."""
    try:
        faults = shard.check().faults if shard.complete else {}
        fault = "; ".join(f"{name} {fault}" for name, fault in faults.items())
    except WcxError as error:
        fault = str(error)
    if fault:
        results.problems.append(f"{shard.path.relative_to(results.folder)}: {fault}; {again(shard.path)}")
    return Made(shard, _json(results, shard.path / "manifest.json"), fault)


def _csv(results: Results, name: str, header: tuple[str, ...]) -> pd.DataFrame:
    path = results.folder / f"{name}.csv"
    if not path.is_file():
        return pd.DataFrame(columns=list(header))
    try:
        frame = pd.read_csv(path, dtype={"foils": str, "seeds": str})
    except (ValueError, OSError) as error:
        results.problems.append(f"{path.name} cannot be read: {' '.join(str(error).split())}")
        return pd.DataFrame(columns=list(header))
    if absent := [column for column in header if column not in frame]:
        results.problems.append(f"{path.name} is left out: it has no column {', '.join(absent)}; make it again.")
        return pd.DataFrame(columns=list(header))
    said = [column for column in ("weights", "subset", "foils", "better", "contrast") if column in frame]
    return frame.assign(**{column: frame[column].fillna("").astype(str) for column in said})


def _json(results: Results, path: Path) -> dict[str, Any]:
    """Return an object from a JSON file; {} if there is none, with a line in `problems` if it cannot be read."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        found = error
    if isinstance(found, dict):
        return found
    results.problems.append(f"{path.relative_to(results.folder)} is left out: not an object in JSON.")
    return {}


def _pictures(results: Results, name: str) -> list[Item]:
    """Return the pictures of a folder and the folders in it, ordered by name, without the single frames of a switch."""
    files = sorted(results.folder.glob(f"{name}/**/*.png"))
    indexed = {file.parent for file in results.folder.glob(f"{name}/**/{selected.INDEX}")}
    return [Item(file, _json(results, file.with_suffix(".json"))) for file in files if file.parent not in indexed]
