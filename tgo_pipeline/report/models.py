"""The comparison of all models of an evaluation: who wins against whom, where, and whether the gain is real."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tgo_pipeline.evaluation.statistics.hacking import MEMBER
from tgo_pipeline.evaluation.statistics.scores import ALL
from tgo_pipeline.evaluation.tables.export import SCHEMAS, document, source
from tgo_pipeline.evaluation.tables.tables import split
from tgo_pipeline.params import Params
from tgo_pipeline.rendering.table import Document
from tgo_pipeline.report.charts import models as charts
from tgo_pipeline.report.charts.sections import Spec
from tgo_pipeline.report.summary import Role
from tgo_pipeline.storage.tables import read_table
from tgo_pipeline.storage.workspace import Workspace

BASE, TUNED = "base", "tuned"
TABLES = ("models", "matrix", "hacking")
MOST_CATEGORIES = 40
"""Lines of a chart; a finer breakdown is left to the tables."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Matrix:
    """Win rates by one reward over all test sets: per model its row, None where it would meet itself."""

    reward: str
    is_target: bool
    models: list[str]
    rows: list[tuple[str, list[Row | None]]]


@dataclass(frozen=True)
class Models:
    """What the section shows; `documents` are the evaluation's tables as sheets, `legend` says what each name is."""

    names: list[str]
    matrices: list[Matrix]
    hacking: list[Row]
    categories: Mapping[str, Spec]
    documents: list[Document]
    legend: Mapping[str, Sequence[tuple[str, str]]]


def models(params: Params, workspace: Workspace, roles: Mapping[str, Role]) -> Models | None:
    """The comparison with its charts, or None if the evaluation wrote none of its tables.

    `roles` are the rewards' parts in the evaluation; those that matter are charted. Raises `TgoError` for a table of
    the wrong schema.
    """
    places = {name: source(name, workspace.evaluation, workspace.evaluation_images) for name in TABLES}
    found = {name: path for name, path in places.items() if path.is_file()}
    if not found:
        return None
    rows = {
        name: params.shown_names.rows(read_table(path, SCHEMAS[name]).to_pylist(), "reward")
        for name, path in found.items()
    }
    matrix = rows.get("matrix", [])
    documents = [document(name, path) for name, path in found.items() if rows[name]]
    names = list(dict.fromkeys(row["model"] for row in rows.get("models", [])))
    return Models(
        names=names,
        matrices=_matrices(matrix) if len(names) > 2 else [],
        hacking=[
            {**row, "note": params.shown_names.text(row["note"])}
            for row in _judgements(rows.get("hacking", []))
        ],
        categories=_categories(matrix, roles),
        documents=documents,
        legend=documents[0].legend if documents else {},
    )


def _judgements(rows: Iterable[Row]) -> list[Row]:
    """Over all test sets, on what the target is not made of; on its parts where there is nothing else."""
    whole = [row for row in rows if row["test_set"] == ALL]
    return [row for row in whole if row["role"] != MEMBER] or whole


def _matrices(rows: Iterable[Row]) -> list[Matrix]:
    whole = [row for row in rows if row["test_set"] == ALL and row["category"] is None]
    made = []
    for (reward,), part in split(whole, "reward").items():
        names = list(dict.fromkeys(row["model_a"] for row in part))
        cells = {(row["model_a"], row["model_b"]): row for row in part}
        lines = [(a, [cells.get((a, b)) for b in names]) for a in names]
        made.append(Matrix(reward, part[0]["is_target"], names, lines))
    return sorted(made, key=lambda matrix: not matrix.is_target)


def _categories(rows: Iterable[Row], roles: Mapping[str, Role]) -> dict[str, Spec]:
    """Per test set and kind of category the tuned model's win rates against base."""
    shown = [name for role in ("target", "held out") for name, part in roles.items() if part == role]
    shown = shown or list(roles)[:1]
    chosen = [
        row
        for row in rows
        if row["category"] is not None
        and (row["model_a"], row["model_b"]) == (TUNED, BASE)
        and row["reward"] in shown
        and row["n"]
    ]
    parts = split(chosen, "test_set", "grouping")
    return {
        f"{name}: by {grouping}": charts.by_category(part, roles)
        for (name, grouping), part in parts.items()
        if len({row["category"] for row in part}) <= MOST_CATEGORIES
    }
