"""The one exception that a user may cause and can fix."""


class TgoError(Exception):
    """Something that was given cannot work; the message says what it was, why, and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


def in_one_line(error: BaseException) -> str:
    """All that an error says, in one line."""
    return " ".join(str(error).split())


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its full stop; the name of its class if it says nothing."""
    lines = (line.strip().rstrip(".") for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
