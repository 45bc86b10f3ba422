"""What executors read from the environment, which differs from machine to machine as no file of the project may."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping

from tgo_pipeline.errors import TgoError


def whole(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A whole number that a launcher sets. Raises `TgoError` if it is none, or not set and without a default."""
    text = environment.get(name, None if default is None else str(default))
    if text is None or not re.fullmatch(r"\s*\d{1,9}\s*", text):
        said = "not set" if text is None else repr(text)
        raise TgoError(
            f"the variable {name} is {said}: it must be a whole number beside the others of its launcher."
        )
    return int(text)


def above_zero(name: str, what: str, environment: Mapping[str, str] = os.environ) -> float | None:
    """A number above 0 that a user may set; None if it is not set. `what` says in messages what it is a number of."""
    text = environment.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise TgoError(f"the variable {name} is {text!r}: it must be a number of {what} above 0.")
    return value
