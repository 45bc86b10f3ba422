"""Ratings from other tools: what Label Studio and Argilla export as JSON, as answers of a ratings file.

Label Studio: "Export", format JSON (https://labelstud.io/guide/task_format): tasks with `data` and `annotations`, whose
results are of the tags Rating, Choices or Pairwise. Argilla 2: `dataset.records.to_json(FILE)`: records with `fields`,
`metadata` and `responses` by question; or `dataset.records.to_list(flatten=True)` written as JSON, which also says
whether a response was submitted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.ratings_file import VALUES, Judgement, is_text
from tgo_pipeline.feedback.read import DOWN, UP
from tgo_pipeline.formats import json_text
from tgo_pipeline.formats.files import read_text

ONE = (("sample_id",), ("file",), ("file_name",), ("image",))
TWO = (
    ("sample_id_0", "sample_id_1"),
    ("sample_id_1", "sample_id_2"),
    ("image_0", "image_1"),
    ("image_1", "image_2"),
    ("image1", "image2"),
    ("first", "second"),
    ("left", "right"),
)
"""Under which keys a task or a record may name its image, or its two images."""
RESPONSES, SUBMITTED = ".responses", ("submitted", None)
"""How Argilla calls the answers to a question in a flat record, and the states of those that count."""
LONGEST = 200
"""Characters that are kept of what is no text where a name belongs."""
SIDES = {"left": 1.0, "first": 1.0, "right": 0.0, "second": 0.0, "tie": 0.5, "equal": 0.5, "same": 0.5}
UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that is uploaded to it."""


@dataclass(frozen=True)
class Remark:
    """What one person said under one question of another tool, not yet held against the images."""

    where: str
    question: str
    named: Mapping[str, Any]
    value: Any
    rater: str
    seconds: float | None = None
    at: str = ""


def judgements(path: Path, tool: str, names: Collection[str], question: str | None) -> list[Judgement]:
    """The answers of an export, about the images `names`.

    `question` is the one that is taken where there are several. Raises `TgoError` for another format, an image that is
    not known, or an answer that is neither stars from 1 to 5, nor a thumb, nor a choice between two images.
    """
    remarks = list(READERS[tool](_content(path), str(path)))
    asked = sorted({remark.question for remark in remarks})
    if not remarks:
        raise TgoError(f"{path} holds no answer: export what people have submitted.")
    if question is None and len(asked) > 1:
        raise TgoError(
            f"{path} has the questions {', '.join(asked)}: say which one is taken (--question NAME)."
        )
    if question is not None and question not in asked:
        raise TgoError(f"{path} has no question {question!r}, only {', '.join(asked)}.")
    return [_judgement(remark, names) for remark in remarks if question in (None, remark.question)]


def _content(path: Path) -> list[Any]:
    try:
        found = json_text.loads(read_text(path), path)
    except OSError as error:
        raise TgoError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise TgoError(f"{path} is not text in UTF-8: export it as JSON.") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise TgoError(f"{path} is no list of objects: export it as JSON.")
    return found


def _label_studio(tasks: Iterable[dict[str, Any]], path: str) -> Iterator[Remark]:
    for number, task in enumerate(tasks, start=1):
        where = f"{path}, task {task.get('id', number)}"
        if not isinstance(task.get("data"), dict) or not isinstance(task.get("annotations"), list):
            said = "that of JSON-MIN; " if "annotation_id" in task else ""
            raise TgoError(f"{where}: has no `data` and `annotations` ({said}export with the format JSON).")
        for annotation in _objects(task["annotations"], where):
            if annotation.get("was_cancelled"):
                continue
            by = annotation.get("completed_by")
            rater = (by.get("email") or by.get("id")) if isinstance(by, dict) else by
            for result in _objects(annotation.get("result") or [], where):
                value = _label_studio_value(result.get("value"), result.get("type"), where)
                yield Remark(
                    where,
                    str(result.get("from_name")),
                    task["data"],
                    value,
                    _text(rater),
                    _seconds(annotation.get("lead_time")),
                    _text(annotation.get("updated_at") or annotation.get("created_at"), ""),
                )


