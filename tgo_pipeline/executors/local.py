"""Run shard tasks in this process, or in several on this machine (one per GPU, or one per core)."""

from __future__ import annotations

import itertools
import multiprocessing
import queue
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Event
from typing import Any

from tgo_pipeline import signals
from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors.base import Ending, MakeWorker
from tgo_pipeline.executors.progress import configure_logging
from tgo_pipeline.executors.runtime import process_runtime
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.plugins.find import blamed
from tgo_pipeline.storage.shards import Interrupted, Shard, Stop

POLL_S = 0.2
"""How often to see whether a worker has ended, or the run is to stop."""


def execute(shards: Sequence[Shard], stop: Stop, make_worker: MakeWorker, runtime: RuntimeParams) -> None:
    """Write every shard with workers built by `make_worker(runtime)`, which loads a model.

    With `runtime.processes` above 1, `make_worker` must be picklable; process k gets the k-th GPU where there are
    several. Raises the first worker's `TgoError` (the others finish what they work on) and `Interrupted`.
    """
    if runtime.processes <= 1:
        waiting = itertools.takewhile(lambda _: not stop.requested, shards)
        for _ in make_worker(runtime)(waiting, lambda: stop.requested):
            pass
        stop.check()
        return
    # A single shard too: here it would have all threads, and sums over more threads end in other digits. A run that
    # continues with the last shard of a killed one must come to the same bits.
    _execute_in_processes(shards, stop, make_worker, runtime, min(runtime.processes, len(shards)))


def _execute_in_processes(
    shards: Sequence[Shard], stop: Stop, make_worker: MakeWorker, runtime: RuntimeParams, processes: int
) -> None:
    context = signals.context("spawn")
    tasks: Any = context.Queue()
    tasks.cancel_join_thread()  # or this process, at its end, would wait for somebody to take what is left
    errors: Any = context.Queue()
    ending = context.Event()
    for shard in shards:
        tasks.put(shard)
    workers: list[Any] = [
        context.Process(
            target=_serve,
            args=(tasks, errors, ending, make_worker, process_runtime(runtime, rank)),
        )
        for rank in range(processes)
    ]
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            for worker in workers:
                worker.join(POLL_S)
            if stop.requested or any(worker.exitcode for worker in workers):
                ending.set()
    except BaseException:  # a second interrupt ends at once
        for worker in workers:
            if worker.is_alive():
                worker.kill()
        raise
    stop.check()
    _raise_first(errors, [worker.exitcode for worker in workers])


def _serve(tasks: Any, errors: Any, ending: Event, make_worker: MakeWorker, runtime: RuntimeParams) -> None:
    configure_logging()

    def is_ending() -> bool:
        return ending.is_set() or not _parent_lives()

    try:
        for _ in make_worker(runtime)(_take(tasks, is_ending), is_ending):
            pass
    except Interrupted:
        pass  # the parent knows why
    except Exception as error:
        said = blamed(error)
        if said is None:
            raise
        errors.put(str(said))
        raise SystemExit(1) from None


def _take(tasks: Any, is_ending: Ending) -> Iterator[Shard]:
    """The shards that are left, until the work is to end."""
    while not is_ending():
        try:
            yield tasks.get(timeout=POLL_S)
        except queue.Empty:
            return


def _parent_lives() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and parent.is_alive()


def _raise_first(errors: Any, exit_codes: Sequence[int | None]) -> None:
    failed = [code for code in exit_codes if code]
    if not failed:
        return
    try:
        raise TgoError(errors.get(timeout=POLL_S))
    except queue.Empty:
        raise TgoError(
            f"{len(failed)} of {len(exit_codes)} worker processes ended with exit codes {failed}: their traceback is "
            "above; finished shards are kept, run the stage again to continue."
        ) from None
