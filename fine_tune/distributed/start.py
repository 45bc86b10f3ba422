"""The processes of a training that no launcher has started: one for each GPU, by torchrun's own launcher.

    start.run(2, train, params, workspace)   # train(params, workspace, told) in two processes that can meet

`launch` reads the variables that they get, the same ones as from torchrun or `accelerate launch`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
import uuid
from collections.abc import Callable, Mapping
from multiprocessing.synchronize import Event
from typing import Any

from fine_tune.distributed import launch
from fine_tune.distributed.processes import Gone
from tgo_pipeline import signals
from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors.progress import configure_logging
from tgo_pipeline.params import Params
from tgo_pipeline.plugins.find import blamed
from tgo_pipeline.storage.shards import Interrupted, Stop

log = logging.getLogger("tgo")
POLL_S = 0.2
"""How often to see whether a process has ended, or a signal has come: soon enough for who waits, and costs nothing."""
HERE = "127.0.0.1"
_LAUNCHER = ("torch.distributed.elastic", "torch.multiprocessing")


def count(params: Params) -> int:
    """How many processes to start: as `runtime.processes` says, on GPUs one for each at most; 1 under a launcher.

    All of them get an equal share of a batch, so that it may be fewer, which is said.
    """
    asked = params.runtime.processes
    if asked == 1 or "WORLD_SIZE" in os.environ:
        return 1
    devices = min(asked, _devices(params.runtime.device, asked))
    batch = params.fine_tune.batch_size
    chosen = next(number for number in range(devices, 0, -1) if batch % number == 0)
    if chosen < asked:
        why = (
            f"there is a device for {devices}" if chosen == devices else f"a batch of {batch} has equal parts"
        )
        log.info("runtime.processes is %d: training with %d, since %s", asked, chosen, why)
    return chosen


def _devices(name: str, asked: int) -> int:
    """For how many processes there is a device; opens none, since a GPU may take a single process."""
    import torch

    gpus = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    if gpus:
        return gpus
    on_cpu = name == "cpu" or (name == "auto" and not torch.backends.mps.is_available())
    return asked if on_cpu else 1


def run(processes: int, work: Callable[..., None], *arguments: Any) -> None:
    """Do `work(*arguments, told)` in processes of this machine; `told` is an event that is set after a signal.

    Signals are for this process alone. Raises the first error of any process, `TgoError` for one that dies, and
    `Interrupted` if the work was; a second signal ends all at once.
    """
    context = signals.context("spawn")
    told, outcomes = context.Event(), context.SimpleQueue()
    died: dict[int, int] = {}
    ended = threading.Event()  # an interrupted `join` takes a thread that goes on for one that has ended
    launcher = threading.Thread(
        target=_launch, args=(processes, died, ended, _rank, (work, arguments, told, outcomes)), daemon=True
    )
    with Stop() as stop:
        try:
            launcher.start()
            while not ended.wait(POLL_S):
                if stop.requested:
                    told.set()
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()
            if launcher.is_alive():
                ended.wait()
            raise
    _raise_first(dict(outcomes.get() for _ in iter(outcomes.empty, True)), died, processes)


def _launch(
    processes: int,
    died: dict[int, int],
    ended: threading.Event,
    function: Callable[..., None],
    arguments: Any,
) -> None:
    """Start the processes and wait for them; `died` gets the exit codes of those that failed, `ended` is set then.

    In a thread of its own, in which signals are blocked: the launcher leaves them alone there, and the processes
    inherit that.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [name for name in logging.root.manager.loggerDict if name.startswith(_LAUNCHER)]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what went wrong is said in a line of our own
    with signals.blocked(), tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{HERE}:0",
            local_addr=HERE,
            max_restarts=0,
            start_method="spawn",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, function)(*arguments)
        except ChildFailedError as error:
            died.update({rank: failure.exitcode for rank, failure in error.failures.items()})
        finally:
            ended.set()


def _rank(work: Callable[..., None], arguments: Any, told: Event, outcomes: Any) -> None:
    """One of the processes. It fails where the others may wait for it, so that the launcher ends them."""
    signals.end_with_parent()
    configure_logging()
    rank = launch.number("RANK")
    try:
        work(*arguments, told)
        outcomes.put((rank, None))
    except Interrupted as error:
        outcomes.put((rank, error))
    except Exception as error:
        said = blamed(error)
        failed = TgoError(f"process {rank} of the training failed: its traceback is above.")
        outcomes.put((rank, said or failed))
        if said is None:
            traceback.print_exc()  # the launcher would keep it to itself
            raise
        raise SystemExit(1) from None


def _raise_first(outcomes: Mapping[int, Exception | None], died: Mapping[int, int], processes: int) -> None:
    """Raise what ended the training: that another process is gone is the least that one can say."""
    errors = sorted(filter(None, outcomes.values()), key=lambda error: isinstance(error, Gone))
    if errors and not isinstance(errors[0], Gone):
        raise errors[0]
    silent = sorted(set(range(processes)) - set(outcomes), key=lambda rank: rank not in died)
    if silent:
        raise TgoError(
            f"process {silent[0]} of {processes} of the training {_end(died.get(silent[0]))}. What was finished is "
            "kept, run the stage again to continue."
        )
    if errors:
        raise errors[0]


def _end(code: int | None) -> str:
    """How a process ended that said nothing."""
    if code == -signal.SIGKILL:
        cause = "often memory ran out, and fewer processes or a smaller runtime.micro_batch_size take less"
        return f"was ended by SIGKILL: {cause}"
    if code is None or code >= 0:
        return "ended early: what it printed is above"
    return f"was ended by {signal.Signals(-code).name}: what it printed is above"
