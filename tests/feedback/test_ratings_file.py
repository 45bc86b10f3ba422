"""The file of `tgo rate` as a source of feedback: what stands, what was torn, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.columns import fingerprint
from tgo_pipeline.feedback.ratings_file import HEADER, is_ratings_file, read_records, standing
from tgo_pipeline.feedback.read import read
from tgo_pipeline.feedback.scores import image_scores
from tgo_pipeline.params.feedback import FeedbackParams


def said(
    name: str, images: list[str], value: Any, rater: str = "ann", kind: str = "rating"
) -> dict[str, Any]:
    return {
        "id": name,
        "kind": kind,
        "images": images,
        "value": value,
        "rater": rater,
        "seconds": 2.5,
        "at": "t",
    }


def write(path: Path, *records: Any, header: Any = HEADER, tail: bytes = b"") -> str:
    path.write_bytes(b"".join(json.dumps(each).encode() + b"\n" for each in (header, *records)) + tail)
    return str(path)


def rows(source: str, kind: str = "rating", **keys: Any) -> list[tuple[Any, ...]]:
    return read(FeedbackParams(source=source, kind=kind, **keys))[0].rows()  # type: ignore[arg-type]


def test_what_was_taken_back_and_what_was_said_again_counts_once(tmp_path: Path) -> None:
    undo = {"id": "u", "kind": "undo", "of": "2", "rater": "ann", "at": "t"}
    source = write(
        tmp_path / "r.jsonl",
        said("1", ["a"], 4),
        said("2", ["b"], 1),
        undo,
        said("3", ["a"], 2),
        said("4", ["a"], 5, "bob"),
        said("5", ["c"], None),
    )
    assert rows(source) == [("a", 2.0, "ann"), ("a", 5.0, "bob")]
    found = image_scores(FeedbackParams(source=source, kind="rating"))
    assert found.images.to_list() == ["a"]
    assert found.scores.tolist() == [3.5]
    assert found.counts == {"rows": 2, "empty": 1, "images": 1, "raters": 2}


def test_kinds_are_kept_apart_and_a_pair_has_no_order(tmp_path: Path) -> None:
    source = write(
        tmp_path / "r.jsonl",
        said("1", ["a"], 4),
        said("2", ["a"], 1, kind="thumb"),
        said("3", ["b"], 0, kind="thumb"),
        said("4", ["a", "b"], 1, kind="pair"),
        said("5", ["b", "a"], 0.5, kind="pair"),
    )
    assert rows(source) == [("a", 4.0, "ann")]
    assert rows(source, "thumb") == [("a", 1.0, "ann"), ("b", 0.0, "ann")]
    assert rows(source, "pair") == [("b", "a", 0.5, "ann")]  # the same pair again: the later answer


@pytest.mark.parametrize("cut", range(1, 100, 7))
def test_a_line_that_was_being_written_is_not_read(tmp_path: Path, cut: int) -> None:
    whole = json.dumps(said("2", ["b"], 1)).encode()
    source = write(tmp_path / "r.jsonl", said("1", ["a"], 4), tail=whole[:cut])
    assert rows(source) == [("a", 4.0, "ann")]
    source = write(tmp_path / "r.jsonl", said("1", ["a"], 4), tail=b"\0" * cut)
    assert rows(source) == [("a", 4.0, "ann")]


def test_a_whole_last_line_without_its_end_is_read(tmp_path: Path) -> None:
    source = write(tmp_path / "r.jsonl", tail=json.dumps(said("1", ["a"], 4)).encode())
    assert rows(source) == [("a", 4.0, "ann")]


def test_joined_files_are_one(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", said("1", ["a"], 4))
    second = write(tmp_path / "b.jsonl", said("2", ["a"], 2, "bob"))
    both = tmp_path / "c.jsonl"
    both.write_bytes(Path(first).read_bytes() + Path(second).read_bytes())
    assert rows(str(both)) == [("a", 4.0, "ann"), ("a", 2.0, "bob")]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("[1]", "line 3: holds a JSON list, not an answer"),
        ("{", "line 3: not JSON"),
        (said("2", ["a"], 6), "the value of a rating is 6, and must be null or one of 1, 2, 3, 4, 5"),
        (said("2", ["a"], True), "the value of a rating is True"),
        (said("2", ["a", "a"], 1, kind="pair"), "`images` must name two images"),
        (said("2", [], 1), "`images` must name one image"),
        (said("2", ["\ud800"], 1), "`images` must name one image"),
        (said("2", [["a"]], 1), "`images` must name one image"),
        (said("2", ["a"], [1]), "the value of a rating is [1]"),
        (said("2", ["a"], 1, kind=["x"]), "the kind is ['x']"),  # type: ignore[arg-type]
        (said("2", ["a"], 1, rater="\ud800"), "an answer needs the texts `id` and `rater`"),
        (said("2", ["a"], 1, kind="vote"), "the kind is 'vote', and must be rating, thumb, pair or undo"),
        (said("2", ["a"], 1, rater=""), "an answer needs the texts `id` and `rater`"),
        ({"format": "tgo ratings", "version": 9}, "this version reads"),
    ],
)
def test_a_line_that_is_no_record_is_refused_with_its_number(
    tmp_path: Path, record: Any, message: str
) -> None:
    text = record if isinstance(record, str) else json.dumps(record)
    source = write(tmp_path / "r.jsonl", said("1", ["a"], 1), tail=text.encode() + b"\n")
    with pytest.raises(TgoError, match="line 3") as error:
        rows(source)
    assert message in str(error.value)


def test_a_kind_that_nobody_gave_is_refused_with_what_is_there(tmp_path: Path) -> None:
    source = write(tmp_path / "r.jsonl", said("1", ["a"], 1))
    with pytest.raises(TgoError, match=r"holds no pair: it holds answers of kind rating"):
        rows(source, "pair")
    with pytest.raises(TgoError, match=r"holds no rating: nobody has answered yet"):
        rows(write(tmp_path / "empty.jsonl"))
    with pytest.raises(TgoError, match=r"'value' is 1\.0, below low \(2\)"):
        rows(source, low=2)


def test_a_ratings_file_that_is_not_there_is_to_be_rated_first(tmp_path: Path) -> None:
    params = FeedbackParams(source=str(tmp_path / "ratings.jsonl"), kind="rating")
    for use in (fingerprint, read):
        with pytest.raises(
            TgoError, match=r"ratings\.jsonl does not exist .*Run `tgo rate --to .*ratings\.jsonl`"
        ):
            use(params)


def test_a_table_of_ones_own_is_none(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"file_name": "a.png", "rating": 3}\n')
    assert not is_ratings_file(str(own))
    assert rows(str(own)) == [("a.png", 3.0)]
    assert standing(read_records(Path(write(tmp_path / "r.jsonl", said("1", ["a"], 3))))[0])[0].seconds == 2.5
