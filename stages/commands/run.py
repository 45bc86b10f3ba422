"""`tgo run`: one stage, some in a row, or all that are not up to date, without DVC or git.

Of several stages each is a process of its own, which gives memory and GPU back when it is done.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

import typer

from stages import ALLOW_STALE, PARAMS, PIPELINE, STAGES, run_stage
from stages.begin import SIGNALS
from stages.upstream import is_current
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import load_params
from tgo_pipeline.params.recipes import require_filled
from tgo_pipeline.storage.stores.syncing import attach
from tgo_pipeline.storage.workspace import HERE

if TYPE_CHECKING:
    from rich.table import Table

ALL, TO = "all", ".."
UP_TO_DATE, RAN = "up to date", "done"


def run(
    stage: str = typer.Argument(
        help=f"One of {', '.join(STAGES)}; FIRST..LAST for some in a row; all.",
    ),
    params: Path = PARAMS,
    given: list[str] = typer.Option(
        [], "--set", metavar="KEY=VALUE", help="A value in place of the parameter file's, such as label.c=1."
    ),
    allow_stale: bool = ALLOW_STALE,
) -> None:
    """Run one stage: the same work as `dvc repro -s STAGE` and `python -m stages.STAGE`; or all, without DVC or git.

    Of several, those that are up to date are left out.
    """
    if stage == ALL or TO in stage:
        _run_in_order(_between(stage), params, allow_stale=allow_stale, given=given)
        return
    if stage not in PIPELINE:
        raise TgoError(f"{stage!r} is not a stage: it must be one of {', '.join((*STAGES, ALL))}.")
    run_stage(stage, params, allow_stale=allow_stale, given=given)


def _between(text: str) -> tuple[str, ...]:
    """The stages of `all`, `score..label`, `score..` or `..label`."""
    first, _, last = ("", TO, "") if text == ALL else text.partition(TO)
    for name in (first, last):
        if name and name not in STAGES:
            raise TgoError(f"{text}: {name!r} is not a stage: the order is {', '.join(STAGES)}.")
    begin = STAGES.index(first) if first else 0
    end = STAGES.index(last) if last else len(STAGES) - 1
    if begin > end:
        raise TgoError(f"{text}: {last} comes before {first}: the order is {', '.join(STAGES)}.")
    return STAGES[begin : end + 1]


def _run_in_order(
    stages: Sequence[str], params: Path, *, allow_stale: bool = False, given: Sequence[str] = ()
) -> None:
    """Run the stages that are not up to date, and print what was done.

    Ends the process with the exit code of a stage that did not end well. Raises `TgoError` for parameters that a later
    stage could not run with.
    """
    from tgo_pipeline.inputs.demanded import require_known_captions
    from tgo_pipeline.rendering.terminal import safe, show

    loaded = load_params(params, given)
    require_filled(loaded, stages)
    attach(HERE.data, loaded.runtime.data)
    require_known_captions(loaded)
    rows: list[tuple[str, str, str]] = []
    code = 0
    for stage in stages:
        if is_current(stage, loaded):
            rows.append((stage, UP_TO_DATE, ""))
            continue
        start = time.monotonic()
        code = _run(stage, params, allow_stale, given)
        rows.append((stage, f"ended with exit code {code}" if code else RAN, _time(time.monotonic() - start)))
        if code:
            break
    show(_summary(rows, stages[len(rows) :]))
    if code:
        raise SystemExit(code)
    if HERE.report.is_file() and stages[-1] == "report":
        typer.echo(f"The report: {safe(str(HERE.report.resolve()))}")


def _run(stage: str, params: Path, allow_stale: bool, given: Sequence[str]) -> int:
    """The exit code of a stage, which gets the signals that come to this process."""
    package = Path(__file__).resolve().parents[2]
    # a file of the project folder never stands in for a module that is installed
    flags = () if package == Path.cwd() else ("-P",)
    sets = [word for each in given for word in ("--set", each)]
    stale = ("--allow-stale",) if allow_stale else ()
    command = [
        sys.executable,
        *flags,
        "-m",
        "stages.cli",
        "run",
        stage,
        "--params",
        str(params),
        *stale,
        *sets,
    ]
    with _Forwarding() as forwarding:
        process = subprocess.Popen(command)
        forwarding.to(process)
        code = process.wait()
    return code if code >= 0 else 128 - code


class _Forwarding:
    """Signals that end a command go on to a process; one that got the same from the terminal takes them for one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []

    def __enter__(self) -> _Forwarding:
        self._before = [(number, signal.signal(number, self._handle)) for number in SIGNALS]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def to(self, process: subprocess.Popen[bytes]) -> None:
        """Send what comes from now on to this process, and what has come already."""
        self._process = process
        while self._early:
            process.send_signal(self._early.pop())

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)


def _summary(rows: Sequence[tuple[str, str, str]], left: Sequence[str]) -> Table:
    from rich.table import Table

    shown = Table(title="Stages", title_justify="left")
    shown.add_column("stage")
    shown.add_column("result")
    shown.add_column("time", justify="right")
    for row in rows:
        shown.add_row(*row)
    for stage in left:
        shown.add_row(stage, "not begun", "")
    return shown


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
