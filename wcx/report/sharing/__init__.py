"""Results and drawn twins for other tools: Parquet files with a data card, readable by pyarrow or pandas alone (extra `export`).

`results` writes a results folder, `birds` the drawn birds with their twins and the truth; `card.md.j2` is the data card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jinja2

from wcx.errors import import_extra
from wcx.files import part_of
from wcx.files import write as write_file

CARD = "README.md"
Described = Mapping[str, str]  # column -> what it is


def pyarrow() -> Any:
    """Return pyarrow with pyarrow.parquet."""
    import_extra("pyarrow.parquet", "wcx export", "export")
    return import_extra("pyarrow", "wcx export", "export")


def write(path: Path, tables: Iterable[Any], facts: Mapping[str, str] | None = None) -> int:
    """Write tables of one schema into a Parquet file, whole or not at all; return how many rows.

    Args:
        tables: pyarrow tables, one after the other: only one is in memory.
        facts: kept in the schema's metadata.
    """
    pa, rows = pyarrow(), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with part_of(path) as part, ExitStack() as stack:
        writer = None
        for table in tables:
            if writer is None:
                schema = table.schema.with_metadata({**(table.schema.metadata or {}), **(facts or {})})
                writer = stack.enter_context(pa.parquet.ParquetWriter(part, schema))
            writer.write_table(table.cast(writer.schema))
            rows += table.num_rows
    return rows


def write_card(folder: Path, **facts: Any) -> Path:
    """Write the data card, README.md with a head as dataset hubs read it, from what `card.md.j2` asks for."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    write_file(folder / CARD, environment.get_template("card.md.j2").render(**facts))
    return folder / CARD


def listed(columns: Sequence[str], meanings: Described) -> list[tuple[str, str]]:
    """Return (columns, meaning), columns that share their first part and meaning in one line: ``a/<4 names>``."""
    groups: dict[tuple[str, str], list[str]] = {}
    for column in columns:
        groups.setdefault((column.partition("/")[0], meanings[column]), []).append(column)
    return [
        (f"`{names[0]}`" + (f" ... `{names[-1]}` ({len(names)})" if len(names) > 1 else ""), meaning)
        for (_, meaning), names in groups.items()
    ]
