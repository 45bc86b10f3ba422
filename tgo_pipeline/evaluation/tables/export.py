"""The tables of an evaluation to be read and cited: Markdown, LaTeX, csv and Parquet, each with its legend."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.compare import EVALUATION
from tgo_pipeline.evaluation.statistics.hacking import HACKING
from tgo_pipeline.evaluation.statistics.matrix import MATRIX
from tgo_pipeline.evaluation.statistics.means import MODELS
from tgo_pipeline.evaluation.tables import published
from tgo_pipeline.evaluation.tables.legend import SECTIONS, facts_text, shown_names
from tgo_pipeline.evaluation.tables.tables import SHEETS, TITLES
from tgo_pipeline.rendering import latex, markdown, sheets
from tgo_pipeline.rendering.table import Document, Sheet
from tgo_pipeline.storage.tables import read_metadata, read_table, write_table
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.storage.writing import atomic

SCHEMAS = {"evaluation": EVALUATION, "models": MODELS, "matrix": MATRIX, "hacking": HACKING}
NOTHING = (
    "The target is feedback that new images have none of, or no other reward is evaluated (evaluate.rewards)."
)


def source(name: str, table: Path, folder: Path) -> Path:
    """Where the evaluation wrote a table: `table` itself for base against tuned, `folder` for the others."""
    if name not in SCHEMAS:
        raise TgoError(f"{name!r} is not a table of the evaluation: it must be one of {', '.join(SCHEMAS)}.")
    return table if name == "evaluation" else folder / f"{name}.parquet"


def document(name: str, path: Path) -> Document:
    """What is shown of a table that the evaluation wrote. Raises `TgoError` if it is missing or of another schema."""
    table, metadata = read_table(path, SCHEMAS[name]), read_metadata(path, ("confidence",))
    legend = metadata.get("legend", {})
    columns = [key for key in ("reward", "target") if key in table.column_names]
    rows = shown_names(legend).rows(table.to_pylist(), *columns)
    shown = SHEETS[name](rows, metadata["confidence"])
    if not shown:
        shown = [Sheet("Nothing to compare", ("Model",), [], note=NOTHING)]
    if metadata.get("published"):
        shown += published.sheets(name, [facts.get("reward", "") for facts in legend["rewards"].values()])
    return Document(TITLES[name], shown, legend_lines(legend))


def legend_lines(legend: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, list[tuple[str, str]]]:
    """A legend as it is shown: a line of facts for each thing, by the title of its section."""
    shown = shown_names(legend)
    return {
        title: [(shown(thing), facts_text(facts)) for thing, facts in legend[section].items()]
        for section, title in SECTIONS.items()
        if legend.get(section)
    }


def text(name: str, path: Path, form: str) -> str:
    """A table as `md`, `tex` or `csv`. Raises `TgoError` for another format."""
    if form not in FORMATS:
        raise TgoError(f"the format is {form!r}: it must be one of {', '.join(FORMATS)}.")
    return FORMATS[form](name, path)


def _markdown(name: str, path: Path) -> str:
    return markdown.render(document(name, path))


def _latex(name: str, path: Path) -> str:
    return latex.render(document(name, path))


def _csv(name: str, path: Path) -> str:
    """All rows and columns with all digits; null is empty."""
    table = read_table(path, SCHEMAS[name])
    return sheets.written(table.column_names, (row.values() for row in table.to_pylist()))


FORMATS: Mapping[str, Callable[[str, Path], str]] = {"md": _markdown, "tex": _latex, "csv": _csv}


def export(workspace: Workspace) -> None:
    """Write every table of the evaluation to `tables` as .md, .tex, .csv (legend in .legend.json beside it) and
    .parquet (legend inside).
    """
    output = workspace.tables
    for name in SCHEMAS:
        path = source(name, workspace.evaluation, workspace.evaluation_images)
        for form in FORMATS:
            _write(output / f"{name}.{form}", text(name, path, form))
        metadata = read_metadata(path, ("legend",))
        _write(output / f"{name}.legend.json", _json(metadata["legend"]))
        with atomic(output / f"{name}.parquet") as temporary:
            write_table(_plain(read_table(path)), temporary, metadata)


def _write(path: Path, content: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="")


def _json(legend: Mapping[str, Any]) -> str:
    return json.dumps(legend, indent=2, ensure_ascii=False) + "\n"


def _plain(table: pa.Table) -> pa.Table:
    """The table with the metadata of its features alone; `write_table` adds the rest."""
    kept = {key: value for key, value in (table.schema.metadata or {}).items() if key == b"huggingface"}
    return table.replace_schema_metadata(kept)
