"""What a check finds, and how a check that breaks becomes a finding itself."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.plugins.folder import NotChecked

Level = Literal["ok", "note", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line: how bad it is, what it is about, and what is so; with what to do where something is to be done."""

    level: Level
    subject: str
    message: str


def ok(subject: str, message: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", subject, message)


def note(subject: str, message: str) -> Finding:
    """Worth knowing; a run works."""
    return Finding("note", subject, message)


def warn(subject: str, message: str) -> Finding:
    """A run may break, or give what was not meant."""
    return Finding("warn", subject, message)


def fail(subject: str, message: str) -> Finding:
    """A run breaks."""
    return Finding("fail", subject, message)


def attempt(subject: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds; an error that it ends with is one more finding, and what the library warns of a note."""
    found: list[Finding] = []
    with _warnings() as said:
        try:
            for finding in check():
                found.append(finding)
        except NotChecked as error:
            found.append(note(subject, str(error)))
        except TgoError as error:
            found.append(fail(subject, str(error)))
        except Exception as error:  # noqa: BLE001  # whatever breaks a check, the others are still made
            reason = in_one_line(error)
            found.append(fail(subject, f"this check broke: {type(error).__name__}: {reason}"))
    return [*found, *(note(subject, message) for message in said)]


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what is logged as a warning, instead of showing it between the findings."""
    log = logging.getLogger("tgo")
    said: list[str] = []
    handler = _Collector(said)
    propagates, others = log.propagate, log.handlers
    log.propagate, log.handlers = False, [handler]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's of an old driver, which a check says in full
            yield said
    finally:
        log.propagate, log.handlers = propagates, others


class _Collector(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage())
