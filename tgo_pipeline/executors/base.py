"""What an executor is: it gives shard tasks to workers, which it builds where it wants them to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.storage.shards import Shard, Stop

Ending = Callable[[], bool]
"""Whether the run is to end soon."""


def never() -> bool:
    """That nothing ends the run."""
    return False


class Worker(Protocol):
    """Writes shards as they come and yields each one that is written; it may take the next before it ends one."""

    def __call__(self, shards: Iterable[Shard], is_ending: Ending = never, /) -> Iterator[Shard]:
        """A worker of long shards asks `is_ending` on its way: it keeps what it has and raises `Interrupted`."""
        ...


MakeWorker = Callable[[RuntimeParams], Worker]
"""Loads what the work needs; picklable, so that it can be called in another process or on another machine."""
Executor = Callable[[Sequence[Shard], Stop, MakeWorker, RuntimeParams], None]
"""Returns when every shard is written, or soon after `stop.requested`; what is finished is kept in either case."""


def one_by_one(write: Callable[[Shard], None]) -> Worker:
    """The worker that ends each shard before it takes the next."""

    def work(shards: Iterable[Shard], is_ending: Ending = never, /) -> Iterator[Shard]:
        """Each shard in turn, whole."""
        for shard in shards:
            write(shard)
            yield shard

    return work
