"""What some parameters and commands need besides."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tgo_pipeline.doctor.findings import Finding, fail, note, ok
from tgo_pipeline.doctor.request import Request

if TYPE_CHECKING:
    from tgo_pipeline.doctor.examine import Check

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def checks(case: Request) -> Iterator[Check]:
    """Trackers that the parameters name, `datasets`, and a browser."""
    for tracker in case.runtime.trackers:
        yield "runtime.trackers", lambda name=tracker: _tracker(name)
    yield "datasets", _datasets
    yield "chromium", _browser


def _tracker(name: str) -> Iterator[Finding]:
    if find_spec(name):
        yield ok("runtime.trackers", f"{name} is installed.")
    else:
        yield fail(
            "runtime.trackers",
            f"{name} is not installed: pip install 'tgo-pipeline[tracking]', or take it out of the list.",
        )


def _datasets() -> Iterator[Finding]:
    if not find_spec("datasets"):
        yield note(
            "datasets", "not installed: `tgo score hf:...` needs it (pip install 'tgo-pipeline[hub]')."
        )


def _browser() -> Iterator[Finding]:
    if not any(map(shutil.which, BROWSERS)):
        yield note("chromium", "there is none: the tests of the report that need a browser will not run.")
