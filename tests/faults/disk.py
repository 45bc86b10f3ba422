"""Two runs at once, full disks, files that may not grow, folders that may not be written, no locks, clocks that jump.

    python -m tests.faults.disk --seed 7 --trials 5 [--work FOLDER] [--parts same,full,limit,readonly,owner,locks,clock]

  same      two or three runs of one stage at once: one may refuse, none may break
  full      a file system with too little room at a random point (needs the right to mount)
  limit     a limit on the size of files, as a quota has it
  readonly  a file system that becomes read-only before or during a stage (needs the right to mount)
  owner     folders that may be read and not written
  locks     a file system without locks, or one whose locks fail
  clock     a clock that jumps, and files of the future

Every disturbed run must end with 0, 2 and one line, or 130; then the stage is finished and must write what the
unbroken run wrote. Prints a line of JSON for each trial. Exit code 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults import workspaces
from tests.faults.children import fork, wait
from tests.faults.rights import drop_capabilities, read_only
from tests.faults.trials import PATIENCE_S, Trials, judged
from tests.faults.workspaces import STAGES

PARTS = ("same", "full", "limit", "readonly", "owner", "locks", "clock")
ENDS = (0, 2, 130)
SIZE = "400m"
"""Of the file system that becomes full."""
LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO)


class Disk(Trials):
    """Trials by part; the number of a trial chooses the stage."""

    skipped: dict[str, str]

    def disturbed(
        self, folder: Path, stage: str, part: str, before: Callable[[], object], mark: int
    ) -> tuple[int | None, list[str]]:
        """Run a stage after `before()`; its exit code and what is wrong with its end."""
        code = wait(fork(folder, ["run", stage], self.log, before), PATIENCE_S)
        wrong = judged(code, self.said(mark), ENDS)
        left = [str(path.relative_to(folder)) for path in folder.rglob(".tmp-*")]
        return code, [*wrong, *([f"left: {left[:4]}"] if left and part in ("full", "limit") else [])]

    def finished(self, folder: Path, stage: str, wrong: list[str], mark: int, **about: object) -> None:
        """Finish the stage undisturbed, and report."""
        self.report([*wrong, *self.finish(folder, stage)], mark, stage=stage, **about)

    def same(self, number: int) -> None:
        stage = STAGES[number % len(STAGES)]
        folder, mark, pids = self.workspace("same", self.before(stage)), self.mark(), []
        for _ in range(self.random.choice([2, 2, 3])):
            pids.append(fork(folder, ["run", stage], self.log))
            time.sleep(self.random.choice([0, 0, self.random.uniform(0, self.duration[stage])]))
        codes = [wait(pid, PATIENCE_S) for pid in pids]
        wrong = [line for code in codes for line in judged(code, self.said(mark), ENDS)]
        wrong += [] if 0 in codes else [f"none ended well: {codes}"]
        self.finished(folder, stage, wrong, mark, part="same", codes=codes)

    def full(self, number: int) -> None:
        stage = STAGES[number % len(STAGES)]
        with self._mounted() as folder:
            workspaces.copy_outputs(self.work / "saved" / self.before(stage), folder)
            before, after = (_size(self.work / "saved" / name) for name in (self.before(stage), stage))
            free = int(
                self.random.uniform(0, max(200_000, (after - before) * (3 if stage == "fine_tune" else 1.1)))
            )
            ballast, mark = folder.parent / "ballast", self.mark()
            with ballast.open("wb") as stream:
                room = os.statvfs(folder)
                os.posix_fallocate(stream.fileno(), 0, max(4096, room.f_bavail * room.f_frsize - free))
            code, wrong = self.disturbed(folder, stage, "full", lambda: None, mark)
            if code == 2 and "disk is full" not in self.said(mark):
                wrong.append("ends with 2, and no word of the disk")
            ballast.unlink()
            self.finished(folder, stage, wrong, mark, part="full", free=free, code=code)

    def limit(self, number: int) -> None:
        stage = STAGES[number % len(STAGES)]
        folder, mark, size = (
            self.workspace("limit", self.before(stage)),
            self.mark(),
            int(10 ** self.random.uniform(2, 6.5)),
        )

        def lower() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        # What is said goes into the log, which must stay below the limit.
        self.log.write_bytes(b"")
        mark = self.mark()
        code, wrong = self.disturbed(folder, stage, "limit", lower, mark)
        self.finished(folder, stage, wrong, mark, part="limit", size=size, code=code)

    def readonly(self, number: int) -> None:
        stage, later = STAGES[number % len(STAGES)], self.random.random() < 0.5
        with self._mounted() as folder:
            workspaces.copy_outputs(self.work / "saved" / self.before(stage), folder)
            mark, mount = self.mark(), ["mount", "-o", "remount,ro", str(folder.parent)]
            if not later:
                subprocess.run(mount, check=True)
            pid = fork(folder, ["run", stage], self.log)
            if later:
                time.sleep(self.random.uniform(0, self.duration[stage]))
                subprocess.run(
                    mount, capture_output=True, check=False
                )  # busy while a file is open: then not at all
            code = wait(pid, PATIENCE_S)
            subprocess.run(["mount", "-o", "remount,rw", str(folder.parent)], check=True)
            self.finished(
                folder,
                stage,
                judged(code, self.said(mark), ENDS),
                mark,
                part="readonly",
                during=later,
                code=code,
            )

    def owner(self, number: int) -> None:
        stage = STAGES[number % len(STAGES)]
        folder, mark = self.workspace("owner", self.before(stage)), self.mark()
        with read_only(folder):
            code, wrong = self.disturbed(folder, stage, "owner", drop_capabilities, mark)
        if code == 0:
            wrong.append("ends with 0, although nothing could be written")
        self.finished(folder, stage, wrong, mark, part="owner", code=code)

    def locks(self, number: int) -> None:
        fails = LOCKS[number % len(LOCKS)]
        stage = ("generate", "score", "fine_tune", "label")[number % 4]
        folder, mark = self.workspace("locks", self.before(stage)), self.mark()

        def without() -> None:
            def flock(*_: object) -> None:
                raise OSError(fails, os.strerror(fails))

            fcntl.flock = flock  # type: ignore[assignment]

        code, wrong = self.disturbed(folder, stage, "locks", without, mark)
        if "another run" in self.said(mark):
            wrong.append("the message blames another run")
        self.finished(folder, stage, wrong, mark, part="locks", error=errno.errorcode[fails], code=code)

    def clock(self, number: int) -> None:
        stage = STAGES[number % len(STAGES)]
        folder, mark = self.workspace("clock", self.before(stage)), self.mark()
        for path in (folder / "data").rglob("*"):
            moment = self.random.choice([0, 10**9, 4 * 10**9])
            os.utime(path, (moment, moment))

        def jump() -> None:
            real, state = time.time, random.Random(number)
            time.time = lambda: real() + state.choice([0, -86_400, 86_400 * 365, -(10**9)])

        code, wrong = self.disturbed(folder, stage, "clock", jump, mark)
        self.finished(folder, stage, [*wrong, *judged(code, "", (0,))], mark, part="clock", code=code)

    @contextlib.contextmanager
    def _mounted(self) -> Iterator[Path]:
        """A project on a small file system of its own. Raises `PermissionError` where nothing can be mounted."""
        place = self.work / "mounted"
        place.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            raise PermissionError("this process may not mount a file system")
        try:
            yield workspaces.make(place / "project")
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False)

    def try_all(self, parts: list[str], trials: int) -> int:
        """Every part so many times; the exit code. A part that this process may not try is skipped with its reason."""
        self.skipped = {}
        for part in parts:
            for number in range(trials):
                if self.over or part in self.skipped:
                    break
                try:
                    getattr(self, part)(number + self.random.randrange(len(STAGES)))
                except PermissionError as error:
                    self.skipped[part] = str(error)
                    print(f"{part} is skipped: {error}")
        return self.summary()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(arguments: list[str] | None = None) -> int:
    """Try every part; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, help="the folder of projects and of the truth (default: a temporary one)"
    )
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--trials", type=int, default=8, help="of each part")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        trials = Disk(options.work or Path(temporary), options.seed, options.minutes)
        return trials.try_all(options.parts.split(","), options.trials)


if __name__ == "__main__":
    sys.exit(main())
