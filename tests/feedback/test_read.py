"""Rows of feedback from every kind of file and from data sets, and what is refused with its row."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tests.datasets.public import pickapic, uid, write_pickapic
from tgo_pipeline.datasets.sources import identity
from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.read import read
from tgo_pipeline.params.feedback import FeedbackParams

STARS = [("a.png", 5, "ann"), ("a.png", 3, "bob"), ("b.png", 1, "ann")]


def write(path: Path, columns: dict[str, list[Any]]) -> str:
    """A file of the kind that the name says."""
    frame = pl.DataFrame(columns)
    writers = {".csv": frame.write_csv, ".jsonl": frame.write_ndjson, ".parquet": frame.write_parquet}
    writers[path.suffix](path)
    return str(path)


def params(source: str, kind: str = "rating", **keys: Any) -> FeedbackParams:
    return FeedbackParams(source=source, kind=kind, **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_ratings_are_the_same_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    names, stars, raters = (list(column) for column in zip(*STARS, strict=True))
    source = write(
        tmp_path / f"r{suffix}", {"note": ["x"] * 3, "who": raters, "photo": names, "stars": stars}
    )
    rows, empty = read(params(source, image="photo", value="stars", rater="who", low=1, high=5))
    assert rows.rows() == [(name, float(star), rater) for name, star, rater in STARS]
    assert (rows.columns, empty) == (["image", "value", "rater"], 0)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_pairs_are_the_same_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    columns = {"left": [1, 2], "right": [3, 4], "won": [1.0, 0.5]}
    source = write(tmp_path / f"p{suffix}", columns)
    rows, _ = read(params(source, "pair", first="left", second="right", choice="won"))
    assert rows.rows() == [("1", "3", 1.0), ("2", "4", 0.5)]


@pytest.mark.parametrize(
    "thumbs",
    [
        ["up", "Down", " UP "],
        ["true", "false", "true"],
        ["1", "0", "1"],
        ["+1", "-1", "1"],
        ["1.0", "0.0", "1.0"],
    ],
)
def test_thumbs_are_words_or_numbers(tmp_path: Path, thumbs: list[str]) -> None:
    source = write(tmp_path / "t.csv", {"file_name": ["a", "b", "c"], "rating": thumbs})
    assert read(params(source, "thumb"))[0]["value"].to_list() == [1, 0, 1]


@pytest.mark.parametrize("thumbs", [[True, False], [1, 0], [1, -1], [1.0, -1.0], [None, None]])
def test_thumbs_of_a_parquet_column_are_booleans_or_numbers(tmp_path: Path, thumbs: list[Any]) -> None:
    source = write(tmp_path / "t.parquet", {"file_name": ["a", "b"], "rating": thumbs})
    if thumbs == [None, None]:
        with pytest.raises(TgoError, match=r"holds no row of feedback: rating is empty everywhere"):
            read(params(source, "thumb"))
    else:
        assert read(params(source, "thumb"))[0]["value"].to_list() == [1, 0]


def test_rows_without_a_value_are_left_out_and_counted(tmp_path: Path) -> None:
    source = write(tmp_path / "r.csv", {"file_name": ["a", "b", "c"], "rating": ["4", "", None]})
    rows, empty = read(params(source))
    assert (rows["image"].to_list(), empty) == (["a"], 2)
    source = write(
        tmp_path / "r.parquet", {"file_name": ["a", "b", "c"], "rating": [4.0, float("nan"), None]}
    )
    assert read(params(source))[1] == 2


def test_json_of_mixed_types_and_lacking_keys_is_read(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"file_name": 7, "rating": "4", "extra": {"deep": [1]}},
        {"file_name": "b", "rating": 2.5},
        {"file_name": "c"},
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows, empty = read(params(str(tmp_path / "r.jsonl")))
    assert (rows.rows(), empty) == ([("7", 4.0), ("b", 2.5)], 1)


@pytest.mark.parametrize(
    ("columns", "keys", "message"),
    [
        ({"rating": ["4", "six"]}, {}, r"row 2: 'rating' is 'six', not a number\.$"),
        ({"rating": ["4", "0"]}, {"low": 1}, r"row 2: 'rating' is 0\.0, below low \(1\)"),
        (
            {"rating": ["9", "7"]},
            {"high": 5},
            r"row 1: 'rating' is 9\.0, above high \(5\) \(2 rows are like this\)",
        ),
        ({"rating": ["4", "inf"]}, {}, "row 2: 'rating' is inf, not a finite number"),
        ({"rating": ["4", "1e39"]}, {}, r"row 2: 'rating' is 1e\+39, not a finite number of 32 bits"),
        (
            {"rating": ["up", "meh"]},
            {"kind": "thumb"},
            "row 2: 'rating' is 'meh', no thumb: write up or down",
        ),
        ({"rating": ["0", "-1"]}, {"kind": "thumb"}, "has both 0 and -1"),
        ({"file_name": ["a", ""], "rating": ["1", "2"]}, {}, "row 2: 'file_name' is empty; say which image"),
        (
            {"rating": ["1", "2"], "who": ["x", None]},
            {"rater": "who"},
            "row 2: 'who' is empty; leave `rater` out",
        ),
        ({"stars": ["1", "2"]}, {}, "has no column 'rating'; its columns are: file_name, stars"),
        (
            {"image_0_uid": ["a", "b"], "image_1_uid": ["c", "d"], "label_0": ["1", "2"]},
            {"kind": "pair"},
            r"row 2: 'label_0' is 2\.0, not 1 \(the first won\), 0 \(the second won\) or 0\.5 \(a tie\)",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_row(
    tmp_path: Path, columns: dict[str, list[Any]], keys: dict[str, Any], message: str
) -> None:
    source = write(tmp_path / "f.csv", {"file_name": ["a", "b"], **columns})
    with pytest.raises(TgoError, match=message):
        read(params(source, **keys))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.csv", b"file_name,rating\n\xff\xfe,2\n", "UTF-8|utf-8"),
        ("f.csv", b"file_name,rating\na,2,3\n", "line 2: not as many values as columns"),
        ("f.jsonl", b'{"file_name": "a", "rating": 1}\n{"file_name": \n', "line 2: not JSON"),
        ("f.parquet", b"PAR1", "cannot be read as Parquet"),
        ("f.xlsx", b"PK", "is of a kind that is not read here"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TgoError, match=message):
        read(params(str(tmp_path / name)))


def test_a_nested_column_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "f.parquet", {"file_name": ["a"], "rating": [[1, 2]]})
    with pytest.raises(TgoError, match=r"column 'rating' is List.*neither text nor number"):
        read(params(source))


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        ({"file_name": ["a"], "rating": [True]}, "rating", "column 'rating' is true and false, not numbers"),
        (
            {"image_0_uid": ["a"], "image_1_uid": ["b"], "label_0": [True]},
            "pair",
            "'label_0' is true.*write 1 and 0",
        ),
        ({"file_name": [1.0], "rating": [4]}, "rating", "column 'file_name' is double, which names nothing"),
        (
            {"image_0_uid": [1], "image_1_uid": [2.0], "label_0": [1]},
            "pair",
            "'image_1_uid' is double, which names",
        ),
        ({"file_name": [True], "rating": [4]}, "rating", "column 'file_name' is bool, which names nothing"),
        ({"file_name": ["a"], "rating": ["good"]}, "rating", "row 1: 'rating' is 'good', not a number"),
        (
            {"file_name": ["a"], "rating": [b"4"]},
            "rating",
            "column 'rating' is Binary, neither text nor number",
        ),
        (
            {"file_name": ["a"], "rating": [timedelta(seconds=4)]},
            "rating",
            "column 'rating' is Duration.*neither text nor number",
        ),
    ],
)
def test_types_that_do_not_fit_are_refused(
    tmp_path: Path, columns: dict[str, list[Any]], kind: str, message: str
) -> None:
    with pytest.raises(TgoError, match=message):
        read(params(write(tmp_path / "f.parquet", columns), kind))


def test_a_name_of_json_is_text_or_a_whole_number(tmp_path: Path) -> None:
    for value in (1.5, True, ["a"], {"path": "a"}):
        (tmp_path / "r.jsonl").write_text(json.dumps({"file_name": value, "rating": 1}))
        with pytest.raises(TgoError, match=r"line 1: 'file_name' is .*, which is no name"):
            read(params(str(tmp_path / "r.jsonl")))


def test_a_missing_file_is_named_before_anything_is_read(tmp_path: Path) -> None:
    for work in (identity, lambda source: read(params(source))):
        with pytest.raises(TgoError, match=r"nothing\.csv does not exist"):
            work(str(tmp_path / "nothing.csv"))


def test_comparisons_of_a_data_set(tmp_path: Path) -> None:
    source = f"pickapic:{write_pickapic(tmp_path / 'set')}/train"
    rows, empty = read(params(source, "pair"))
    assert rows.select("first", "second", "choice").rows() == [
        (uid(0), uid(1), 1.0),
        (uid(0), uid(2), 0.0),
        (uid(3), uid(4), 0.5),
        (uid(4), uid(5), 0.0),
    ]
    assert (rows["rater"].to_list(), empty) == (["7", "7", "8", "9"], 0)
    with pytest.raises(TgoError, match="has no ratings of images"):
        read(params(source))


def test_labels_of_a_data_set_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    table = pickapic()
    place = table.schema.get_field_index("label_1")
    table = table.set_column(place, table.schema.field(place), pa.array([0.0, 0, 0.5, 1, 1]))
    source = f"pickapic:{write_pickapic(tmp_path / 'set', table)}/train"
    with pytest.raises(TgoError, match="comparison 2: the labels are 0 and 0"):
        read(params(source, "pair"))


def test_the_identity_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("file_name,rating\na,1\n")
    before = identity(str(path))
    path.write_text("file_name,rating\na,2\n")
    assert identity(str(path)) != before
