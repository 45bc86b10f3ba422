"""Several trainings of one setting as tables: in a terminal, as Markdown, LaTeX or csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.models import BASE
from tgo_pipeline.evaluation.tables.export import legend_lines
from tgo_pipeline.evaluation.tables.legend import shown_names
from tgo_pipeline.evaluation.tables.tables import distinct_sets, reward_name, set_title, split
from tgo_pipeline.rendering import latex, markdown, sheets
from tgo_pipeline.rendering.table import Document, Row, Sheet, decimals, interval, number

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Group

FORMATS = ("md", "tex", "csv")


@dataclass(frozen=True)
class TrainingsReport:
    """A table of `statistics.trainings`, with the legend of the evaluation that it was made of."""

    table: pa.Table
    confidence: float
    bootstrap: int
    legend: Mapping[str, Mapping[str, Mapping[str, Any]]]

    def text(self, form: str) -> str:
        """As `md`, `tex` or `csv`. Raises `TgoError` for another format."""
        if form == "csv":
            return sheets.written(self.table.column_names, (row.values() for row in self.table.to_pylist()))
        if form not in FORMATS:
            raise TgoError(f"the format is {form!r}: it must be one of {', '.join(FORMATS)}.")
        return {"md": markdown, "tex": latex}[form].render(self._document())

    def view(self) -> Group:
        """For `rich`'s console: green above and red below zero where both intervals of the difference are."""
        from rich.console import Group

        from tgo_pipeline.rendering.terminal import sheet_parts

        return Group(*(part for sheet, styles in self._sheets() for part in sheet_parts(sheet, styles)))

    def _document(self) -> Document:
        statistics = {
            "intervals": {
                "of all trainings": f"percentile bootstrap, level {self.confidence:.10g}, {self.bootstrap} resamples "
                "of trainings and of whole prompts, drawn independently (pigeonhole bootstrap), paired",
                "t": "Student's, with the variance of trainings and prompts as crossed random effects, degrees of "
                "freedom by Satterthwaite",
                "effect": "difference in standard deviations of the base",
            }
        }
        names = {BASE, *(name for row in self.table.to_pylist() for name in _names(row))}
        models = {name: facts for name, facts in self.legend.get("models", {}).items() if name in names}
        legend = {**self.legend, "models": models, "statistics": statistics}
        return Document(
            "Trainings of one setting", [sheet for sheet, _ in self._sheets()], legend_lines(legend)
        )

    def _sheets(self) -> list[tuple[Sheet, list[str]]]:
        """A sheet for each test set with the styles of its rows; the last one says what the numbers mean."""
        rows = shown_names(self.legend).rows(self.table.to_pylist(), "reward")
        parts = list(split(distinct_sets(rows), "test_set").values())
        notes = [*[""] * (len(parts) - 1), _note(parts[0][0])]
        return [
            (_sheet(part, self.confidence, note), [_style(row) for row in part if row["n_trainings"] > 1])
            for part, note in zip(parts, notes, strict=True)
        ]


def _names(row: Row) -> list[str]:
    return [name for side in ("models", "against") for name in row[side].split(",")]


def _sheet(rows: Sequence[Row], confidence: float, note: str) -> Sheet:
    """A test set: the mean of all trainings, a line for each reward, with each training's own effect."""
    level = f"[{confidence:.0%}]"
    first = rows[0]
    own = split((row for row in rows if row["n_trainings"] == 1), "reward")
    return Sheet(
        title=f"{set_title(first['test_set'], rows)}: {_several(first['models'])} against {_several(first['against'])}",
        columns=(
            *("Reward", "Base" if first["against"] == BASE else "Against", "Trainings"),
            *(f"Difference {level}", f"Student's t {level}", f"Effect {level}", f"Win rate {level}"),
            "Effect of each",
        ),
        rows=[
            _line(row, own[(row["reward"],)], f"{decimals(row['base_std'])}f")
            for row in rows
            if row["n_trainings"] > 1
        ],
        note=note,
    )


def _line(row: Row, own: Sequence[Row], style: str) -> list[str]:
    t = {"t": row["difference"], "t_low": row["difference_t_low"], "t_high": row["difference_t_high"]}
    return [
        reward_name(row),
        f"{row['other_mean']:.{style}}",
        f"{row['mean']:.{style}}",
        interval(row, "difference", f"+z.{style}"),
        interval(t, "t", f"+z.{style}").partition(" ")[2],
        interval(row, "effect", "+z.2f"),
        interval(row, "win_rate", ".1%"),
        " ".join(number(each["effect"], "+z.2f") for each in own),
    ]


def _several(names: str) -> str:
    each = names.split(",")
    return f"{len(each)} trainings ({', '.join(each)})" if len(each) > 1 else names


def _note(row: Row) -> str:
    """How many trainings, and what the intervals mean."""
    count, others = row["n_trainings"], row["n_against"]
    paired = "paired by position and prompt" if count == others else "paired by prompt"
    sides = f"{count} and {others} trainings, {paired}" if others > 1 else f"Mean of {count} trainings"
    fixed = (
        f"; {row['against']} is one model, taken as it is" if others == 1 and row["against"] != BASE else ""
    )
    return (
        f"{sides}{fixed}. Intervals resample trainings and prompts: they are of the setting, with any seed and on any "
        "such prompts, not of these trainings alone. With few trainings they may be too narrow (docs/EVALUATION.md); "
        "Student's t, which is for few, is the check. Effect: difference in standard deviations of the base; of each: "
        f"in the order {row['models'].replace(',', ', ')}."
    )


def _style(row: Row) -> str:
    lows, highs = ([row[f"difference_{end}"], row[f"difference_t_{end}"]] for end in ("low", "high"))
    sure = None not in (*lows, *highs)
    colour = "green" if sure and min(lows) > 0 else "red" if sure and max(highs) < 0 else ""
    return f"bold {colour}".strip() if row["is_target"] else colour
