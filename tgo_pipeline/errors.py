"""The one exception that a user may cause and can mend."""


class TgoError(Exception):
    """Something that was given cannot work; the message says what it was, why, and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """
