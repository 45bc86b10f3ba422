"""One process of another interpreter that runs `worker.py`: started, asked, and ended with this one."""

from __future__ import annotations

import collections
import contextlib
import json
import mmap
import os
import select
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tgo_pipeline import signals
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.isolated.names import foreign_environment
from tgo_pipeline.rewards.isolated.worker import LENGTH, MAGIC

SCRIPT = Path(__file__).with_name("worker.py")
TIMEOUT = "TGO_WORKER_TIMEOUT_S"
"""Environment variable: how long one answer may take, loading apart."""
TIMEOUT_S, LOADING_S = 600.0, 3600.0
MOST_STRAY_BYTES, MOST_ANSWER_BYTES = 1 << 20, 1 << 28
TAIL_LINES, PRINTED_BYTES = 40, 1 << 16


class WorkerLost(Exception):
    """The process is gone, or was ended because it did not answer; the text says why."""


@dataclass(frozen=True)
class WorkerRequest:
    """What a process is started for."""

    python: Path
    object: str
    module: str = ""
    file: Path | None = None
    source: Any = None
    device: str = "cpu"
    """As torch writes it, with the index of a GPU as this process counts them."""


class WorkerProcess:
    """A started process with a loaded reward; `about` is what it said of itself."""

    def __init__(self, request: WorkerRequest) -> None:
        """Start it and wait until the reward is loaded. Raises `TgoError` if that fails."""
        self._memory, self._size = _memory(), 0
        self._tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._process = self._start(request)
        pipes: Any = self._process  # none of them is missing
        self._questions, self._answers = pipes.stdin.fileno(), pipes.stdout.fileno()
        self._end = weakref.finalize(self, _end, self._process, self._memory)
        try:
            self._skip_to_answers()
            message = {
                "folder": str(Path.cwd()),
                "module": request.module,
                "file": str(request.file) if request.file else None,
                "object": request.object,
                "source": request.source,
                "device": request.device.partition(":")[0],
            }
            self.about = self._ask(message, LOADING_S)
        except WorkerLost as loss:
            raise TgoError(f"{loss}.") from None
        if "error" in self.about:
            said = self.about["error"]
            self.close()
            raise TgoError(f"{said}.")

    def _start(self, request: WorkerRequest) -> subprocess.Popen[bytes]:
        environment = foreign_environment()
        environment["CUDA_VISIBLE_DEVICES"] = _visible(request.device)
        try:
            with signals.blocked():  # Ctrl-C is meant for this process, which then ends the other
                process = subprocess.Popen(
                    [request.python, "-u", str(SCRIPT), str(self._memory)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                    pass_fds=(self._memory,),
                    bufsize=0,
                )
        except OSError as error:
            os.close(self._memory)
            raise TgoError(f"{request.python} cannot be run: {error.strerror}.") from error
        self._listener = threading.Thread(target=_listen, args=(process.stderr, self._tail), daemon=True)
        self._listener.start()
        return process

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, Any]:
        """`scores` (a row of numbers each) and `reasons` of RGB images, or an `error` of all. Raises `WorkerLost`."""
        places, size = [], 0
        for image in images:
            places.append((size, *image.size))
            size += 3 * image.width * image.height
        if size > self._size:
            os.ftruncate(self._memory, size)
            self._size = size
        with mmap.mmap(self._memory, size) as memory:
            for (start, width, height), image in zip(places, images, strict=True):
                memory[start : start + 3 * width * height] = image.tobytes()
        message = {"bytes": size, "images": places, "prompts": list(prompts)}
        return self._ask(message, float(os.environ.get(TIMEOUT) or TIMEOUT_S))

    def close(self) -> None:
        """End the process."""
        self._end()

    def _ask(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        content, deadline_s = json.dumps(message).encode(), time.monotonic() + seconds
        self._write(LENGTH.pack(len(content)) + content, deadline_s)
        (length,) = LENGTH.unpack(self._read(LENGTH.size, deadline_s))
        if length > MOST_ANSWER_BYTES:
            raise self._lost("answered with something else than scores", ended=False)
        try:
            return json.loads(self._read(length, deadline_s))
        except ValueError:
            raise self._lost("answered with something else than scores", ended=False) from None

    def _write(self, content: bytes, deadline_s: float) -> None:
        os.set_blocking(self._questions, False)
        while content:
            if not _is_ready(self._questions, select.POLLOUT, deadline_s):
                raise self._late()
            try:
                content = content[os.write(self._questions, content) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._lost("ended") from None

    def _skip_to_answers(self) -> None:
        """Pass over what an interpreter prints before it runs the script."""
        found, deadline_s = b"", time.monotonic() + TIMEOUT_S
        while not found.endswith(MAGIC):  # nothing follows it before something is asked
            found += self._some(PRINTED_BYTES, deadline_s)
            if len(found) > MOST_STRAY_BYTES:
                raise self._lost("printed a lot and ran nothing: it is no Python", ended=False)

    def _read(self, count: int, deadline_s: float) -> bytes:
        parts = b""
        while len(parts) < count:
            parts += self._some(count - len(parts), deadline_s)
        return parts

    def _some(self, most: int, deadline_s: float) -> bytes:
        if not _is_ready(self._answers, select.POLLIN, deadline_s):
            raise self._late()
        part = os.read(self._answers, most)
        if not part:
            raise self._lost("ended")
        return part

    def _late(self) -> WorkerLost:
        return self._lost(f"gave no answer in time ({TIMEOUT} sets the seconds)", ended=False)

    def _lost(self, what: str, *, ended: bool = True) -> WorkerLost:
        """The process is ended, and this says how it ended by itself, and what it printed last."""
        if ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._listener.join(1)
            code = self._process.poll()
            if code is not None and code < 0:
                what = f"was ended by signal {-code}" + (", as when memory runs out" if code == -9 else "")
            else:
                what = f"ended with exit code {code}"
        self.close()
        said = next((line.strip() for line in reversed(self._tail) if line.strip()), "")
        return WorkerLost(
            f"its worker {what}" + (f"; the last that it printed: {said[:300]}" if said else "")
        )


def _memory() -> int:
    """A file without a name, which both processes map."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("tgo-worker")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _visible(device: str) -> str:
    """The GPU that the process sees as its only one; none for the CPU."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return ""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[int(index or 0)].strip() if seen else index or "0"


def _listen(stream: Any, tail: collections.deque[str]) -> None:
    """Keep the last lines that a process printed, and let it print as much as it likes."""
    with contextlib.suppress(OSError, ValueError):  # closed when the process is ended
        while part := os.read(stream.fileno(), PRINTED_BYTES):
            tail.extend(part.decode(errors="replace").splitlines())


def _end(process: subprocess.Popen[bytes], memory: int) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    os.close(memory)


def _is_ready(pipe: int, event: int, deadline_s: float) -> bool:
    """Whether a pipe can be read or written, or is closed, before the deadline; `select` knows 1,024 files alone."""
    poll = select.poll()
    poll.register(pipe, event)
    return bool(poll.poll(1000 * max(0.0, deadline_s - time.monotonic())))
