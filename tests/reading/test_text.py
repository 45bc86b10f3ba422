"""JSON, csv and tsv in pieces: whatever the pieces, the same rows."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgo_pipeline.errors import TgoError
from tgo_pipeline.reading import text
from tgo_pipeline.reading.places import Folder
from tgo_pipeline.reading.tables import CsvTable

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"))
VALUES = st.lists(st.one_of(TEXTS, st.dictionaries(TEXTS, st.one_of(TEXTS, st.integers(), st.none()))))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PIECE_BYTES", 3)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.usefixtures("small_pieces")
def test_any_array_is_read_value_by_value(
    tmp_path_factory: pytest.TempPathFactory, indent: int | None
) -> None:
    folder = tmp_path_factory.mktemp("json")

    @settings(max_examples=60, deadline=None)
    @given(VALUES)
    def check(values: list) -> None:
        (folder / "a.json").write_text(
            json.dumps(values, indent=indent, ensure_ascii=False), encoding="utf-8"
        )
        assert list(text.values(Folder(folder), "a.json")) == values
        (folder / "a.json").write_text("\n".join(map(json.dumps, values)), encoding="utf-8")
        assert list(text.values(Folder(folder), "a.json")) == values

    check()


@pytest.mark.usefixtures("small_pieces")
def test_any_csv_is_read_row_by_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("csv")

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(TEXTS, TEXTS)))
    def check(rows: list[tuple[str, str]]) -> None:
        stream = io.StringIO()
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
        (folder / "a.csv").write_text(stream.getvalue(), encoding="utf-8", newline="")
        assert list(CsvTable(Folder(folder), "a.csv").rows(["b", "a"])) == [(b, a) for a, b in rows]

    check()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}', "not JSON, or not all of it is there"),
        ('[{"a": 1}, {"a"', "not JSON, or not all of it is there"),
        ("[nonsense]", r"not JSON.*nonsense"),
        ("", "a.json"),
    ],
)
def test_a_cut_or_broken_json_is_not_taken_for_whole(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    if not content:
        assert list(text.values(Folder(tmp_path), "a.json")) == []
        return
    with pytest.raises(TgoError, match=message):
        list(text.values(Folder(tmp_path), "a.json"))


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match=r"a\.csv does not exist"):
        list(CsvTable(Folder(tmp_path), "a.csv").rows(["a"]))
    (tmp_path / "a.csv").write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(TgoError, match="is not text in UTF-8"):
        list(CsvTable(Folder(tmp_path), "a.csv").rows(["a"]))


def test_half_a_surrogate_pair_is_replaced_and_a_whole_one_kept(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        r'["a \ud83d cat", "\uDE00", "\ud83d\ude00", {"p\udc00": ["\ud800x", 1]}, "a\\ud83d"]'
    )
    found = list(text.values(Folder(tmp_path), "a.json"))
    assert found == ["a � cat", "�", "\U0001f600", {"p�": ["�x", 1]}, "a\\ud83d"]
