"""Rows of feedback from a table with named columns, a preference data set, or the file that `tgo rate` writes.

Every reader gives the same frames, checked: names of images and raters as text, numbers as float64. A value that is no
number, is outside its scale or has no image is refused with its row; a row without a value is left out and counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from tgo_pipeline.datasets import is_dataset, open_dataset
from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback import ratings_file
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.reading.tables import open_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

UP = ("up", "true", "yes", "like", "liked", "thumbs_up", "+1", "1", "1.0")
DOWN = ("down", "false", "no", "dislike", "disliked", "thumbs_down", "-1", "0", "-1.0", "0.0")
"""What a thumb may be, in any case of letters. 0 and -1 in one column are refused: one of them would be neither."""
RATINGS = ("image", "value", "rater")
NAMES = ("image", "first", "second", "rater")
"""Roles whose columns name something."""
COMPARISONS = ("first", "second", "choice", "rater")
SIDES = {"image_0_uid": "first", "image_1_uid": "second", "label_0": "choice", "label_1": "against"}
"""The columns of a data set's comparisons, and what they are called here."""


def read(params: FeedbackParams) -> tuple[pl.DataFrame, int]:
    """The rows that say something, and how many were left out because they have no value.

    Columns: `first`, `second`, `choice` (1, 0.5 or 0) for pairs, else `image`, `value`; and `rater` where there is
    one. A thumb is 1 (up) or 0 (down). Raises `TgoError` for a missing file or column, or a value that cannot be.
    """
    rows = _rows(params).with_row_index("row", offset=1)
    value = "choice" if params.kind == "pair" else "value"
    names = [name for name in NAMES if name in rows.columns]
    rows = rows.with_columns(
        _number(rows, value, params),
        *(_text(rows[name], params, name).str.normalize("NFC") for name in names),
    )
    said = rows.filter(pl.col(value).is_not_null())
    if said.is_empty():
        raise TgoError(
            f"{params.source} holds no row of feedback: {_column(params, value)} is empty everywhere."
        )
    for name in names:
        _require_name(said, name, params)
    _check_values(said, value, params)
    return said.drop("row"), rows.height - said.height


def _rows(params: FeedbackParams) -> pl.DataFrame:
    if is_dataset(params.source):
        return _from_dataset(params)
    if ratings_file.is_ratings_file(params.source):
        return ratings_file.frame(params.source, params.kind)
    ratings_file.require_there(params.source)
    return _from_table(params.source, {name: _column(params, name) for name in _wanted(params)})


def _wanted(params: FeedbackParams) -> list[str]:
    names = COMPARISONS if params.kind == "pair" else RATINGS
    return [name for name in names if name != "rater" or params.rater is not None]


def _column(params: FeedbackParams, name: str) -> str:
    """What the user calls it: a column of the file, or the role itself where columns are not the user's."""
    own = is_dataset(params.source) or ratings_file.is_ratings_file(params.source)
    return name if own else getattr(params, name)


def _from_dataset(params: FeedbackParams) -> pl.DataFrame:
    """All rows of a data set; raters count where every row names one."""
    dataset = open_dataset(params.source)
    if params.kind == "pair":
        rows = _collect(dataset.comparisons(), {**SIDES, "rater": "rater"})
        _require_one_choice(rows, params)
    else:
        names = {"image_uid": "image", "value": "value", "rater": "rater"}
        rows = _collect(dataset.ratings(), names)
    return rows.drop("rater") if rows["rater"].null_count() else rows


def _require_one_choice(rows: pl.DataFrame, params: FeedbackParams) -> None:
    wrong = rows.with_row_index("row", offset=1).filter(pl.col("choice") + pl.col("against") != 1)
    if not wrong.is_empty():
        raise TgoError(
            f"{params.source}, comparison {wrong['row'][0]}: the labels are {wrong['choice'][0]:g} and "
            f"{wrong['against'][0]:g}, and must be 1 and 0, 0 and 1, or 0.5 twice ({wrong.height} rows are like this)."
        )


def _collect(batches: Iterable[pa.RecordBatch], names: dict[str, str]) -> pl.DataFrame:
    frames = [pl.DataFrame(batch.select(list(names))) for batch in batches]
    if not frames:
        raise TgoError("the data set holds no row of feedback: name another one, or another split.")
    return pl.concat(frames).rename(names)


