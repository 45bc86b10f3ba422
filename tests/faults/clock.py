"""The time that an input may take: seconds of the processor, which other work on the machine does not lengthen."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import NoReturn

WAITING = 20
"""So many times as long by the clock, for what waits and does not work."""


class Late(BaseException):
    """The time for an input is over."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `Late` in what takes longer, in the main thread of a process."""

    def late(*_: object) -> NoReturn:
        raise Late

    signal.signal(signal.SIGPROF, late)
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WAITING * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