def _label_studio_value(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise TgoError(f"{where}: a result has no `value`: export with the format JSON.")
    if kind == "rating":
        return value.get("rating")
    if kind == "pairwise":
        return value.get("selected")
    if kind == "choices" and isinstance(value.get("choices"), list) and len(value["choices"]) == 1:
        return value["choices"][0]
    raise TgoError(
        f"{where}: a result is of the type {kind!r}: ratings come from the tags Rating, Pairwise, or Choices with one "
        "choice."
    )


def _argilla(records: Iterable[dict[str, Any]], path: str) -> Iterator[Remark]:
    for number, record in enumerate(records, start=1):
        where = f"{path}, record {record.get('id') or number}"
        if any(key.endswith(RESPONSES) for key in record):
            yield from _argilla_flat(record, where)
            continue
        if not isinstance(record.get("responses"), dict) or not isinstance(record.get("fields"), dict):
            raise TgoError(
                f"{where}: has no `fields` and `responses`: write it with `dataset.records.to_json(FILE)`."
            )
        metadata = record["metadata"] if isinstance(record.get("metadata"), dict) else {}
        named = {"sample_id": record.get("id")} | record["fields"] | metadata
        for question, responses in record["responses"].items():
            for response in _objects(responses or [], where):
                if response.get("value") is not None:
                    yield Remark(where, question, named, response["value"], _user(response.get("user_id")))


def _argilla_flat(record: dict[str, Any], where: str) -> Iterator[Remark]:
    """The submitted responses of a record whose fields, metadata and responses are its own keys."""
    named = {"sample_id": record.get("id")} | record
    for key in [key for key in record if key.endswith(RESPONSES)]:
        values, users, states = (record.get(name) or [] for name in (key, f"{key}.users", f"{key}.status"))
        if not all(isinstance(each, list) and len(each) == len(values) for each in (values, users, states)):
            raise TgoError(f"{where}: {key} has not one user and one status for each value: export it again.")
        for value, user, state in zip(values, users, states, strict=True):
            if value is not None and state in SUBMITTED:
                yield Remark(where, key.removesuffix(RESPONSES), named, value, _user(user))


def _user(said: Any) -> str:
    """Who answered; Argilla writes the text None where it does not know."""
    return _text(None if said == "None" else said)


READERS: dict[str, Callable[[Iterable[dict[str, Any]], str], Iterator[Remark]]] = {
    "label-studio": _label_studio,
    "argilla": _argilla,
}
"""By the name of `--from`."""


def _objects(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise TgoError(f"{where}: holds {value!r:.80} where a list of objects belongs: export it again.")
    return value


def _text(value: Any, none: str = "unknown") -> str:
    """A name or a time of another tool, `none` where it has none."""
    return value if is_text(value) else none if value is None else ascii(value)[:LONGEST]


def _seconds(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    return value if known else None


def _judgement(remark: Remark, names: Collection[str]) -> Judgement:
    kind, value = _kind_and_value(remark)
    images = _images(remark, TWO if kind == "pair" else ONE, names)
    about = [kind, images, value, remark.rater, remark.at]
    identity = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]  # imported twice, it counts once
    return Judgement(identity, kind, images, value, remark.rater, remark.seconds, remark.at)


def _kind_and_value(remark: Remark) -> tuple[str, float]:
    value = remark.value
    if isinstance(value, int | float) and not isinstance(value, bool) and value in VALUES["rating"]:
        return "rating", value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in SIDES:
        return "pair", SIDES[word]
    if word in UP or word in DOWN:
        return "thumb", float(word in UP)
    raise TgoError(
        f"{remark.where}: the answer {value!r:.80} is neither a whole number from 1 to 5, nor a thumb ({UP[0]}, "
        f"{DOWN[0]}, yes, no …), nor a side ({', '.join(SIDES)})."
    )


def _images(remark: Remark, keys: Sequence[tuple[str, ...]], names: Collection[str]) -> tuple[str, ...]:
    """The names of the images that a remark is about. Raises `TgoError` if they are not among `names`."""
    there = [group for group in keys if all(remark.named.get(key) for key in group)]
    for group in there:
        found = [_known(str(remark.named[key]), names) for key in group]
        if all(found):
            return tuple(name for name in found if name)
    if there:
        said = " and ".join(repr(remark.named[key]) for key in there[0])
        raise TgoError(
            f"{remark.where}: {said:.200} is not among the images: give each task the sample_id of `tgo export "
            "images`, or say which images they are (--images)."
        )
    raise TgoError(
        f"{remark.where}: names no image; looked for {', '.join(' and '.join(group) for group in keys)} in its data."
    )


def _known(said: str, names: Collection[str]) -> str | None:
    """The image that a name, a path or an address of a file means."""
    try:
        parts = urlsplit(said)
    except ValueError:  # it looks like an address and is none
        return None
    path = parse_qs(parts.query).get("d", [""])[-1] or unquote(parts.path)  # d: Label Studio's local files
    file = PurePosixPath(path).name
    plain = UPLOADED.sub("", file)
    guesses = (said, path, file, PurePosixPath(file).stem, plain, PurePosixPath(plain).stem)
    return next((guess for guess in guesses if guess in names), None)
