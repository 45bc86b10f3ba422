"""Tables of every kind give the same rows, with whatever marks and delimiters a program wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.hub_server import HubServer
from tests.images.conftest import data_hub, hub, publish
from tgo_pipeline.datasets.sources import identity
from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.read import read as read_feedback
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.prompts import sources
from tgo_pipeline.reading.tables import open_table

__all__ = ["data_hub", "hub"]
ROWS = [("a.png", "a red, round fox", "4"), ("b.png", 'says "no"; then\n goes', "2.5"), ("c.png", "", "3")]
NAMES = ["file_name", "prompt", "rating"]


def write(path: Path, delimiter: str = ",", encoding: str = "utf-8", end: str = "\n") -> Path:
    import csv

    with path.open("w", encoding=encoding, newline="") as stream:
        csv.writer(stream, delimiter=delimiter, lineterminator=end).writerows([NAMES, *ROWS])
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_as_programs_write_it(tmp_path: Path, delimiter: str, encoding: str, end: str) -> None:
    table = open_table(write(tmp_path / "t.csv", delimiter, encoding, end))
    assert table.names == NAMES
    assert list(table.rows(NAMES)) == ROWS
    assert list(table.rows(["rating"], ["model", "file_name"])) == [(row[2], None, row[0]) for row in ROWS]
    assert [row for batch in table.batches(NAMES) for row in map(tuple, pl.DataFrame(batch).rows())] == ROWS


def test_a_header_with_commas_is_split_at_commas_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;b;c,prompt\n1;2;3,x\n")
    assert list(open_table(tmp_path / "t.csv").rows(["prompt"])) == [("x",)]


def test_a_tsv_keeps_its_quotes(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('prompt\tkind\n"quoted" words\tx\n')
    assert list(open_table(tmp_path / "t.tsv").rows(["prompt"])) == [('"quoted" words',)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_json_is_an_array_of_objects(tmp_path: Path, encoding: str) -> None:
    rows = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
    (tmp_path / "t.json").write_text(json.dumps(rows, indent=2), encoding=encoding)
    table = open_table(tmp_path / "t.json")
    assert table.names == NAMES
    assert list(table.rows(["prompt"], ["model", "file_name"])) == [(row[1], None, row[0]) for row in ROWS]
    assert [row for batch in table.batches(NAMES) for row in map(tuple, pl.DataFrame(batch).rows())] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.csv",
            "prompt,kind\na cat, sitting,x\n",
            r"line 2: not as many values as columns \(3 and 2\); quote values",
        ),
        ("t.csv", "prompt,kind\na cat,x\na dog\n", r"line 3: not as many values as columns \(1 and 2\)"),
        ("t.csv", "prompt,kind\na cat,\nred,y\nfur\n", r"line 4: .*\(1 and 2\)"),
        ("t.csv", 'prompt,kind\n"a cat,x\na dog,y\n', r"line 2: not CSV \(unexpected end of data\)"),
        (
            "t.csv",
            'prompt,kind\na cat,x\n"a dog,y\na "fox",z\n',
            "line 3: not CSV .*expected after",
        ),
        ("t.csv", 'prompt,kind\n"two\nlines",x\n"a" cat,y\n', "line 4: not CSV"),
        ("t.csv", "prompt,kind,prompt\na,x,b\n", r"t\.csv has the column 'prompt' twice"),
        ("t.tsv", "prompt\tkind\na\tx\ty\n", r"line 2: .*\(3 and 2\)"),
        ("t.tsv", "prompt\tkind\tprompt\na\tx\ty\n", "has the column 'prompt' twice"),
        (
            "t.jsonl",
            '{"prompt": "a", "kind": "x", "prompt": "b"}\n',
            "line 1: the key 'prompt' is there twice",
        ),
        (
            "t.json",
            '[{"prompt": "a", "kind": "x", "prompt": "b"}]',
            "not JSON.*the key 'prompt' is there twice",
        ),
        ("t.json", '[{"prompt": "a", "kind": "x"}, 3]', "record 2: holds a JSON int, not an object"),
        ("t.json", '[{"prompt": "a", "kind": "x"}', "is not JSON, or not all of it is there"),
        (
            "t.json",
            '{"prompt": {"0": "a"}, "kind": {"0": "x"}}',
            r"record 1: '(prompt|kind)' is .*(text|name)",
        ),
        ("t.jsonl", '{"prompt": "a", "kind": {"a": 1, "a": 2}}\n', "line 1: the key 'a' is there twice"),
        ("t.jsonl", '{"prompt": "a", "kind": ' + "[" * 99999 + "\n", "line 1: not JSON .*nested too deep"),
        ("t.jsonl", '{"prompt": "a", "kind": ' + "9" * 5000 + "}\n", "line 1: not JSON .*4300 digits"),
    ],
)
def test_what_has_two_meanings_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    table = open_table(tmp_path / name)
    for read in (
        lambda: list(table.rows(["prompt"], ["kind"])),
        lambda: list(table.batches(["prompt", "kind"])),
    ):
        with pytest.raises(TgoError, match=message):
            read()


def test_empty_values_may_follow_and_unused_columns_may_be_there_twice(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,kind,note,note\na cat,,,\na dog,x,,,,\n")
    assert list(open_table(tmp_path / "t.csv").rows(["prompt", "kind"])) == [("a cat", ""), ("a dog", "x")]


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    texts = pa.array(["a", "b"])
    pq.write_table(pa.Table.from_arrays([texts, texts], names=["prompt", "prompt"]), tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    for read in (lambda: list(table.rows(["prompt"])), lambda: list(table.batches(["prompt"]))):
        with pytest.raises(TgoError, match="has the column 'prompt' twice"):
            read()


@pytest.mark.parametrize("values", [[1.0, 2.0], [True, False], [["a"], ["b"]], [b"a", b"b"]])
def test_names_are_text_or_whole_numbers(tmp_path: Path, values: list) -> None:
    pq.write_table(pa.table({"prompt": ["a", "b"], "model": values}), tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    for read in (
        lambda: list(table.rows(["prompt"], ["model"])),
        lambda: list(table.batches(["model"], ["model"])),
    ):
        with pytest.raises(
            TgoError, match=r"t\.parquet: column 'model' is .*, which names nothing: write text"
        ):
            read()
    if not isinstance(values[0], bytes):
        lines = [json.dumps({"prompt": "a", "model": value}) for value in values]
        (tmp_path / "t.jsonl").write_text("\n".join(lines))
        with pytest.raises(TgoError, match=r"t\.jsonl, line 1: 'model' is .*, which is no name"):
            list(open_table(tmp_path / "t.jsonl").rows(["prompt"], ["model"]))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_text_of_any_arrow_type_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(["a", None, "b"]).cast(kind)
    pq.write_table(
        pa.table({"prompt": texts, "id": pa.array([0, None, 2], pa.int32())}), tmp_path / "t.parquet"
    )
    assert list(open_table(tmp_path / "t.parquet").rows(["prompt"], ["id"])) == [
        ("a", "0"),
        (None, None),
        ("b", "2"),
    ]


def test_a_prompt_of_json_is_text(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"prompt": "a"}\n{"prompt": true}\n')
    with pytest.raises(TgoError, match="line 2: 'prompt' is True, not text"):
        list(open_table(tmp_path / "t.jsonl").rows(["prompt"]))


def test_text_that_is_not_utf_8_is_one_line(tmp_path: Path) -> None:
    texts = pa.array([b"\xff\xfe", b"a"]).view(pa.string())
    pq.write_table(pa.table({"prompt": texts}), tmp_path / "t.parquet")
    with pytest.raises(TgoError, match=r"t\.parquet cannot be read as Parquet: .*utf-8"):
        list(open_table(tmp_path / "t.parquet").rows(["prompt"]))


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,kind\n")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        table = open_table(tmp_path / name)
        assert list(table.rows(["prompt"])) == []
        assert sum(batch.num_rows for batch in table.batches(["prompt"])) == 0


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_prompts_and_feedback_come_from_rows_of_the_hub(tmp_path: Path, hub: HubServer, kind: str) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    if kind == "csv":
        write(root / "train.csv")
    else:
        columns = dict(zip(NAMES[:2], zip(*(row[:2] for row in ROWS), strict=True), strict=True))
        pq.write_table(pa.table(columns | {"rating": [4.0, 2.5, 3.0]}), root / "train.parquet")
    address = f"{publish(hub, 'org/name', root)}/train"
    assert [prompt.text for prompt in sources.prompts(address, "prompt")] == [row[1] for row in ROWS]
    rows, empty = read_feedback(FeedbackParams(source=address, kind="rating"))
    assert (rows.rows(), empty) == ([("a.png", 4.0), ("b.png", 2.5), ("c.png", 3.0)], 0)
    asked = len(hub.requests)
    assert sources.identity(address) == identity(address) != identity(address.replace("train", "test"))
    assert len(hub.requests) == asked
    with pytest.raises(TgoError, match="has no column 'caption'; its columns are: file_name, prompt, rating"):
        list(sources.prompts(address, "caption"))
