"""Folders of shards that survive any interruption: plan, fingerprint, resume, status.

A stage states its plan as `Shard`s. `run_shards` takes the folder's lock, removes what is not planned, and calls a
writer for every shard that is missing or stale. A shard exists only complete: it is written to a temporary name,
synced and renamed. SIGINT and SIGTERM end the run after the shard in work, or where its worker can leave it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tgo_pipeline import SAME_SIGNAL_S
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.json_text import read_object
from tgo_pipeline.storage.digests import sidecar
from tgo_pipeline.storage.locks import Held, lock, lock_path
from tgo_pipeline.storage.stores import syncing
from tgo_pipeline.storage.writing import TEMPORARY, adopt, sweep

log = logging.getLogger("tgo")
State = Literal["done", "stale", "to do"]
_PARTS = ".parts"
COUNTED = ("fingerprint", "failed")
"""What `Status` counts of what a shard says of itself."""


@dataclass(frozen=True)
class Mark:
    """What a result was made from: it is written into the result, and a result with another one is stale.

    `fingerprint` is of parameters and of what the inputs were made from; `inputs` is a digest of what the inputs hold
    (`digests`), since the same parameters may give other numbers on another machine. It is compared where both are
    known: a result from before there were digests has none, and neither have inputs that are not there.
    """

    fingerprint: str
    inputs: str | None = None

    def fits(self, stored: Mapping[str, Any]) -> bool:
        """Whether a result that stored this was made from the same."""
        known = None not in (stored.get("inputs"), self.inputs)
        return stored.get("fingerprint") == self.fingerprint and (
            not known or stored["inputs"] == self.inputs
        )

    def entries(self) -> dict[str, str]:
        """What a result stores of it."""
        return {"fingerprint": self.fingerprint} | ({} if self.inputs is None else {"inputs": self.inputs})


@dataclass(frozen=True)
class Shard:
    """One planned file of a folder, with its `Mark`."""

    split: str
    index: int
    count: int
    fingerprint: str
    suffix: str = ".parquet"
    inputs: str | None = None

    @property
    def mark(self) -> Mark:
        """What the shard must be stored with to count as this one."""
        return Mark(self.fingerprint, self.inputs)

    @property
    def name(self) -> str:
        """The name of the file: split, number, count and suffix."""
        return f"{self.split}-{self.index:05d}-of-{self.count:05d}{self.suffix}"


class Waiting(list[Shard]):
    """The shards of a folder that are to be written, for executors whose processes meet in the folder."""

    def __init__(self, folder: Path, shards: Iterable[Shard]) -> None:
        super().__init__(shards)
        self.folder = folder


@dataclass(frozen=True)
class Status:
    """How far a folder is; `failed` counts samples of done shards that carry an error."""

    done: int
    stale: int
    to_do: int
    failed: int
    foreign: int = 0
    """Of the stale ones, those that say nothing of what they were made from, as those of other tools."""

    def __str__(self) -> str:
        return f"{self.done} done, {self.stale} stale, {self.to_do} to do, {self.failed} failed samples"


def parts_folder(shard: Path) -> Path:
    """The hidden folder beside a shard's file in which a worker keeps what is finished of it."""
    return shard.with_name(f".{shard.name}{_PARTS}")


def is_parts(path: Path) -> bool:
    """Whether a path is the `parts_folder` of a shard."""
    return path.name.startswith(".") and path.name.endswith(_PARTS)


class Interrupted(Exception):
    """A signal asked the run to end; what was finished is kept."""


class OwnPartDone(Exception):
    """This process has written its part of a folder; how much of it is with other processes is the message."""


class Stop:
    """Turns the first SIGINT or SIGTERM into a flag, the second into an immediate `KeyboardInterrupt`."""

    def __init__(self) -> None:
        self._requested = False
        self._since = 0.0
        self._previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether the run is to end."""
        return self._requested

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _frame: object) -> None:
        if self.requested:
            if time.monotonic() - self._since < SAME_SIGNAL_S:
                return
            raise KeyboardInterrupt
        self._requested, self._since = True, time.monotonic()
        log.warning("%s: finishing the work in hand; once more to end at once", signal.Signals(number).name)

    def check(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self.requested:
            raise Interrupted


def stored_metadata(path: Path) -> dict[str, Any]:
    """What a shard says of itself, or the description of a folder (.json); empty if it is missing or unreadable.

    What says nothing of itself is written again.
    """
    from tgo_pipeline.storage.tables import read_metadata

    if not path.is_file():
        return {}
    if path.suffix == ".safetensors":
        return _safetensors_metadata(path)
    try:
        return read_object(path) if path.suffix == ".json" else read_metadata(path)
    except TgoError:
        return {}


def stored_fingerprint(path: Path) -> str | None:
    """The fingerprint in a shard's metadata; None if there is none."""
    return stored_metadata(path).get("fingerprint")


