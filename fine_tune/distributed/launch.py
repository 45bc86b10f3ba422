"""What a launcher says to each process that it starts, in variables of the environment."""

from __future__ import annotations

import datetime
import os
import re

from tgo_pipeline.errors import TgoError

LOWEST = {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": 1}
"""The variables that hold a whole number, and the least that it can be."""
HIGHEST = {"MASTER_PORT": 65535}  # the last port of TCP
NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What each of several processes must be told in addition to how many they are."""
ADVICE = (
    "start several processes with `accelerate launch` or torchrun, which set it, or unset WORLD_SIZE for one"
)


def size() -> int:
    """How many processes train together. Raises `TgoError` for a variable that no launcher would set."""
    given = {name: number(name) for name in LOWEST if name in os.environ}
    processes = given.get("WORLD_SIZE", 1)
    if processes == 1:
        return 1
    for name in NEEDED:
        if not os.environ.get(name):
            raise TgoError(f"WORLD_SIZE is {processes}, but {name} is not set: {ADVICE}.")
    if given["RANK"] >= processes:
        raise TgoError(
            f"RANK is {given['RANK']}, but WORLD_SIZE is {processes}, and ranks go from 0 to one less: {ADVICE}."
        )
    return processes


def number(name: str, default: int = 0) -> int:
    """A variable that holds a whole number. Raises `TgoError` if it holds something else."""
    text = os.environ.get(name)
    if text is None:
        return default
    low, high = LOWEST[name], HIGHEST.get(name)
    value = int(text) if re.fullmatch(r"\s*\d{1,9}\s*", text) else None
    if value is None or value < low or (high is not None and value > high):
        wanted = f"{low} or more" if high is None else f"from {low} to {high}"
        raise TgoError(f"the variable {name} is {text!r}: it must be a whole number, {wanted}; {ADVICE}.")
    return value


def meet(backend: str, timeout: datetime.timedelta) -> None:
    """Join the group of all processes. Raises `TgoError` if they cannot meet."""
    from torch import distributed

    try:
        distributed.init_process_group(backend, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise TgoError(f"the processes cannot meet at {place} ({error}): {ADVICE}.") from error
