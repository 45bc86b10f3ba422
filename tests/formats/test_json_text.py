"""JSON from outside: what cannot be, or could be two things, is one line that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.json_text import loads, read_object


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ('{"b": [{"a": 1, "c": 0, "a": 2}]}', "the key 'a' is there twice"),
        ("[" * 200_000, "nested too deep"),
        ('{"a":' * 200_000, "nested too deep"),
        ('{"a": ' + "1" * 5000 + "}", "4300 digits"),
        ('{"a": 1', "delimiter"),
        ("", "Expecting value"),
        ("{} {}", "Extra data"),
        (b'{"a": "\xff"}', "utf-8"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (lambda: read_object(path), lambda: loads(content, path)):
        with pytest.raises(TgoError, match=message) as said:
            read()
        assert "config.json" in str(said.value)
        assert "\n" not in str(said.value)
        assert len(str(said.value)) < 500


@pytest.mark.parametrize(
    ("content", "kind"), [("[1]", "list"), ("null", "NoneType"), ("3", "int"), ('"a"', "str")]
)
def test_an_object_is_expected(tmp_path: Path, content: str, kind: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(TgoError, match=rf"a\.json holds a JSON {kind}, not an object: copy it again"):
        read_object(tmp_path / "a.json")
    with pytest.raises(TgoError, match=r"gone\.json cannot be read as JSON .*No such file"):
        read_object(tmp_path / "gone.json")


def test_a_good_object_is_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, {"b": null}], "c": {"a": 1.5}}')
    assert read_object(tmp_path / "a.json") == {"a": [1, {"b": None}], "c": {"a": 1.5}}
