"""Give shards to the workers of a Ray cluster, one on each GPU, or on some cores.

The driver alone plans: it feeds each worker one shard at a time, so that a fast one takes more, and believes that a
shard is written when it sees the file with its fingerprint. What a worker, a node or the network breaks costs the shard
in work, which goes to another worker; nodes may join and leave. No image travels through Ray.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError, first_line
from tgo_pipeline.executors import local
from tgo_pipeline.executors.base import MakeWorker
from tgo_pipeline.executors.cluster_worker import ClusterWorker, WorkerAnswer, identity
from tgo_pipeline.executors.runtime import share_of_cores
from tgo_pipeline.executors.variables import above_zero
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.signals import ENDING
from tgo_pipeline.storage.shards import Shard, Stop, Waiting, state

log = logging.getLogger("tgo")
GPUS, CPUS, WORKERS = "TGO_RAY_GPUS", "TGO_RAY_CPUS", "TGO_RAY_WORKERS"
"""Variables: what a worker asks of its node, and how many workers there are at most."""
LIMIT = "TGO_SHARD_S"
"""The variable that states how long a shard may take; a worker that takes longer is ended."""
PROGRESS = "TGO_PROGRESS"
"""The variable that names a file to which each written shard adds a line of JSON."""
TRIES = 3
"""Workers that may break on one shard before the shard is named."""
LEAST_LIMIT_S, SLOWER = 600.0, 10.0
"""Where no limit is stated: ten times the slowest shard so far, ten minutes at least; none before the first."""
VISIBLE_S = 90.0
"""How long a file of another node may take to be seen: network file systems look again after a minute."""
POLL_S, HIRE_S, SAY_S = 0.2, 5.0, 60.0


def execute(shards: Sequence[Shard], stop: Stop, make_worker: MakeWorker, runtime: RuntimeParams) -> None:
    """Write every shard on the cluster that RAY_ADDRESS names, that runs on this machine, or on one begun for it.

    Raises what the executor `local` raises, and `TgoError` for a shard on which `TRIES` workers broke, for a node with
    other versions, and for a cluster that cannot be reached.
    """
    if not isinstance(shards, Waiting):  # of no folder that nodes could meet in
        local.execute(shards, stop, make_worker, runtime)
        return
    limit_s = above_zero(LIMIT, "seconds")
    with _cluster() as ray:
        _Driver(ray, shards, stop, make_worker, runtime, _needs(ray, runtime), limit_s).run()


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected. Its handler of signals gives way to that of this command."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise TgoError(
            "runtime.executor is ray, which is not installed here: `pip install tgo-pipeline[ray]` on every node, or "
            "choose local or ranks."
        ) from None
    if ray.is_initialized():  # by who calls this package
        yield ray
        return
    handlers = {number: signal.getsignal(number) for number in ENDING}
    try:
        _connect(ray, os.environ.get("RAY_ADDRESS"))
    finally:
        for number, handler in handlers.items():
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    """To the cluster of an address; without one to that of this machine, which is begun where there is none."""
    try:
        try:
            ray.init(address=address or "auto", logging_level=logging.WARNING)
        except ConnectionError:
            if address:
                raise
            log.info("no Ray cluster runs here: beginning one on this machine")
            ray.init(include_dashboard=False, logging_level=logging.WARNING)
    except Exception as error:  # of many kinds, some of them Exception itself
        raise TgoError(f"no Ray cluster at {address or 'this machine'}: {first_line(error)}") from error


def _needs(ray: Any, runtime: RuntimeParams) -> dict[str, float]:
    """What one worker takes of its node."""
    if ":" in runtime.device:
        raise TgoError(
            f"runtime.device is {runtime.device}, one GPU of one machine; Ray gives each worker a GPU of its own: set "
            "it to auto or cuda."
        )
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    on_gpu = runtime.device == "cuda" or (runtime.device == "auto" and has_gpus)
    gpus = above_zero(GPUS, "GPUs") or 1.0 if on_gpu else 0.0
    return {"GPU": gpus, "CPU": above_zero(CPUS, "cores") or float(1 if on_gpu else share_of_cores(runtime))}


@dataclass(eq=False)
class _Seat:
    """A worker with the shard that it has; without one it is being loaded."""

    actor: Any
    shard: Shard | None
    since: float


class _Driver:
    def __init__(
        self,
        ray: Any,
        shards: Waiting,
        stop: Stop,
        make_worker: MakeWorker,
        runtime: RuntimeParams,
        needs: Mapping[str, float],
        limit_s: float | None,
    ) -> None:
        self._ray, self._folder, self._stop, self._needs = ray, shards.folder, stop, needs
        self._limit_s, self._slowest_s = limit_s, 0.0
        self._most = above_zero(WORKERS, "workers") or float("inf")
        self._load = (os.getcwd(), pickle.dumps(make_worker), runtime, identity())
        threads = str(runtime.threads or max(1, int(needs["CPU"])))
        own = {name: value for name, value in os.environ.items() if name.startswith("TGO_")}
        self._actors = ray.remote(ClusterWorker).options(
            num_cpus=needs["CPU"],
            num_gpus=needs["GPU"],
            max_restarts=0,  # the driver counts what broke
            max_task_retries=0,
            max_concurrency=2,  # `end` while a shard is being written
            runtime_env={"env_vars": {**own, "OMP_NUM_THREADS": threads}},
        )
        self._left = deque(shards)
        self._count, self._done = len(shards), 0
        self._tries = Counter[str]()
        self._starts_lost = 0
        self._busy: dict[Any, _Seat] = {}
        self._idle: list[_Seat] = []
        self._unseen: dict[Shard, tuple[float, str]] = {}
        self._failure: TgoError | None = None
        self._asked_to_end = False
        self._hired_s = self._said_s = float("-inf")

    def run(self) -> None:
        """Until every shard is written, or a signal or an error ends it; then workers finish what they can."""
        while self._goes_on():
            if self._ending:
                self._end()
            else:
                self._hire()
                self._hand_out()
            self._listen()
            self._look()
            self._end_late()
        if self._failure is not None:
            raise self._failure

    @property
    def _ending(self) -> bool:
        return self._stop.requested or self._failure is not None

    def _goes_on(self) -> bool:
        working = any(seat.shard is not None for seat in self._busy.values())
        return working or (not self._ending and bool(self._left or self._unseen))

    def _hire(self) -> None:
        """A worker for each place in the cluster as it is now, one at least: a cluster may grow when asked."""
        now = time.monotonic()
        if now - self._hired_s < HIRE_S:
            return
        self._hired_s = now
        there = self._ray.cluster_resources()
        room = min(int(there.get(name, 0) / need + 1e-6) for name, need in self._needs.items() if need)
        working = sum(seat.shard is not None for seat in self._busy.values())
        wanted = min(max(1, room), len(self._left) + working, self._most)
        if self._idle or working:
            self._said_s = now
        elif now - self._said_s > SAY_S:
            self._said_s = now
            ask, has = ({name: each.get(name, 0) for name in self._needs} for each in (self._needs, there))
            log.info("no worker yet: each needs %s, the cluster has %s", _counted(ask), _counted(has))
        while len(self._busy) + len(self._idle) < wanted:
            actor = self._actors.remote()
            self._busy[actor.load.remote(*self._load)] = _Seat(actor, None, now)

    def _hand_out(self) -> None:
        while self._idle and self._left:
            seat, shard = self._idle.pop(), self._left.popleft()
            self._busy[seat.actor.write.remote(shard)] = _Seat(seat.actor, shard, time.monotonic())

    def _listen(self) -> None:
        if not self._busy:
            time.sleep(POLL_S)
            return
        for answered in self._ray.wait(list(self._busy), timeout=POLL_S)[0]:
            seat = self._busy.pop(answered)
            try:
                self._heard(seat, self._ray.get(answered))
            except self._ray.exceptions.RayError as error:
                self._lost(seat, first_line(error))

    def _heard(self, seat: _Seat, answer: WorkerAnswer) -> None:
        if answer.error is not None:
            if answer.trace:
                sys.stderr.write(answer.trace)
            where = f" ({answer.where}; its traceback is above)" if answer.trace else ""
            self._failure = self._failure or TgoError(answer.error + where)
            return
        self._starts_lost = 0
        self._idle.append(seat)
        if seat.shard is not None and not answer.interrupted:
            self._unseen[seat.shard] = time.monotonic(), answer.where
            self._slowest_s = max(self._slowest_s, answer.seconds)
            self._note(seat.shard, answer)

    def _note(self, shard: Shard, answer: WorkerAnswer) -> None:
        written = self._done + len(self._unseen)
        what = f"{shard.name} by {answer.where} in {answer.seconds:.1f} s"
        log.info("%s, %d of %d", what, written, self._count)
        if path := os.environ.get(PROGRESS):
            line = {
                "time": time.time(),
                "shard": shard.name,
                "worker": answer.where,
                "seconds": answer.seconds,
            }
            with Path(path).open("a") as stream:
                stream.write(json.dumps({**line, "written": written, "of": self._count}) + "\n")

    def _look(self) -> None:
        """Count the shards whose files are there."""
        for shard, (since, where) in list(self._unseen.items()):
            if state(self._folder, shard) == "done":
                del self._unseen[shard]
                self._done += 1
            elif time.monotonic() - since > VISIBLE_S:
                del self._unseen[shard]
                self._again(shard, f"{where} says that it wrote it, and it is not in {self._folder} here")

    def _end_late(self) -> None:
        """End workers that take too long: they hang, or their node does."""
        limit_s = self._limit_s or (max(LEAST_LIMIT_S, SLOWER * self._slowest_s) if self._slowest_s else None)
        for task, seat in list(self._busy.items()):
            if limit_s and seat.shard is not None and time.monotonic() - seat.since > limit_s:
                del self._busy[task]
                self._ray.kill(seat.actor)
                self._lost(seat, f"it took longer than {limit_s:g} s ({LIMIT} sets the limit)")

    def _lost(self, seat: _Seat, why: str) -> None:
        """A worker is gone; others get what it had."""
        self._hired_s = float("-inf")
        if seat.shard is not None:
            self._again(seat.shard, why)
            return
        self._starts_lost += 1
        if self._starts_lost >= TRIES:
            self._failure = self._failure or TgoError(
                f"{TRIES} workers one after the other could not begin on the cluster, the last: {why}"
            )

    def _again(self, shard: Shard, why: str) -> None:
        self._tries[shard.name] += 1
        log.warning("%s, try %d of %d: %s", shard.name, self._tries[shard.name], TRIES, why)
        if self._tries[shard.name] < TRIES:
            self._left.append(shard)
            return
        self._failure = self._failure or TgoError(
            f"{shard.name} was given to {TRIES} workers and none wrote it, the last: {why}. What is finished is kept: "
            "see to what is in that shard, or give a worker more memory, and run again."
        )

    def _end(self) -> None:
        """Ask the workers, once, to leave off."""
        if not self._asked_to_end:
            self._asked_to_end = True
            for seat in self._busy.values():
                seat.actor.end.remote()


def _counted(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{count:g} {name}" for name, count in resources.items())