def _safetensors_metadata(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as stream:
            return stream.metadata() or {}
    except SafetensorError:
        return {}


def state(folder: Path, shard: Shard) -> State:
    """Whether the shard's file is there with the planned mark, with another one, or not at all."""
    return _found(folder, shard)[0]


def _found(folder: Path, shard: Shard) -> tuple[State, dict[str, Any]]:
    """The state of a shard with what its file says of `COUNTED`, read once: encoded samples also name themselves."""
    path = folder / shard.name
    if not path.is_file():
        return "to do", {}
    stored = stored_metadata(path)
    now: State = "done" if shard.mark.fits(stored) else "stale"
    return now, {key: stored[key] for key in COUNTED if key in stored}


def _look(
    folder: Path, plan: Sequence[Shard], *, give: bool = False
) -> dict[Shard, tuple[State, dict[str, Any]]]:
    """Every shard with `_found`; what an object store has of a folder that lies in one is taken first.

    With `give` the store gets what it lacks.
    """
    # Each is looked at once: of 100,000 shards that takes half a minute.
    found = {shard: _found(folder, shard) for shard in plan}
    done = {shard.name for shard in plan if found[shard][0] == "done"}
    changed = syncing.bring_together(folder, done, {shard.name for shard in plan} - done, give=give)
    return found | {shard: _found(folder, shard) for shard in plan if shard.name in changed}


def status(folder: Path, plan: Sequence[Shard]) -> Status:
    """Count the states of a plan, and the failed samples (`failed` in the metadata) of its finished shards."""
    return _counted(_look(folder, plan).values())


def _counted(found: Collection[tuple[State, dict[str, Any]]]) -> Status:
    states = [now for now, _ in found]
    failed = sum(int(stored.get("failed", 0)) for now, stored in found if now == "done")
    foreign = sum(now == "stale" and "fingerprint" not in stored for now, stored in found)
    return Status(states.count("done"), states.count("stale"), states.count("to do"), failed, foreign)


def run_shards(
    folder: Path,
    plan: Sequence[Shard],
    work: Callable[[Sequence[Shard], Stop], None],
    *,
    together: bool = False,
) -> Status:
    """Bring `folder` to its plan: `work` is called once, with the missing and stale shards and the stop flag.

    It must write each of them through `atomic` and call `stop.check()` after each. Left-over temporaries are removed
    first, shards outside the plan last: a run that fails costs nothing that was there. Returns the status afterwards.
    Raises `TgoError` if another run holds the folder or `work` left a shard out, and `Interrupted` if a signal came.
    Runs that are all `together` hold the folder at once; they share the shards by an executor that can.
    """
    with lock(folder, together=together), Stop() as stop:
        if together:
            sweep(folder)
        else:
            for file in folder.glob(f"{TEMPORARY}*"):
                file.unlink()
        found = _look(folder, plan, give=True)
        before = _counted(found.values())
        log.info("%s: %d done, %d stale, %d to do", folder, before.done, before.stale, before.to_do)
        waiting = Waiting(folder, (shard for shard, (now, _) in found.items() if now != "done"))
        if waiting:
            work(waiting, stop)
            found |= {shard: _found(folder, shard) for shard in waiting}
            _require_written(folder, [shard for shard in waiting if found[shard][0] != "done"], len(waiting))
        with contextlib.suppress(Held), lock_path(folder.with_name(f"{folder.name}.end"), leave_file=False):
            _note_digests(folder, plan)  # of several runs the one that is first
            _sweep(folder, plan)
            syncing.remove_others(folder, {shard.name for shard in plan})
        return _counted(found.values())


def _require_written(folder: Path, left: Sequence[Shard], count: int) -> None:
    """An executor may end early without an error: what it left out must not be taken for done."""
    if left:
        raise TgoError(
            f"{folder}: {len(left)} of {count} shards were not written, the first is {left[0].name}, although the "
            "executor raised no error. What is finished is kept: run again, or choose another runtime.executor."
        )


def _note_digests(folder: Path, plan: Sequence[Shard]) -> None:
    """Give shards the sidecar that they lack: a kill came before it, or they are from before there were any."""
    lacking = [path for shard in plan if not sidecar(path := folder / shard.name).exists()]
    if lacking:
        log.info("%s: noting the digests of %d shards that had none", folder, len(lacking))
    for path in lacking:
        adopt(path)


def _sweep(folder: Path, plan: Sequence[Shard]) -> None:
    """Remove what is not in the plan, and what was kept of shards before they were whole."""
    planned = {name for shard in plan for name in (shard.name, sidecar(Path(shard.name)).name)}
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name not in planned:
            log.info("removing %s: not in the plan", file)
            file.unlink()
        if is_parts(file):
            shutil.rmtree(file, ignore_errors=True)


def table_status(path: Path, mark: Mark | None = None) -> Status:
    """The status of a stage of one file: stale where its stored mark is not the given one."""
    if not path.is_file():
        return Status(0, 0, 1, 0)
    stored = stored_metadata(path)
    stale = mark is not None and not mark.fits(stored)
    return Status(int(not stale), int(stale), 0, 0, int(stale and "fingerprint" not in stored))
