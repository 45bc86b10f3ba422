"""Share the shards of a folder among processes on any machines that see it: tasks of Slurm, torchrun, MPI, or by hand.

Every process runs the same command. Which one writes a shard is settled by claims beside the shards (`claims`), so that
fast machines take more and a machine that is gone leaves its shards to the others; each goes on until all are written.
Or by the shard's number (`DIVIDE`): then a process ends with its own, asks the folder for nothing but names, and waits
for nobody.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import local
from tgo_pipeline.executors.base import Ending, MakeWorker, Worker, never
from tgo_pipeline.executors.claims import LEASE_S, Claims
from tgo_pipeline.executors.variables import above_zero, whole
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.storage.shards import OwnPartDone, Shard, Stop, Waiting, state

POLL_S = 1.0
"""How often to look whether a shard that another process has claimed is free, or written."""
LEASE = "TGO_LEASE_S"
"""The variable that changes the lease; a machine that hangs for longer loses its shard to another one."""
DIVIDE, BY_INDEX = "TGO_DIVIDE", "index"
"""The variable, and its value, for a division by number in place of claims."""
LAUNCHERS = (("TGO_RANK", "TGO_RANKS"), ("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
             ("PMI_RANK", "PMI_SIZE"))  # fmt: skip
"""Variables of rank and number of processes: by hand, of torchrun, of Open MPI, of MPICH and Intel MPI."""
LOCAL_RANKS = (
    "TGO_LOCAL_RANK",
    "LOCAL_RANK",
    "SLURM_LOCALID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
)
"""Variables of the number of a process among those of its machine."""


@dataclass(frozen=True)
class Member:
    """Which of how many processes this one is; with claims it says where among the shards it begins."""

    rank: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise TgoError(
                f"this process is rank {self.rank} of {self.size} by its environment: ranks go from 0 to one less than "
                "their number. Set TGO_RANK and TGO_RANKS, or unset them."
            )


def member(environment: Mapping[str, str] = os.environ) -> Member:
    """What a launcher says of this process; alone if none does. Raises `TgoError` for what is not a number."""
    for rank, size in LAUNCHERS:
        if rank in environment or size in environment:
            return Member(whole(environment, rank), whole(environment, size))
    tasks = whole(environment, "SLURM_NTASKS", 1) if "SLURM_PROCID" in environment else 1
    task = whole(environment, "SLURM_PROCID", 0)
    if "SLURM_ARRAY_TASK_ID" in environment:
        first, count = (whole(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("MIN", "COUNT"))
        step = whole(environment, "SLURM_ARRAY_TASK_STEP", 1)
        place = (whole(environment, "SLURM_ARRAY_TASK_ID") - first) // step
        return Member(min(place, count - 1) * tasks + task, count * tasks)  # a list of ids has gaps
    return Member(task, tasks)


def execute(shards: Sequence[Shard], stop: Stop, make_worker: MakeWorker, runtime: RuntimeParams) -> None:
    """Write every shard together with the other processes; returns when all are written, by whomever.

    Raises what the executor `local` raises, `TgoError` for an environment that contradicts itself, and `OwnPartDone`
    if the shards were divided by number and some of others are not written yet.
    """
    if not isinstance(shards, Waiting):
        local.execute(shards, stop, make_worker, runtime)
        return
    here = member()
    if _by_index():
        own = [shard for shard in shards if shard.index % here.size == here.rank]
        local.execute(own, stop, make_worker, _on_own_gpu(runtime))
        _leave_the_others(shards, here)
        return
    begin = here.rank * len(shards) // here.size
    own = [*shards[begin:], *shards[:begin]]
    local.execute(own, stop, Claiming(make_worker, shards.folder, lease_s()), _on_own_gpu(runtime))


def _by_index(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether shards are divided by number. Raises `TgoError` for a way that there is not."""
    way = environment.get(DIVIDE, "claims")
    if way not in ("claims", BY_INDEX):
        raise TgoError(f"the variable {DIVIDE} is {way!r}: it must be claims or {BY_INDEX}.")
    return way == BY_INDEX


def _leave_the_others(shards: Waiting, here: Member) -> None:
    """Raise `OwnPartDone` if shards of other processes are not written."""
    left = [shard for shard in shards if state(shards.folder, shard) != "done"]
    if left:
        raise OwnPartDone(
            f"rank {here.rank} of {here.size} has written its shards; {len(left)} of {len(shards)} are with others, "
            f"the first is {left[0].name}. Run the same once more, anywhere, when they have ended."
        )


def _on_own_gpu(runtime: RuntimeParams, environment: Mapping[str, str] = os.environ) -> RuntimeParams:
    """With the GPU of this task among several that it sees; a launcher may have hidden the others."""
    name = next((name for name in LOCAL_RANKS if name in environment), None)
    if name is None or runtime.processes > 1 or runtime.device not in ("auto", "cuda"):
        return runtime
    import torch

    count = torch.cuda.device_count()
    device = f"cuda:{whole(environment, name) % count}" if count > 1 else runtime.device
    return dataclasses.replace(runtime, device=device)


def lease_s(environment: Mapping[str, str] = os.environ) -> float:
    """How long a claim may stay as it is. Raises `TgoError` for a variable that is no such time."""
    return above_zero(LEASE, "seconds", environment) or LEASE_S


@dataclass(frozen=True)
class Claiming:
    """A maker of workers that write only what they could claim; picklable if `make_worker` is."""

    make_worker: MakeWorker
    folder: Path
    lease_s: float

    def __call__(self, runtime: RuntimeParams) -> Worker:
        """A worker that, after the shards that were free, waits for those of other processes to be written or free."""
        write = self.make_worker(runtime)

        def work(shards: Iterable[Shard], is_ending: Ending = never, /) -> Iterator[Shard]:
            """What is free first, and again what was not, until every shard is written by somebody."""
            with Claims(self.folder, self.lease_s) as claims:
                left: list[Shard] = []
                todo: Iterable[Shard] = shards
                while True:
                    # A worker may take the next shard before it ends one: none waits in there for another process.
                    for shard in write(self._free(todo, claims, left, is_ending), is_ending):
                        claims.release(shard.name)
                        yield shard
                    todo, left = left, []
                    if not todo or is_ending():
                        return
                    time.sleep(POLL_S)

        return work

    def _free(
        self, shards: Iterable[Shard], claims: Claims, left: list[Shard], is_ending: Ending
    ) -> Iterator[Shard]:
        """The shards that are not written and that no other process has claimed; the others go to `left`."""
        for shard in shards:
            if is_ending():
                return
            if state(self.folder, shard) == "done":
                continue
            if not claims.take(shard.name):
                left.append(shard)
            elif state(self.folder, shard) == "done":  # since it was looked at
                claims.release(shard.name)
            else:
                yield shard
