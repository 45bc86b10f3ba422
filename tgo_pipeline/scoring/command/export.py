"""The scores as text: csv that a spreadsheet opens, or JSON lines, written from the Parquet table beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tgo_pipeline.rendering.sheets import written
from tgo_pipeline.rewards.toys import ShownNames
from tgo_pipeline.scoring.command.options import TEXTS, Call
from tgo_pipeline.storage.tables import read_metadata, read_table
from tgo_pipeline.storage.writing import atomic


def export(call: Call) -> None:
    """Write the table of a finished call as the text that `out` is to be; nothing where it is Parquet."""
    if call.out.suffix.lower() not in TEXTS:
        return
    names, rows = _rows(call.table)
    if call.out.suffix.lower() == ".csv":
        text = written(names, rows)
    else:
        text = "".join(
            json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows
        )
    with atomic(call.out) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _rows(path: Path) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """The columns, and the rows with each score in the fewest digits that give its float32 again."""
    about, table = read_metadata(path)["rewards"], read_table(path)
    columns = [
        [None if value is None else float(str(value)) for value in _floats(table[name])]
        if name in about
        else table[name].to_pylist()
        for name in table.column_names
    ]
    shown = ShownNames.of({name: facts.get("source") for name, facts in about.items()})
    return [shown(name) for name in table.column_names], zip(*columns, strict=True)


def _floats(column: Any) -> Iterator[Any]:
    """The values as numpy's float32, whose text is as short as it can be; null stays None."""
    values, known = column.to_numpy(), column.is_valid().to_numpy()
    return (value if there else None for value, there in zip(values, known, strict=True))
