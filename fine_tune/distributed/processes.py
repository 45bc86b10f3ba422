"""Several processes as one training: who computes what, and how sums, errors and signals reach all of them.

The stage itself (`start`), `accelerate launch` or torchrun starts the processes; each takes its equal share of every
batch. Files belong to the main process. What may fail there, or anywhere, runs through `agree`, so that all processes
raise the same error and none waits for one that is gone; a process that dies is noticed by the launcher, which ends the
others, and by those that wait for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from fine_tune.distributed import launch
from tgo_pipeline.errors import TgoError, first_line
from tgo_pipeline.storage.shards import Interrupted, Stop

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from torch import Tensor

    from tgo_pipeline.params import RuntimeParams

T = TypeVar("T")
PASSED_ON_S = 3.0
"""A signal within this time of another is the same one, which a launcher passed on.

Longer than a launcher takes to pass it on (torchrun looks ten times a second), shorter than patience.
"""
LONGEST_WAIT = datetime.timedelta(hours=4)
"""For the slowest process where all agree, through gloo: encoding shares out whole shards, so that some end much
earlier, and the main process draws and writes while the others wait. Far above what is expected: the limit only keeps
a group from holding its GPUs for days after a failure that nobody noticed."""
STEP_WAIT = datetime.timedelta(minutes=20)
"""For the slowest process at the gradients of one update, through NCCL, which does not notice one that is gone.

Twice torch's own limit of ten minutes, since the first update may compile.
"""


class Gone(TgoError):
    """Another process of the training ended while this one waited for it."""


@dataclass(frozen=True)
class Group:
    """The processes of one training; as it stands, this process alone."""

    rank: int = 0
    size: int = 1
    sharded: bool = False
    """Whether weights and optimiser state are cut into shards (FSDP2), or each process has all of them."""
    channel: Any = None
    """Torch's group in which all agree; None for the default one."""
    told: Event | None = None
    """What the process that started this one sets after a signal, if it keeps signals for itself."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def agree(self, action: Callable[[], T]) -> T:
        """Run `action` here and wait until all have; raises the first `TgoError` or `Interrupted` of any process."""
        result, error = _outcome(action)
        for each in self._all(error):
            if each is not None:
                raise each
        return cast(T, result)

    def on_main(self, action: Callable[[], T]) -> T:
        """Run `action` on the main process alone; its result, or its error, on all."""
        result, error = self._all(_outcome(action) if self.is_main else None)[0]
        if error is not None:
            raise error
        return result

    def _all(self, value: Any) -> list[Any]:
        """The value of every process, by rank."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value, self.channel)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return any(self._all(flag))

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a small tensor over all processes, in the order of their ranks; on a GPU nothing waits for it."""
        if self.size == 1:
            return values
        import torch
        from torch import distributed

        each = [torch.empty_like(values) for _ in range(self.size)]
        distributed.all_gather(each, values)
        return torch.stack(each).sum(0)

    def gather(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays of each process's share of a batch, joined to those of the whole batch in its order."""
        each = self._all(dict(values))
        return {name: np.concatenate([one[name] for one in each]) for name in values}

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a list."""
        return items[self.rank :: self.size]

    def stop(self) -> Stop:
        """The flag that a signal sets in this process; `any` tells all."""
        if self.told is not None:
            return _ToldStop(self.told)
        return Stop() if self.size == 1 else _LaunchedStop()


def _outcome(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return action(), None
    except (TgoError, Interrupted) as error:
        return None, error


class _LaunchedStop(Stop):
    """A launcher passes on to each process what a terminal has sent to all of them already: that is one signal."""

    _first = -math.inf

    def _handle(self, number: int, frame: object) -> None:
        if self.requested and time.monotonic() - self._first < PASSED_ON_S:
            return
        self._first = time.monotonic()
        super()._handle(number, frame)


class _ToldStop(Stop):
    """A flag that the parent sets; signals do not reach this process."""

    def __init__(self, told: Event) -> None:
        super().__init__()
        self._told = told

    def __enter__(self) -> Stop:
        return self

    @property
    def requested(self) -> bool:
        return self._told.is_set()


@contextlib.contextmanager
def joined(runtime: RuntimeParams, told: Event | None = None) -> Iterator[tuple[Group, RuntimeParams]]:
    """Meet the other processes of the launcher, if there are any; the group and this process's own runtime.

    Raises `TgoError` for variables of a launcher that make no sense, for processes that cannot meet, for a device that
    several processes cannot share out, and where another process is gone.
    """
    size = launch.size()
    if size == 1:
        yield Group(), runtime
        return
    from torch import distributed

    is_first = not distributed.is_initialized()
    runtime = _own_runtime(runtime)
    if is_first:
        backend = "gloo" if runtime.device == "cpu" else "cpu:gloo,cuda:nccl"
        launch.meet(backend, STEP_WAIT)
    channel: Any = None
    try:
        channel = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
        sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true"
        group = Group(distributed.get_rank(), size, sharded, channel, told)
        _require_own_gpus(group, runtime.device)
        logging.getLogger("tgo").setLevel(logging.INFO if group.is_main else logging.WARNING)
        yield group, runtime
    except RuntimeError as error:
        if not _is_of_the_group(error):
            raise
        raise Gone(
            f"another process of this training is gone ({first_line(error)}): what it said is above or in its own "
            "output. What was finished is kept, run the stage again to continue."
        ) from error
    finally:
        gc.collect()  # networks in cycles would hold the group's threads until the interpreter ends, and abort it
        if is_first or channel is not None:
            distributed.destroy_process_group(None if is_first else channel)


def _is_of_the_group(error: RuntimeError) -> bool:
    """Whether torch says it of processes that talk to each other."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _require_own_gpus(group: Group, device: str) -> None:
    """Refuse processes that share a GPU. One that sees a single GPU may have been given it, as Slurm does."""
    if not device.startswith("cuda"):
        return
    import torch

    mine = f"{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}"
    every = group._all(mine)
    if len(set(every)) < len(every):
        sharing = [rank for rank, one in enumerate(every) if every.count(one) > 1]
        raise TgoError(
            f"{len(sharing)} of {len(every)} processes have a GPU that is another one's too, the first of them ranks "
            f"{sharing[0]} and {sharing[1]}: launch one process for each GPU."
        )


def _own_runtime(runtime: RuntimeParams) -> RuntimeParams:
    import torch

    from tgo_pipeline.executors.runtime import process_runtime

    local, here = launch.number("LOCAL_RANK", 0), launch.number("LOCAL_WORLD_SIZE", 1)
    gpus = torch.cuda.device_count()
    if runtime.device not in ("auto", "cuda", "cpu"):
        raise TgoError(
            f"runtime.device is {runtime.device!r}, but {here} processes were launched on this machine and each takes "
            "a device of its own: use auto, cuda or cpu."
        )
    device = "cpu" if runtime.device == "cpu" or (runtime.device == "auto" and not gpus) else "cuda"
    if device == "cuda" and here > gpus and gpus != 1:
        raise TgoError(
            f"{here} processes were launched on this machine, which has {gpus} GPUs: launch one for each "
            "(--num_processes), or set runtime.device to cpu."
        )
    device = f"cuda:{local if gpus > 1 else 0}" if device == "cuda" else "cpu"
    own = process_runtime(dataclasses.replace(runtime, device=device, processes=here), local)
    return dataclasses.replace(own, processes=1)
