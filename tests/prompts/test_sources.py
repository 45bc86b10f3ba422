"""Every kind of source gives the same prompts; everything else is refused in words that help."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.datasets.public import write_parti
from tgo_pipeline.errors import TgoError
from tgo_pipeline.prompts import sources
from tgo_pipeline.prompts.sources import Prompt
from tgo_pipeline.reading.tables import open_table

PROMPTS = ['a "red" fox, running', "  Füchse im Schnee ", "狐", "", "two  spaces"]


def _txt(path: Path) -> None:
    path.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")


def _txt_of_windows(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(PROMPTS).encode())


def _csv(path: Path) -> None:
    import csv

    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["id", "prompt"], *enumerate(PROMPTS)])


def _jsonl(path: Path) -> None:
    path.write_text("\n\n".join(json.dumps({"id": 1, "prompt": text or None}) for text in PROMPTS))


def _parquet(path: Path, kind: pa.DataType | None = None) -> None:
    column = pa.array([text or None for text in PROMPTS]).cast(kind or pa.string())
    pq.write_table(pa.table({"id": range(len(PROMPTS)), "prompt": column}), path)


def _parquet_dictionary(path: Path) -> None:
    _parquet(path, pa.dictionary(pa.int32(), pa.string()))


def _parquet_large(path: Path) -> None:
    _parquet(path, pa.large_string())


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("p.txt", _txt),
        ("p.TXT", _txt_of_windows),
        ("p.csv", _csv),
        ("p.jsonl", _jsonl),
        ("p.parquet", _parquet),
        ("p.parquet", _parquet_dictionary),
        ("p.parquet", _parquet_large),
    ],
)
def test_every_kind_gives_the_same_prompts(tmp_path: Path, name: str, write) -> None:
    write(tmp_path / name)
    assert sources.read(str(tmp_path / name), "prompt") == PROMPTS


def test_a_quoted_csv_cell_may_span_lines(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('prompt\n"a cat\non a mat"\n')
    assert sources.read(str(tmp_path / "p.csv"), "prompt") == ["a cat\non a mat"]


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet"])
def test_a_missing_column_names_those_there(tmp_path: Path, name: str) -> None:
    {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}[name[2:]](tmp_path / name)
    with pytest.raises(TgoError, match=r"no column 'caption'; its columns are: id, prompt"):
        sources.read(str(tmp_path / name), "caption")


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl", "p.parquet"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(TgoError, match=rf"{name} does not exist"):
        sources.read(str(tmp_path / name), "prompt")


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl", "p.parquet"])
@pytest.mark.parametrize("junk", [bytes(range(256)) * 4, b"\xff\xfe\x80 not utf-8"])
def test_binary_junk_is_refused(tmp_path: Path, name: str, junk: bytes) -> None:
    (tmp_path / name).write_bytes(junk)
    with pytest.raises(TgoError, match=r"binary|UTF-8|Parquet"):
        sources.read(str(tmp_path / name), "prompt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2: not JSON"),
        ('["a"]', "line 2: holds a JSON list"),
        ('{"prompt": 7}', "line 2: 'prompt' is 7, not text"),
        ('{"prompt": "\\ud800"}', "line 2: 'prompt' is .* not text"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cat"}\n' + line)
    with pytest.raises(TgoError, match=message):
        sources.read(str(tmp_path / "p.jsonl"), "prompt")


def test_a_parquet_column_of_another_type_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": [1, 2]}), tmp_path / "p.parquet")
    with pytest.raises(TgoError, match=r"'prompt' is int64, not text"):
        sources.read(str(tmp_path / "p.parquet"), "prompt")


def test_unknown_kinds_and_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match=r"\.txt .*\.csv, \.json, \.jsonl, \.parquet, \.tsv"):
        sources.read(str(tmp_path / "p.xlsx"), "prompt")
    with pytest.raises(TgoError, match="nosuch"):
        sources.read("demo:nosuch", "prompt")


def test_the_demo_has_prompts() -> None:
    assert len(sources.read("demo:train", "prompt")) > 100


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet"])
def test_column_names_are_those_of_the_table(tmp_path: Path, name: str) -> None:
    write = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[Path(name).suffix]
    write(tmp_path / name)
    assert open_table(tmp_path / name).names == ["id", "prompt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", b"a" * 200_000, "line 1: not CSV"),
        ("p.jsonl", b"\n[1]\n", "line 2: holds a JSON list"),
        ("p.parquet", b"no", "cannot be read as Parquet"),
        ("p.xlsx", b"", "of a kind that is not read here"),
    ],
)
def test_a_table_without_column_names_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TgoError, match=message):
        open_table(tmp_path / name).require([])


def test_an_empty_table_has_no_column_names(tmp_path: Path) -> None:
    for name in ("p.csv", "p.jsonl"):
        (tmp_path / name).touch()
        assert open_table(tmp_path / name).names == []


def test_a_table_may_have_category_and_challenge(tmp_path: Path) -> None:
    expected = [Prompt("a cat", "Animals", "Basic"), Prompt("a red square", None, "7")]
    (tmp_path / "p.csv").write_text("challenge,prompt,category\nBasic,a cat,Animals\n7,a red square,\n")
    lines = [
        {"prompt": "a cat", "category": "Animals", "challenge": "Basic"},
        {"prompt": "a red square", "challenge": 7},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    columns = {
        "prompt": ["a cat", "a red square"],
        "category": ["Animals", None],
        "challenge": ["Basic", "7"],
    }
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        assert list(sources.prompts(str(tmp_path / name), "prompt")) == expected
    pq.write_table(pa.table({"prompt": ["a cat"], "category": [3]}), tmp_path / "p.parquet")
    assert list(sources.prompts(str(tmp_path / "p.parquet"), "prompt")) == [Prompt("a cat", "3")]


def test_prompts_of_a_data_set(tmp_path: Path) -> None:
    parti = f"parti:{write_parti(tmp_path / 'parti')}"
    assert next(sources.prompts(parti, "ignored")) == Prompt("bond", "Abstract", "Basic")
    before = sources.identity(parti)
    os.utime(tmp_path / "parti" / "PartiPrompts.tsv", ns=(1, 1))
    assert sources.identity(parti) != before
    assert next(sources.prompts("demo:train", "")).category is None
    with pytest.raises(TgoError, match="does not exist"):
        list(sources.prompts(f"parti:{tmp_path}/nosuch/file", "prompt"))


def test_a_blank_category_is_none_and_spaces_make_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,category\na cat, \na dog,  big  dogs \n")
    found = sources.prompts(str(tmp_path / "a.csv"), "prompt")
    assert [row.category for row in found] == [None, "big dogs"]


def test_a_category_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a cat", "category": "x\\ud83d"}\n')
    with pytest.raises(TgoError, match=r"line 1: 'category' is .*, not text"):
        list(sources.prompts(str(tmp_path / "a.jsonl"), "prompt"))
