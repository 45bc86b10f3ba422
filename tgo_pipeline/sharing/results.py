"""The evaluation in a model card: tables with intervals, the legend of their names, and the hub's `model-index`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.tables.legend import SECTIONS, facts_text
from tgo_pipeline.evaluation.tables.tables import short_sheet
from tgo_pipeline.params import Params
from tgo_pipeline.rendering.markdown import bullets, code, table, text
from tgo_pipeline.sharing.facts import without_places
from tgo_pipeline.storage.paths import file_name
from tgo_pipeline.storage.tables import read_metadata, read_table
from tgo_pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

ALL = "all"
DIGITS = 6  # decimals of results: more than any of them is known to
LINE_LIMIT = 2000  # characters of a model's facts in its card


@dataclass(frozen=True)
class EvaluationResults:
    """The rows of the evaluation table with the legend that was written with them."""

    rows: list[dict[str, Any]]
    confidence: float
    legend: Mapping[str, Mapping[str, Mapping[str, Any]]]
    params: Params

    @classmethod
    def read(cls, params: Params, workspace: Workspace) -> EvaluationResults | None:
        """None if there is no evaluation. Raises `TgoError` if it is one of another model than the one that is here."""
        from tgo_pipeline.evaluation.statistics.compare import EVALUATION

        if not workspace.evaluation.is_file():
            return None
        rows = read_table(workspace.evaluation, EVALUATION).to_pylist()
        metadata = read_metadata(workspace.evaluation)
        legend = metadata.get("legend", {})
        _require_same_model(legend, workspace.evaluation, workspace.model)
        return cls(
            rows, metadata.get("confidence", params.evaluate.confidence), without_places(legend), params
        )

    @property
    def by_set(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each test set, all sets together first."""
        names = dict.fromkeys(row["test_set"] for row in self.rows)
        return {name: [row for row in self.rows if row["test_set"] == name] for name in names}


def _require_same_model(legend: Mapping[str, Any], table: Path, model: Path) -> None:
    from tgo_pipeline.generators.location import model_fingerprint

    evaluated = legend.get("models", {}).get("tuned", {}).get("fingerprint")
    if evaluated != model_fingerprint(str(model)):
        raise TgoError(
            f"{table} is of another model than {model} is now: run the evaluate stage again (`tgo run evaluate`), so "
            "that the card states numbers of this one."
        )


def tables(results: EvaluationResults) -> str:
    """One Markdown table for each test set; a single one stands for all sets together."""
    sets = results.by_set
    if len(sets) == 2 and ALL in sets:
        sets.pop(ALL)
    return "\n\n".join(_table(name, rows, results) for name, rows in sets.items())


def _table(name: str, rows: Sequence[Mapping[str, Any]], results: EvaluationResults) -> str:
    sheet = short_sheet(name, rows, results.confidence)
    shown = results.params.shown_names
    names = [code(shown(row["reward"])) + _mark(row, results.params) for row in rows]
    cells = [[first, *line[1:]] for first, line in zip(names, sheet.rows, strict=True)]
    title = "all test sets together" if name == ALL else f"test set {code(name)}"
    counts = f"{rows[0]['n_prompts']:,} prompts, {rows[0]['n']:,} pairs"
    grid = table(sheet.columns, cells, range(1, len(sheet.columns)))
    return f"**{title[0].upper()}{title[1:]}** ({counts})\n\n{grid}"


def legend(results: EvaluationResults) -> str:
    """What every name in the tables is, as the evaluation recorded it, and what the columns and marks mean."""
    level = f"{results.confidence:.0%}"
    said = [
        f"Difference: tuned − base over the same prompts, with its {level} interval; effect: the same in standard "
        "deviations of the base model's scores.",
        f"Win rate: share of pairs that the tuned model wins, ties counting for neither, with its {level} interval.",
        "(target): what the labels were made of; (part of the target): one of the scores that it combines; (held out): "
        "seen by no earlier stage.",
    ]
    sections = [
        f"**{title}**\n\n{bullets(_line(name, facts) for name, facts in results.legend[section].items())}"
        for section, title in SECTIONS.items()
        if results.legend.get(section)
    ]
    return "\n\n".join([bullets(said), *sections])


def _line(name: str, facts: Mapping[str, Any]) -> str:
    return f"{code(name)}: {text(facts_text(facts), LINE_LIMIT)}"


def _mark(row: Mapping[str, Any], params: Params) -> str:
    if row["is_target"]:
        return " (target)"
    if row["reward"] in params.target_rewards:
        return " (part of the target)"
    return "" if row["reward"] in params.score.columns else " (held out)"


def model_index(results: EvaluationResults, task: str) -> list[EvalResult]:
    """Mean score and win rate of every reward on each test set, with intervals, as the hub's front matter has them."""
    sets = results.legend.get("test_sets", {})
    found = []
    for row in results.rows:
        if row["test_set"] != ALL:
            named = {**row, "reward": results.params.shown_names(row["reward"])}
            found += _index_entries(named, sets.get(row["test_set"], {}), results.confidence, task)
    return found


def _index_entries(
    row: Mapping[str, Any], facts: Mapping[str, Any], confidence: float, task: str
) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    about: dict[str, Any] = {
        "task_type": task,
        "dataset_type": file_name(row["test_set"]),
        "dataset_name": row["test_set"],
        "dataset_args": {"prompts": row["n_prompts"], "hash": facts.get("hash")},
    }
    interval = {"confidence": confidence, "low": row["win_rate_low"], "high": row["win_rate_high"]}
    return [
        EvalResult(
            **about,
            metric_type="win_rate",
            metric_name=f"{row['reward']}: win rate against the base model",
            metric_value=round(row["win_rate"], DIGITS),
            metric_args={key: round(value, DIGITS) for key, value in interval.items()},
        ),
        EvalResult(
            **about,
            metric_type="mean_score",
            metric_name=f"{row['reward']}: mean score",
            metric_value=round(row["tuned_mean"], DIGITS),
        ),
    ]