def _from_table(source: str, columns: dict[str, str]) -> pl.DataFrame:
    """The columns of a table under the names of their roles; text of a csv or jsonl, as it is of Parquet."""
    table = open_table(source)
    table.require(list(columns.values()))
    wanted = list(dict.fromkeys(columns.values()))
    names = [columns[name] for name in NAMES if name in columns]
    frames = [pl.DataFrame(batch) for batch in table.batches(wanted, names)]
    frame = (
        pl.concat(frames, rechunk=True) if frames else pl.DataFrame(schema=dict.fromkeys(wanted, pl.String))
    )
    return frame.select(pl.col(column).alias(name) for name, column in columns.items())


def _number(rows: pl.DataFrame, name: str, params: FeedbackParams) -> pl.Series:
    """Column `name` as float64, null where it is empty. Raises `TgoError` with the row of the first that is none."""
    column = rows[name]
    if params.kind == "thumb":
        return _thumb(rows, params)
    if column.dtype.is_numeric():
        return column.cast(pl.Float64).fill_nan(None)
    if column.dtype == pl.Boolean:
        advice = "write 1 and 0" if params.kind == "pair" else "read the column as a thumb (`kind: thumb`)"
        raise TgoError(
            f"{params.source}: column {_column(params, name)!r} is true and false, not numbers: {advice}."
        )
    text = _text(column, params, name).str.strip_chars()
    number = text.cast(pl.Float64, strict=False)
    wrong = rows.filter(text.is_not_null() & number.is_null())
    if not wrong.is_empty():
        raise _refused(params, name, wrong, "not a number")
    return number.fill_nan(None)


def _thumb(rows: pl.DataFrame, params: FeedbackParams) -> pl.Series:
    text = _text(rows["value"], params, "value").str.strip_chars().str.to_lowercase()
    up, down = text.is_in(UP), text.is_in(DOWN)
    wrong = rows.filter(text.is_not_null() & ~(up | down))
    if not wrong.is_empty():
        raise _refused(params, "value", wrong, "no thumb: write up or down, true or false, 1 or 0, +1 or -1")
    if text.is_in(["0", "0.0"]).any() and text.is_in(["-1", "-1.0"]).any():
        raise TgoError(
            f"{params.source}: {_column(params, 'value')!r} has both 0 and -1, and a thumb is up or down alone: leave "
            "empty the rows that are neither, or read the column as a rating."
        )
    return up.cast(pl.Float64).alias("value")


def _text(column: pl.Series, params: FeedbackParams, name: str) -> pl.Series:
    """A column as text, null where it is empty or blank."""
    if column.dtype.is_nested() or column.dtype.is_temporal() or column.dtype == pl.Binary:
        raise TgoError(
            f"{params.source}: column {_column(params, name)!r} is {column.dtype}, neither text nor number."
        )
    text = column.cast(pl.String)
    return text.set(text.str.strip_chars() == "", None)


def _require_name(rows: pl.DataFrame, name: str, params: FeedbackParams) -> None:
    empty = rows.filter(pl.col(name).is_null())
    if not empty.is_empty():
        advice = (
            "leave `rater` out if raters are unknown" if name == "rater" else "say which image it is about"
        )
        raise TgoError(
            f"{params.source}, row {empty['row'][0]}: {_column(params, name)!r} is empty; {advice}."
        )


def _check_values(rows: pl.DataFrame, name: str, params: FeedbackParams) -> None:
    wrong = rows.filter(~pl.col(name).cast(pl.Float32).is_finite())
    if not wrong.is_empty():
        raise _refused(params, name, wrong, "not a finite number of 32 bits")
    if name == "choice":
        wrong = rows.filter(~pl.col(name).is_in([0.0, 0.5, 1.0]))
        if not wrong.is_empty():
            raise _refused(params, name, wrong, "not 1 (the first won), 0 (the second won) or 0.5 (a tie)")
        return
    if params.low is not None:
        wrong = rows.filter(pl.col(name) < params.low)
        if not wrong.is_empty():
            raise _refused(params, name, wrong, f"below low ({params.low:g})")
    if params.high is not None:
        wrong = rows.filter(pl.col(name) > params.high)
        if not wrong.is_empty():
            raise _refused(params, name, wrong, f"above high ({params.high:g})")


def _refused(params: FeedbackParams, name: str, wrong: pl.DataFrame, why: str) -> TgoError:
    more = f" ({wrong.height} rows are like this)" if wrong.height > 1 else ""
    return TgoError(
        f"{params.source}, row {wrong['row'][0]}: {_column(params, name)!r} is {wrong[name][0]!r}, {why}{more}."
    )
