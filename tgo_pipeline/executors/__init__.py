"""Where shard tasks run: by the executor that `runtime.executor` names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors.base import Ending, Executor, MakeWorker, Worker, never, one_by_one
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.plugins.kinds import EXECUTOR
from tgo_pipeline.storage.shards import Shard, Stop

__all__ = ["Ending", "Executor", "MakeWorker", "Worker", "execute", "never", "one_by_one", "shares_folders"]


def shares_folders(runtime: RuntimeParams) -> bool:
    """Whether several runs of one stage may write a folder at once."""
    return runtime.executor == "ranks"


def execute(shards: Sequence[Shard], stop: Stop, make_worker: MakeWorker, runtime: RuntimeParams) -> None:
    """Write every shard with workers built by `make_worker(runtime)`, which must be picklable.

    Raises what the workers raise, `Interrupted` after a signal, and `TgoError` for an executor that cannot be found.
    """
    executor = EXECUTOR.find(runtime.executor)
    if not callable(executor):
        raise TgoError(
            f"executor {runtime.executor}: it is {type(executor).__name__}, which cannot be called: give a function "
            "of (shards, stop, make_worker, runtime)."
        )
    cast(Executor, executor)(shards, stop, make_worker, runtime)
    stop.check()
