"""Commands in forked children under limits of time, memory and file size, watched for what they write and start."""

from __future__ import annotations

import argparse
import faulthandler
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

SECOND = ("os.rename", "os.symlink", "os.link")
"""Calls whose second argument is what they make."""
HARMLESS = (
    "git",
    "uname",
    "lscpu",
    "nvidia-smi",
    "ldconfig",
    "/sbin/ldconfig",
    "gcc",
    "cc",
    "c++",
    "lsb_release",
    "id",
    "file",
)
"""Programs that libraries start by themselves."""


class Child:
    """Runs calls in forked children and judges how they end."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.events = args.work / "events.txt"
        self.output = args.work / "output.txt"
        self.events.write_bytes(b"")
        self.output.write_bytes(b"")
        status = Path("/proc/self/status").read_text()
        self.data = next(
            int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData")
        )

    def __call__(
        self, call: Callable[[], object], allowed: tuple[int, ...] = (0, 2), seconds: float | None = None
    ) -> tuple[str, str]:
        """(group, detail) of a finding, or two empty texts."""
        self.events.write_bytes(b"")
        self.output.write_bytes(b"")
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            self._run(call)
        end = time.monotonic() + (seconds or self.args.seconds)
        late = False
        while True:
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                late = True
                try:
                    os.killpg(pid, signal.SIGUSR1)  # asks for the stack
                    time.sleep(0.5)
                    os.killpg(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.003)
        code = os.waitstatus_to_exitcode(status)
        text = self.output.read_text(errors="replace")
        events = [line for line in self.events.read_text(errors="replace").splitlines() if line]
        if events:
            return f"event: {events[0][:100]}", "\n".join(events[:5])
        if late:
            return f"longer than {seconds or self.args.seconds:g} s", text[-1500:]
        if code < 0:
            return f"killed by signal {-code}", text[-800:]
        if "Traceback (most recent call last)" in text:
            return self._grouped(text), text[-1500:]
        if code not in allowed:
            return f"exit code {code}", text[-800:]
        grown = usage.ru_maxrss / 1024 - self.plain_mb
        if grown > self.args.megabytes:
            return f"memory {grown // 500 * 500:.0f} MB more than a plain run", text[-400:]
        message = text[text.rfind("tgo") :] if code == 2 else ""
        if len(message) > 6000:
            return "message of more than 6,000 letters", message[:300]
        if code == 2 and any(ord(c) < 32 and c not in "\n\t" for c in message):
            return "control characters in the message", repr(message[:300])
        return "", ""

    plain_mb = 0.0

    @staticmethod
    def _grouped(text: str) -> str:
        lines = [line for line in text.strip().splitlines() if line]
        last = next(
            (line for line in reversed(lines) if not line.startswith((" ", "\t")) and ":" in line), lines[-1]
        )
        frames = [
            line.strip()
            for line in lines
            if line.strip().startswith("File ")
            and any(part in line for part in ("tgo_pipeline/", "fine_tune/", "stages/"))
        ]
        place = frames[-1] if frames else ""
        place = place.rsplit("/", 1)[-1].replace('"', "")
        return f"traceback: {last.split(':')[0][:60]} at {place}"

    def _run(self, call: Callable[[], object]) -> None:
        try:
            os.setpgid(0, 0)
            out = os.open(self.output, os.O_WRONLY | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            faulthandler.register(signal.SIGUSR1, all_threads=True)
            os.chdir(self.folder)
            limit = self.data + (self.args.megabytes + 4000) * 2**20
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # not RLIMIT_AS: V8 reserves terabytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            self._guard()
            call()
            sys.stdout.flush()
            os._exit(0)
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        except BaseException:  # noqa: BLE001  # the child must not run on in the harness
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _guard(self) -> None:
        """Note files that are opened for writing outside, processes that are started, and code that tells of itself."""
        log = os.open(self.events, os.O_WRONLY | os.O_APPEND)
        inside = (
            str(self.folder),
            str(self.args.work),
            "/dev/",
            "/proc/self",
            "/tmp/tmp",
            "/var/tmp/dvc",
            "/var/lib/dvc",
            str(Path.home() / ".cache"),
            os.environ.get("TGO_CACHE", "/dev/"),
            "/tmp/torchinductor",
            str(Path.home() / ".config/dvc"),
            str(Path.home() / ".config/matplotlib"),
        )

        def hook(event: str, arguments: tuple) -> None:
            if event == "open":
                path, _, flags = arguments
                if (
                    isinstance(flags, int)
                    and flags & (os.O_WRONLY | os.O_RDWR)
                    and isinstance(path, (str, bytes, os.PathLike))
                ):
                    place = os.path.abspath(os.fsdecode(path))
                    if not place.startswith(inside) and "__pycache__" not in place:
                        os.write(log, f"writes {place}\n".encode(errors="replace"))
            elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
                command = arguments[0] if event != "subprocess.Popen" else (arguments[0], arguments[1])
                first = command[0] if isinstance(command, tuple) else command
                if isinstance(command, tuple) and isinstance(command[1], (list, tuple)) and command[1]:
                    first = command[1][0]
                if os.path.basename(os.fsdecode(first)) not in HARMLESS:
                    os.write(log, f"starts {command!r}\n".encode(errors="replace"))
            elif event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link"):
                place = os.path.abspath(os.fsdecode(arguments[1 if event in SECOND else 0]))
                if not place.startswith(inside) and "__pycache__" not in place:
                    os.write(log, f"{event} {place}\n".encode(errors="replace"))

        sys.addaudithook(hook)


class Copy:
    """A copy of the finished project that is brought back after every case."""

    def __init__(self, done: Path, folder: Path) -> None:
        self.done, self.folder = done, folder
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(done, folder, symlinks=True, ignore=shutil.ignore_patterns(".git", "cache"))
        (folder / ".git").mkdir()  # so that nobody looks further up
        self.pristine = {p.relative_to(folder): self._state(p) for p in self._files()}

    def _files(self) -> list[Path]:
        return [
            p
            for p in self.folder.rglob("*")
            if (p.is_file() or p.is_symlink()) and "__pycache__" not in p.parts
        ]

    @staticmethod
    def _state(path: Path) -> tuple:
        stat = path.lstat()
        return stat.st_size, stat.st_mtime_ns, stat.st_ino

    def restore(self) -> None:
        now = {p.relative_to(self.folder): p for p in self._files()}
        for name, path in now.items():
            if name not in self.pristine:
                path.unlink()
        for name, state in self.pristine.items():
            path = self.folder / name
            if name not in now or self._state(path) != state:
                if path.is_symlink() or path.exists():
                    path.unlink()
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.done / name, path)
                self.pristine[name] = self._state(path)


def tgo(*argv: str) -> Callable[[], None]:
    def call() -> None:
        from stages.cli import main

        sys.argv = ["tgo", *argv]
        main()

    return call


def plain(child: Child, call: Callable[[], object]) -> float:
    """Megabytes that a call takes at its peak."""
    pid = os.fork()
    if not pid:
        child._run(call)
    _, _, usage = os.wait4(pid, 0)
    return usage.ru_maxrss / 1024
