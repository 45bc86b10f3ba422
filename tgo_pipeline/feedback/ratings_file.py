"""The file that `tgo rate` writes: one JSON object a line, appended, never changed.

    {"format": "tgo ratings", "version": 1}
    {"id": "9f3c", "kind": "rating", "images": ["0b5e-0001"], "value": 4, "rater": "ann", "seconds": 3.1, "at": "..."}
    {"id": "51aa", "kind": "pair", "images": ["0b5e-0001", "0b5e-0003"], "value": 0.5, "rater": "bob", ...}
    {"id": "77d0", "kind": "undo", "of": "9f3c", "rater": "ann", "at": "..."}

A value of null says that the rater skipped it. What stands is what no later line takes back; of two answers of one
rater about the same images the later one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import json_text
from tgo_pipeline.formats.files import open_regular

if TYPE_CHECKING:
    import polars as pl

SUFFIX = ".jsonl"
HEADER = {"format": "tgo ratings", "version": 1}
VALUES: dict[str, tuple[float, ...]] = {"rating": (1, 2, 3, 4, 5), "thumb": (0, 1), "pair": (0, 0.5, 1)}
"""What may be said, by kind; of a pair 1 if the first image won, 0.5 for a tie."""
UNDO = "undo"
FIRST_BYTES = 200
"""Enough of a file to see its header, which has about 40."""


@dataclass(frozen=True)
class Judgement:
    """What one person said about one image, or about two; `seconds` is how long it took."""

    id: str
    kind: str
    images: tuple[str, ...]
    value: float | None
    rater: str
    seconds: float | None = None
    at: str = ""

    @property
    def subject(self) -> tuple[str, str, frozenset[str]]:
        """What a later answer replaces: kind, rater and images, in whichever order they were shown."""
        return self.kind, self.rater, frozenset(self.images)


@dataclass(frozen=True)
class Undo:
    """The answer with the id `of` does not stand any more."""

    id: str
    of: str
    rater: str
    at: str = ""
    kind: str = UNDO


def line(record: Judgement | Undo | dict[str, Any]) -> bytes:
    """A record as it stands in the file."""
    content = record if isinstance(record, dict) else asdict(record)
    return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()


def is_ratings_file(source: str) -> bool:
    """Whether a source of feedback is a file that `tgo rate` wrote, by its first line."""
    path = Path(source).expanduser()
    if path.suffix.lower() != SUFFIX or not path.is_file():
        return False
    with open_regular(path) as stream:
        first = stream.readline(FIRST_BYTES)
    try:
        found = json.loads(first)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("format") == HEADER["format"]


def read_records(path: Path) -> tuple[list[Judgement | Undo], int]:
    """All records, and how many bytes of the file they take.

    A last line without its end that is no whole record was being written when the machine or the process stopped; it is
    left out. Raises `TgoError` with the line of any other that is no record.
    """
    records: list[Judgement | Undo] = []
    taken = 0
    with _opened(path) as stream:
        for number, text in enumerate(stream, start=1):
            where = f"{path}, line {number}"
            try:
                content = json_text.loads(text, where) if text.strip() else None
                if content is not None and not _is_header(content, where):
                    records.append(_record(content, where))
            except TgoError:
                if text.endswith(b"\n"):
                    raise
                break
            taken += len(text)
    return records, taken


def standing(records: Iterable[Judgement | Undo]) -> list[Judgement]:
    """The answers that stand, in the order in which they were given."""
    found: dict[str, Judgement] = {}
    latest: dict[tuple[str, str, frozenset[str]], str] = {}
    for record in records:
        if isinstance(record, Undo):
            found.pop(record.of, None)
            continue
        before = latest.get(record.subject)
        if before is not None and before != record.id:
            found.pop(before, None)
        latest[record.subject] = record.id
        found[record.id] = record
    return list(found.values())


def frame(source: str, kind: str) -> pl.DataFrame:
    """The standing answers of a kind as rows of feedback. Raises `TgoError` if the file has none of that kind."""
    import polars as pl

    there = standing(read_records(Path(source).expanduser())[0])
    rows = [each for each in there if each.kind == kind]
    if not rows:
        kinds = sorted({each.kind for each in there})
        held = f"it holds answers of kind {' and '.join(kinds)}" if kinds else "nobody has answered yet"
        raise TgoError(f"{source} holds no {kind}: {held}. Run `tgo rate`, or give another kind.")
    names = ("first", "second") if kind == "pair" else ("image",)
    columns = {name: [each.images[place] for each in rows] for place, name in enumerate(names)}
    value = "choice" if kind == "pair" else "value"
    columns |= {value: [each.value for each in rows], "rater": [each.rater for each in rows]}
    return pl.DataFrame(columns, schema_overrides={value: pl.Float64})


def require_there(source: str) -> None:
    """Raise `TgoError` that names `tgo rate` if a file that it could have written does not exist."""
    path = Path(source).expanduser()
    if path.suffix.lower() == SUFFIX and ":" not in source and not path.exists():
        raise TgoError(
            f"{path} does not exist (looked in {Path.cwd()}): nobody has rated images yet. Run `tgo rate --to {path}` "
            "once the images are there (data/generations), or name another table of feedback."
        )


def _opened(path: Path) -> Any:
    try:
        return open_regular(path)
    except FileNotFoundError as error:
        raise TgoError(f"{path} does not exist (looked in {Path.cwd()}).") from error
    except OSError as error:
        raise TgoError(f"{path} cannot be read: {error.strerror or error}.") from error


def _is_header(content: Any, where: str) -> bool:
    """Whether a line is the header; files that were joined have several."""
    if not isinstance(content, dict) or "format" not in content:
        return False
    if content != HEADER:
        raise TgoError(
            f"{where}: the header is {json.dumps(content)}, and this version reads {json.dumps(HEADER)}: take a newer "
            "tgo-pipeline, or another file."
        )
    return True


def _record(content: Any, where: str) -> Judgement | Undo:
    """A line as a record. Raises `TgoError` if it cannot be one."""
    if not isinstance(content, dict):
        raise TgoError(f"{where}: holds a JSON {type(content).__name__}, not an answer.")
    kind, rater, name = content.get("kind"), content.get("rater"), content.get("id")
    if not (is_text(rater) and is_text(name)):
        raise TgoError(f"{where}: an answer needs the texts `id` and `rater`.")
    at = str(content.get("at") or "")
    if kind == UNDO:
        return Undo(name, str(content.get("of")), rater, at)
    if not isinstance(kind, str) or kind not in VALUES:
        raise TgoError(f"{where}: the kind is {kind!r}, and must be {', '.join(VALUES)} or {UNDO}.")
    images = content.get("images")
    if not isinstance(images, list) or not _are_names(images, 2 if kind == "pair" else 1):
        raise TgoError(f"{where}: `images` must name {'two images' if kind == 'pair' else 'one image'}.")
    value = content.get("value")
    if isinstance(value, bool) or (value is not None and value not in VALUES[kind]):
        allowed = ", ".join(f"{each:g}" for each in VALUES[kind])
        raise TgoError(f"{where}: the value of a {kind} is {value!r}, and must be null or one of {allowed}.")
    seconds = content.get("seconds")
    return Judgement(
        name, kind, tuple(images), value, rater, seconds if isinstance(seconds, int | float) else None, at
    )


def _are_names(images: Sequence[Any], count: int) -> bool:
    return all(map(is_text, images)) and len(images) == len(set(images)) == count


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value of JSON is text that a file can hold: half a surrogate pair is none."""
    return (
        isinstance(value, str) and bool(value) and not any("\ud800" <= letter <= "\udfff" for letter in value)
    )
