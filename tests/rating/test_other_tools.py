"""Exports of Label Studio and Argilla, as their documents and code write them, become answers about known images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.ratings_file import line, read_records
from tgo_pipeline.rating.other_tools import judgements

NAMES = {"aa-0001", "bb-0002", "cat one.png"}


def task(data: dict[str, Any], *results: dict[str, Any], **annotation: Any) -> dict[str, Any]:
    """A task as https://labelstud.io/guide/task_format has it."""
    described = {
        "id": 1001,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-03-09T22:16:08.728353Z",
        "updated_at": "2026-03-09T22:16:08.728378Z",
        "lead_time": 4.288,
        "result_count": 0,
        "task": 1,
        "completed_by": 10,
    }
    return {"id": 1, "project": 83, "data": data, "annotations": [described | annotation], "predictions": []}


def result(kind: str, value: dict[str, Any], name: str = "score") -> dict[str, Any]:
    return {"from_name": name, "id": "Dx_aB91ISN", "to_name": "img", "type": kind, "value": value}


def rating(stars: int, name: str = "score") -> dict[str, Any]:
    return result("rating", {"rating": stars}, name)


def record(responses: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A record as `Record.to_dict` of argilla 2 writes it."""
    plain = {
        "fields": {"image": "aa-0001.png"},
        "metadata": {},
        "suggestions": {},
        "vectors": {},
        "status": "completed",
    }
    return {"id": "aa-0001", **plain, "responses": responses, "_server_id": "1b2c"} | more


def taken(folder: Path, tool: str, *entries: Any, question: str | None = None) -> list[tuple[Any, ...]]:
    path = folder / "export.json"
    path.write_text(json.dumps(list(entries)))
    found = judgements(path, tool, NAMES, question)
    return [(each.kind, each.images, each.value, each.rater) for each in found]


@pytest.mark.parametrize(
    "data",
    [
        {"sample_id": "aa-0001", "image": "x.png"},
        {"image": "https://example.com/a/aa-0001.jpg"},
        {"image": "/data/upload/1/e875f554-aa-0001.png"},
        {"image": "/data/local-files/?d=images/aa-0001.png"},
        {"file": "images/aa-0001.png", "prompt": "a cat"},
    ],
)
def test_an_image_is_found_by_its_sample_id_or_the_name_of_its_file(
    tmp_path: Path, data: dict[str, str]
) -> None:
    assert taken(tmp_path, "label-studio", task(data, rating(4))) == [("rating", ("aa-0001",), 4, "10")]


def test_label_studio_stars_thumbs_and_pairs(tmp_path: Path) -> None:
    pair = {"image1": "aa-0001.png", "image2": "cat%20one.png"}
    by = {"id": 3, "email": "bob@example.org"}
    found = taken(
        tmp_path,
        "label-studio",
        task({"sample_id": "aa-0001"}, rating(5)),
        task({"sample_id": "bb-0002"}, result("choices", {"choices": ["Yes"]}), completed_by=by),
        task(pair, result("pairwise", {"selected": "right"})),
        task({"sample_id": "bb-0002"}, rating(1), was_cancelled=True),
    )
    assert found == [
        ("rating", ("aa-0001",), 5, "10"),
        ("thumb", ("bb-0002",), 1.0, "bob@example.org"),
        ("pair", ("aa-0001", "cat one.png"), 0.0, "10"),
    ]


def test_argilla_stars_thumbs_and_pairs(tmp_path: Path) -> None:
    said = [{"value": 2, "user_id": "u1"}, {"value": 4, "user_id": "u2"}, {"value": None, "user_id": "u3"}]
    pair = record(
        {"q": [{"value": "first", "user_id": "u1"}]}, metadata={"first": "aa-0001", "second": "bb-0002"}
    )
    thumb = record({"q": [{"value": "down", "user_id": "u1"}]}, id="x", metadata={"sample_id": "bb-0002"})
    assert taken(tmp_path, "argilla", record({"q": said}), pair, thumb) == [
        ("rating", ("aa-0001",), 2, "u1"),
        ("rating", ("aa-0001",), 4, "u2"),
        ("pair", ("aa-0001", "bb-0002"), 1.0, "u1"),
        ("thumb", ("bb-0002",), 0.0, "u1"),
    ]


def flat(question: str = "q", **more: Any) -> dict[str, Any]:
    """A record as `records.to_list(flatten=True)` of argilla 2 gives it."""
    answers = {
        f"{question}.responses": [2, 4, 5],
        f"{question}.responses.users": ["u1", "u2", "None"],
        f"{question}.responses.status": ["submitted", "draft", "submitted"],
        f"{question}.suggestion": 3,
    }
    return {"id": "aa-0001", "_server_id": "1b2c", "image": "x.png", "prompt": "a cat", **answers, **more}


def test_of_flat_records_of_argilla_what_was_submitted_counts(tmp_path: Path) -> None:
    named = flat(id="x", sample_id="bb-0002")
    empty = flat(**dict.fromkeys(("q.responses", "q.responses.users", "q.responses.status")))
    assert taken(tmp_path, "argilla", flat(), named, empty) == [
        ("rating", ("aa-0001",), 2, "u1"),
        ("rating", ("aa-0001",), 5, "unknown"),
        ("rating", ("bb-0002",), 2, "u1"),
        ("rating", ("bb-0002",), 5, "unknown"),
    ]
    with pytest.raises(
        TgoError, match=r"record aa-0001: q\.responses has not one user and one status for each"
    ):
        taken(tmp_path, "argilla", flat(**{"q.responses.users": ["u1"]}))


def test_an_annotation_that_was_changed_has_the_time_of_the_change(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text(
        json.dumps([task({"sample_id": "aa-0001"}, rating(4), updated_at="2026-03-10T08:00:00Z")])
    )
    (answer,) = judgements(path, "label-studio", NAMES, None)
    assert answer.at == "2026-03-10T08:00:00Z"


def test_one_of_several_questions_is_named(tmp_path: Path) -> None:
    both = task({"sample_id": "aa-0001"}, rating(5, "looks"), rating(1, "fits"))
    with pytest.raises(TgoError, match=r"has the questions fits, looks: say which one"):
        taken(tmp_path, "label-studio", both)
    assert taken(tmp_path, "label-studio", both, question="fits") == [("rating", ("aa-0001",), 1, "10")]
    with pytest.raises(TgoError, match=r"has no question 'x', only fits, looks"):
        taken(tmp_path, "label-studio", both, question="x")


def test_the_same_answer_has_the_same_id_and_another_another(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    ids = []
    for stars in (4, 4, 5):
        path.write_text(json.dumps([task({"sample_id": "aa-0001"}, rating(stars))]))
        ids += [each.id for each in judgements(path, "label-studio", NAMES, None)]
    assert ids[0] == ids[1] != ids[2]


JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    4,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "http://[",
    "yes",
    [],
    [1],
    {},
    {"a": 1},
]


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a JSON value, as its holder and its key."""
    pairs = list(
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [*((value, key) for key, _ in pairs), *(spot for _, each in pairs for spot in spots(each))]


@pytest.mark.parametrize("tool", ["label-studio", "argilla"])
def test_whatever_stands_in_any_place_is_an_answer_or_one_line(tmp_path: Path, tool: str) -> None:
    path, given, refused, kept = tmp_path / "e.json", 0, 0, set[bytes]()

    def entries() -> list[Any]:
        by = {"id": 3, "email": "bob@example.org"}
        if tool == "label-studio":
            pair = result("pairwise", {"selected": "left"})
            both = {"image1": "aa-0001.png", "image2": "bb-0002.png"}
            chosen = result("choices", {"choices": ["yes"]})
            data = {"sample_id": "aa-0001"}
            return [task(data, rating(4)), task(both, pair, completed_by=by), task(data, chosen)]
        said = [{"value": 2, "user_id": "u1"}, {"value": "no", "user_id": "u2"}]
        return [record({"q": said}, metadata={"sample_id": "bb-0002"}), record({"q": said}), flat()]

    for place in range(len(spots(entries()))):
        for junk in JUNK:
            changed = entries()
            holder, key = spots(changed)[place]
            holder[key] = junk
            path.write_text(json.dumps(changed))
            try:
                found = judgements(path, tool, NAMES, None)
                given += len(found)
                kept |= set(map(line, found))
            except TgoError as error:
                assert "\n" not in str(error)
                refused += 1
    assert given > 100 and refused > 100
    path.write_bytes(b"".join(kept))
    assert len(read_records(path)[0]) == len(kept)


MINIMAL = {"image": "aa-0001.png", "id": 1, "score": 4, "annotator": 1, "annotation_id": 7, "lead_time": 3.1}


@pytest.mark.parametrize(
    ("tool", "entries", "message"),
    [
        (
            "label-studio",
            [MINIMAL],
            r"task 1: has no `data` and `annotations` \(that of JSON-MIN; export with the format",
        ),
        ("label-studio", [record({})], r"has no `data` and `annotations` \(export with"),
        ("label-studio", [task({"sample_id": "zz"}, rating(4))], r"task 1: 'zz' is not among the images"),
        (
            "label-studio",
            [task({"text": "hello"}, rating(4))],
            r"names no image; looked for sample_id, file, file_name",
        ),
        (
            "label-studio",
            [task({"sample_id": "aa-0001"}, rating(9))],
            r"the answer 9 is neither a whole number from 1",
        ),
        (
            "label-studio",
            [task({"sample_id": "aa-0001"}, result("rectanglelabels", {}))],
            r"type 'rectanglelabels'",
        ),
        ("label-studio", [task({"sample_id": "aa-0001"})], r"holds no answer"),
        ("label-studio", [], r"holds no answer"),
        (
            "argilla",
            [task({"sample_id": "aa-0001"}, rating(4))],
            r"has no `fields` and `responses`: write it with",
        ),
        ("argilla", [record({"q": [{"value": [{"value": "a", "rank": 1}], "user_id": "u"}]})], r"is neither"),
        (
            "argilla",
            [record({"q": [{"value": "left", "user_id": "u"}]})],
            r"names no image; looked for sample_id_0 and",
        ),
    ],
)
def test_what_is_another_format_is_refused(
    tmp_path: Path, tool: str, entries: list[Any], message: str
) -> None:
    with pytest.raises(TgoError, match=message):
        taken(tmp_path, tool, *entries)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "is no list of objects"),
        (b"[1]", "is no list of objects"),
        (b"[", "not JSON"),
        (b"\xff", "UTF-8"),
    ],
)
def test_a_file_that_is_no_list_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "e.json"
    path.write_bytes(content)
    with pytest.raises(TgoError, match=message):
        judgements(path, "argilla", NAMES, None)
    with pytest.raises(TgoError, match="cannot be read"):
        judgements(tmp_path, "argilla", NAMES, None)
