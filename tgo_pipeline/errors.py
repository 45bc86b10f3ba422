"""The one exception that a user may cause and can fix, and what its messages say of other things."""

from __future__ import annotations

import itertools
from collections.abc import Collection


class TgoError(Exception):
    """Something that was given cannot work; the message says what it was, why, and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


REASON = 1000
"""Characters of another library's error: it may repeat all that a damaged file holds, and hide what to do about it."""
NAMES, NAME = 40, 80
"""Columns and their characters in a message, for the same reason."""


def in_one_line(error: BaseException) -> str:
    """All that an error says, in one line, up to `REASON`."""
    return _cut(" ".join(str(error).split()))


def first_line(error: BaseException) -> str:
    """The first line of what an error says, up to `REASON`, without its full stop; its class if it says nothing."""
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    return _cut(next(filter(None, lines), type(error).__name__))


def listed(names: Collection[str]) -> str:
    """Names for a message, each up to `NAME` characters, and how many more there are than `NAMES`."""
    shown = [_cut(str(name), NAME) for name in itertools.islice(names, NAMES)]
    more = f" and {len(names) - NAMES:,} more" if len(names) > NAMES else ""
    return (", ".join(shown) or "none") + more


def _cut(text: str, most: int = REASON) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
