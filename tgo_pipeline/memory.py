"""What happens where memory runs out: work begins again with half as many rows at once."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tgo_pipeline.devices import is_out_of_memory
from tgo_pipeline.errors import TgoError, first_line

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger("tgo")


class OutOfMemory(TgoError):
    """Memory ran out in `attempt`; holds nothing of what was computed."""


def attempt(work: Callable[[], R]) -> R:
    """The result of `work`. Raises `OutOfMemory` if memory runs out, with all that it had computed given up."""
    try:
        return work()
    except (RuntimeError, MemoryError, OutOfMemory) as error:
        if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
            raise
        said = first_line(error)
    # out here: the caught error holds the tensors of every function that it went through
    raise OutOfMemory(said)


class Halving:
    """How many rows go through a network at once: half as many from each time on that memory runs out."""

    def __init__(self, size: int, key: str, one: str, advice: str) -> None:
        """`size` is that of `key`, a parameter; `one` is a row in words, `advice` what to do if not even one fits."""
        self.size = size
        self._key = key
        self._one = one
        self._advice = advice

    def batches(self, items: Iterable[T], work: Callable[[list[T]], R]) -> Iterator[R]:
        """What `work` makes of the items, as many at a time as fit. Raises `TgoError` if not even one does."""
        source, waiting = iter(items), []
        while True:
            waiting += itertools.islice(source, max(0, self.size - len(waiting)))
            if not waiting:
                return
            batch = waiting[: self.size]
            try:
                result = attempt(lambda batch=batch: work(batch))
            except OutOfMemory as error:
                said = str(error)
            else:
                del waiting[: len(batch)]
                yield result
                continue
            self.halve(said)

    def halve(self, said: str) -> None:
        """Go on with half as many rows after an error that said so. Raises `TgoError` after one.

        Call it where the error is gone: it holds functions that hold tensors, whose memory is returned here.
        """
        import torch

        if self.size == 1:
            raise TgoError(f"not even one {self._one} fits into memory ({said}): {self._advice}.")
        self.size //= 2
        log.warning("out of memory: going on with batches of %d (%s)", self.size, self._key)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
