"""How every command ends: what it printed, or one line on standard error with exit code 2, or 130 after a signal."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from stages.begin import INTERRUPTED, SIGNALS, USER_ERROR, arrived, end_at_once, interrupt, leave, on_signals
from tgo_pipeline.errors import TgoError
from tgo_pipeline.plugins.find import blamed, blamed_part
from tgo_pipeline.rendering.terminal import prepare_streams, say
from tgo_pipeline.storage.shards import Interrupted, OwnPartDone

CONTINUE = "what was finished is kept, run it again to continue"


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command of `tgo` with the same options, which ends as all do."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        with ending("tgo"):
            return command(*arguments, **options)

    return run


@contextlib.contextmanager
def ending(label: str) -> Iterator[None]:
    """Do the work of a command inside; `label` begins the line that says why it ended early."""
    prepare_streams()
    with _interruptible():
        try:
            yield
        except (KeyboardInterrupt, Interrupted) as error:
            if isinstance(
                error.__context__, SystemExit
            ):  # it came late: what ends the command is said already
                raise error.__context__ from None
            _interrupted(label)
        except SystemExit as error:
            if (said := blamed_part(error)) is None:
                raise
            say(f"{label}: {said}")
            raise SystemExit(USER_ERROR) from None
        except OwnPartDone as done:
            say(f"{label}: {done}")
        except Exception as error:
            if arrived:  # a library may turn an interrupt into an error of its own
                _interrupted(label)
            if (said := _said(error)) is None:
                raise
            say(f"{label}: {said}")
            raise SystemExit(USER_ERROR) from None


def _interrupted(label: str) -> NoReturn:
    signal.setitimer(signal.ITIMER_REAL, 0)  # of one signal there may be two interrupts
    # Python remembers an interrupt that came out of code in text, as dataclasses run it, and would end by SIGINT in
    # place of the exit code; the next such code makes it forget.
    exec("")
    say(f"{label}: interrupted; {CONTINUE}.")
    raise SystemExit(INTERRUPTED) from None


def _said(error: Exception) -> TgoError | None:
    """What to say of an error; None of one that is this package's own fault, or the end of a pipe."""
    return None if isinstance(error, BrokenPipeError) else blamed(error)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Signals raise `KeyboardInterrupt` inside; afterwards a command may be ended at once, anything else as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived.clear()
    before = on_signals(interrupt)
    try:
        yield
    finally:
        signal.setitimer(
            signal.ITIMER_REAL, 0
        )  # an interrupt that waited for an import would come after the end
        sys.stdout.flush()
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, leave if handler is end_at_once else handler)  # type: ignore[arg-type]
