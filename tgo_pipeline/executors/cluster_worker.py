"""What a worker on a node of a Ray cluster does: it loads what the work needs, then writes a shard at a time.

Shards are written into the project's folder, which every node sees at the same place; what travels is their names.
"""

from __future__ import annotations

import os
import pickle
import platform
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tgo_pipeline.errors import first_line
from tgo_pipeline.executors.base import Worker, one_by_one
from tgo_pipeline.executors.progress import configure_logging
from tgo_pipeline.executors.runtime import process_runtime
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.plugins.find import blamed
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.shards import Interrupted, Shard

PACKAGES = ("torch", "transformers", "diffusers", "numpy", "pyarrow", "pillow")
"""Besides Python and this package's code, what has to be the same everywhere: all of them enter numbers or files."""


@dataclass(frozen=True)
class WorkerAnswer:
    """What a worker says of a task."""

    where: str
    """The node and the process."""
    seconds: float = 0.0
    error: str | None = None
    """Why it could not be done, in one line."""
    trace: str | None = None
    """Where a fault of this package is, which no line explains."""
    interrupted: bool = False
    """Whether it was asked to end on its way."""


def identity() -> dict[str, str]:
    """What numbers and files depend on besides the project: versions, and the code of this package."""
    found = {"Python": platform.python_version(), "tgo-pipeline": _code()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _code() -> str:
    root = Path(__file__).parents[2]
    files = sorted(
        file for name in ("tgo_pipeline", "fine_tune", "stages") for file in (root / name).rglob("*.py")
    )
    return fingerprint(code=[(str(file.relative_to(root)), file.read_text()) for file in files])


def _not_loaded(shard: Shard) -> None:
    raise RuntimeError(f"{shard.name} came before the work was loaded")


class ClusterWorker:
    """Lives on one GPU, or some cores; `end` may come while `write` runs."""

    def __init__(self) -> None:
        self._ending = threading.Event()
        self._where = f"{socket.gethostname()}:{os.getpid()}"
        self._write: Worker = one_by_one(_not_loaded)

    def load(
        self, folder: str, make_worker: bytes, runtime: RuntimeParams, wanted: Mapping[str, str]
    ) -> WorkerAnswer:
        """Go into the project's folder and build the worker; refuses to on a node that has other versions."""
        configure_logging()
        own = identity()
        if other := [
            f"{name} {own.get(name)} for {wanted[name]}" for name in wanted if own.get(name) != wanted[name]
        ]:
            return WorkerAnswer(
                self._where, error=f"{self._where} has {', '.join(other)}: install the same on every node."
            )
        if not os.path.isdir(folder):
            shared = "the project has to be on storage that every node sees at the same place."
            return WorkerAnswer(self._where, error=f"{self._where} sees no folder {folder}: {shared}")
        os.chdir(folder)
        if folder not in sys.path:
            sys.path.insert(0, folder)

        def build() -> None:
            self._write = pickle.loads(make_worker)(process_runtime(runtime, 0))

        return self._done(build)

    def write(self, shard: Shard) -> WorkerAnswer:
        """Write one shard."""

        def work() -> None:
            for _ in self._write([shard], self._ending.is_set):
                pass

        return self._done(work)

    def end(self) -> None:
        """Let what is being written leave off where it can."""
        self._ending.set()

    def _done(self, work: Callable[[], None]) -> WorkerAnswer:
        """Do it, and say how it went: errors that are for the user as one line, as on one machine."""
        started_s = time.monotonic()
        try:
            work()
        except Interrupted:
            return WorkerAnswer(self._where, interrupted=True)
        except Exception as error:  # noqa: BLE001  # it goes to the driver, which says it
            said = blamed(error)
            if said is None:
                return WorkerAnswer(self._where, error=first_line(error), trace=traceback.format_exc())
            return WorkerAnswer(self._where, error=str(said))
        return WorkerAnswer(self._where, time.monotonic() - started_s)
