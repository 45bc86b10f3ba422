"""Processes that a harness starts, watches and kills: forked from a warm one, or commands of their own."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.project import ROOT, environment

WARM = (
    "torch",
    "diffusers",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "transformers",
    "polars",
    "pyarrow.parquet",
    "dvclive",
    "PIL.Image",
    "rich.table",
    "stages.cli",
    "tgo_pipeline.generators.pipelines",
    "tgo_pipeline.rewards.engine.scorer",
    "tgo_pipeline.evaluation.stage",
    "tgo_pipeline.thresholds.stage",
    "tgo_pipeline.report.build",
    "fine_tune.stage",
)
"""What stages import. None of it starts a thread, which a fork would lose."""
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "shutil.move")
TRACEBACK = 70
"""The exit code of a forked child that ends with an exception."""


def warm() -> None:
    """Import once what every child needs."""
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "agg",
        "DVC_NO_ANALYTICS": "1",
    }
    for name in WARM:
        importlib.import_module(name)


def fork(folder: Path, argv: Sequence[str], log: Path, before: Callable[[], object] | None = None) -> int:
    """Run `tgo ARGV` in a forked child that leads a process group of its own; `before` runs in it first."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    code = TRACEBACK
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if before is not None:
            before()
        sys.argv = ["tgo", *argv]
        from stages.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  # the child must not run on in the harness
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)


def spawn(folder: Path, command: Sequence[str], log: Path) -> int:
    """Run a command as a user does, in a session of its own."""
    variables = {**environment(), "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=stream, stderr=stream, start_new_session=True
        )
    return process.pid


def tgo(*words: str) -> list[str]:
    """The command line of `tgo WORDS`."""
    return [sys.executable, "-m", "stages.cli", *words]


def wait(pid: int, timeout_s: float) -> int | None:
    """The exit code (negative for a signal); None if the process still runs after that long."""
    end = time.monotonic() + timeout_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def send(pid: int, kind: str, *, group: bool = True) -> None:
    """One of `kill`, `term`, `int`, `stopkill` (stopped, then killed) and `term2` (twice)."""

    def to(number: int) -> None:
        (os.killpg if group else os.kill)(pid, number)

    with contextlib.suppress(ProcessLookupError):
        if kind == "stopkill":
            to(signal.SIGSTOP)
            time.sleep(0.3)
            to(signal.SIGKILL)
        elif kind == "term2":
            to(signal.SIGTERM)
            time.sleep(random.uniform(0, 0.3))
            to(signal.SIGTERM)
        else:
            to({"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[kind])


def wait_group(pid: int) -> None:
    """Until nothing of a process group is left: workers outlive a killed parent for a moment."""
    for _ in range(6000):
        try:
            os.killpg(pid, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.01)


def crash_at(folder: Path, place: int | None, counted: Path, *, torn: bool = False) -> Callable[[], None]:
    """For `fork`: note every change below `folder` in `counted`, and die by SIGKILL just before number `place`.

    `torn`: the file that was about to be opened for writing is there already, and empty.
    """

    def watch() -> None:
        root, state = str(folder), {"number": 0, "busy": False}
        notes = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def hook(event: str, arguments: tuple) -> None:
            path = None if state["busy"] else _changed(event, arguments)
            if path is None or not path.startswith(root) or "__pycache__" in path:
                return
            state["busy"] = True
            state["number"] += 1
            os.write(notes, f"{state['number']} {event} {os.path.relpath(path, root)}\n".encode())
            if state["number"] == place:
                if torn and event == "open" and "w" in str(arguments[1]):
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
                os.kill(os.getpid(), signal.SIGKILL)
            state["busy"] = False

        sys.addaudithook(hook)

    return watch


def _changed(event: str, arguments: tuple) -> str | None:
    """The path that an event of the interpreter is about to change."""
    if event == "open":
        flags = arguments[2]
        if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return None
    elif event not in CHANGES:
        return None
    return os.path.abspath(os.fspath(arguments[0])) if isinstance(arguments[0], str | os.PathLike) else None
