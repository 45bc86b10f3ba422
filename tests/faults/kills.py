"""Kill a small run again and again, finish it, and compare every output with an unbroken run, bit for bit.

    python -m tests.faults.kills --seed 7 --kills 300 [--work FOLDER] [--modes fork,points,cli,dvc,score,parent,worker]
        [--model demo-masked|demo-video]

  fork    a child of this warm process runs one stage and is killed at a random moment
  points  it is killed just before the k-th rename, removal, new folder or opening-for-writing, the file torn or not
  cli     `tgo run STAGE` in processes of their own
  dvc     `dvc repro` in processes of their own
  score   `tgo score` of images
  parent  runtime.processes 2: only the parent is killed, its workers live on while the next run starts
  worker  runtime.processes 2: one worker is killed, and the parent must end

Signals are SIGKILL mostly, else SIGTERM, SIGINT, SIGSTOP followed by SIGKILL, SIGTERM twice. Prints a line of JSON for
each trial. Exit code 1 if anything differs, hangs, or ends in another way than it may.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults.children import crash_at, fork, send, spawn, tgo, wait, wait_group
from tests.faults.images import write_images
from tests.faults.trials import PATIENCE_S, Trials, judged
from tests.faults.workspaces import STAGES, set_processes
from tests.rewriting import shown

MODES = ("fork", "points", "cli", "dvc", "score", "parent", "worker")
SIGNALS = ("kill",) * 6 + ("term", "int", "stopkill", "term2")
ENDS = {
    "kill": (-9, 0),
    "stopkill": (-9, 0),
    "term": (130, 0, -15),
    "int": (130, 0, -2),
    "term2": (130, 0, -15),
}
"""How a run may end after a signal: it may have been at its end."""
SCORE = ("score", "images", "--rewards", "clip=demo,aesthetic=demo", "--device", "cpu", "--out", "s.parquet")
DVC_LOCK = ".dvc/tmp/rwlock"
"""What DVC writes about running stages, in place: a kill may leave it torn (docs/RELIABILITY.md)."""
SCORED = (0, 3)
"""`tgo score` ends with 3 since one of the images is broken."""


def _is_torn(lock: Path) -> bool:
    try:
        json.loads(lock.read_text() if lock.is_file() else "{}")
    except ValueError:
        return True
    return False


class Kills(Trials):
    """Trials by mode; each counts its effective kills."""

    def _hit(self, pid: int, delay_s: float, kind: str, wrong: list[str], ends: tuple[int, ...] = ()) -> list:
        """Send a signal after a while; how the process ended. It may have ended before."""
        code = wait(pid, delay_s)
        if code is None:
            send(pid, kind)
            code = wait(pid, 90)
            self.kills += 1
            if code is None:
                wrong.append(f"{kind}: still runs after 90 s")
                send(pid, "kill")
                wait(pid, 10)
            elif code not in (ends or ENDS[kind]):
                wrong.append(f"{kind} after {delay_s:.2f} s: exit code {code}")
        elif code not in (0, *SCORED):
            wrong.append(f"an undisturbed run ends with {code}")
        wait_group(pid)
        return [kind, round(delay_s, 2), code]

    def fork(self) -> None:
        stage = self.random.choice([name for name in STAGES for _ in range(1 + int(self.duration[name]))])
        folder, mark, wrong = self.workspace("fork", self.before(stage)), self.mark(), []
        hits = [
            self._hit(
                fork(folder, ["run", stage], self.log),
                self.random.uniform(0, self.duration[stage] * 1.05),
                self.random.choice(SIGNALS),
                wrong,
            )
            for _ in range(self.random.randint(1, 6))
        ]
        wrong += self._no_traceback(mark) + self.finish(folder, stage)
        self.report(wrong, mark, mode="fork", stage=stage, hits=hits)

    def points(self) -> None:
        stage = self.random.choice(STAGES)
        folder, mark, wrong = self.workspace("points", self.before(stage)), self.mark(), []
        counted = self.work / "points.txt"
        wait(fork(folder, ["run", stage], self.log, crash_at(folder, None, counted)), PATIENCE_S)
        lines = counted.read_text().splitlines()
        place = self.random.randint(1, len(lines))
        torn = " open " in lines[place - 1] and self.random.random() < 0.5
        folder = self.workspace("points", self.before(stage))
        code = wait(
            fork(folder, ["run", stage], self.log, crash_at(folder, place, counted, torn=torn)), PATIENCE_S
        )
        if code != -9:
            wrong.append(f"the point was not reached: {code}")
        self.kills += code == -9
        wrong += self.finish(folder, stage)
        self.report(wrong, mark, mode="points", stage=stage, point=lines[place - 1], torn=torn)

    def cli(self) -> None:
        stage = self.random.choice(STAGES)
        folder, mark, wrong, hits = self.workspace("cli", self.before(stage)), self.mark(), [], []
        for _ in range(self.random.randint(1, 2)):
            delay_s = self.random.uniform(0.1, self.duration[stage] + 6)
            kind = self.random.choice(SIGNALS)
            hits.append(self._hit(spawn(folder, tgo("run", stage), self.log), delay_s, kind, wrong))
        wrong += self._no_traceback(mark) + self.finish(folder, stage)
        self.report(wrong, mark, mode="cli", stage=stage, hits=hits)

    def dvc(self) -> None:
        folder, mark, wrong, hits = self.workspace("dvc"), self.mark(), [], []
        shutil.rmtree(folder / ".dvc/cache", ignore_errors=True)
        (folder / "dvc.lock").unlink(missing_ok=True)
        command = [sys.executable, "-m", "dvc", "repro"]
        whole_s = sum(self.duration.values()) + 9 * len(STAGES)
        for _ in range(self.random.randint(2, 4)):
            kind, delay_s = self.random.choice(SIGNALS), self.random.uniform(2, whole_s / 2)
            ends = (*ENDS[kind], 1, 255, 241, 254)  # DVC's own, for a stage that was interrupted
            hits.append(self._hit(spawn(folder, command, self.log), delay_s, kind, wrong, ends))
        torn = _is_torn(folder / DVC_LOCK)
        if torn:  # DVC was killed while it wrote it, and asks for this itself
            (folder / DVC_LOCK).unlink()
        code = wait(spawn(folder, command, self.log), 2 * PATIENCE_S)
        wrong += [] if code == 0 else [f"the finishing run ends with {code}"]
        self.report([*wrong, *self.check(folder, "report")], mark, mode="dvc", hits=hits, dvc_lock_torn=torn)

    def score(self) -> None:
        true, folder = self.work / "score-truth", self.work / "score"
        if not (true / "s.parquet").is_file():
            write_images(true / "images")
            wait(fork(true, SCORE, self.log), PATIENCE_S)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(true / "images", folder / "images")
        mark, wrong, hits = self.mark(), [], []
        for _ in range(self.random.randint(1, 4)):
            kind, delay_s = self.random.choice(SIGNALS), self.random.uniform(0, 5)
            ends = (*ENDS[kind], *SCORED)
            hits.append(self._hit(fork(folder, SCORE, self.log), delay_s, kind, wrong, ends))
        code = wait(fork(folder, SCORE, self.log), PATIENCE_S)
        wrong += [] if code in SCORED else [f"the finishing call ends with {code}"]
        left = shown(folder)
        wrong += [] if left == ["images", "s.parquet"] else [f"left: {left}"]
        made, wanted = folder / "s.parquet", true / "s.parquet"
        if not made.is_file() or made.read_bytes() != wanted.read_bytes():
            wrong.append("differs s.parquet")
        self.report(wrong + self._no_traceback(mark), mark, mode="score", hits=hits)

    def parent(self) -> None:
        stage = self.random.choice(["generate", "score"])
        folder, mark, wrong = self.workspace("parent", self.before(stage)), self.mark(), []
        set_processes(folder, 2)
        pid, delay_s = spawn(folder, tgo("run", stage), self.log), self.random.uniform(4, 15)
        code = wait(pid, delay_s)
        if code is None:
            send(pid, self.random.choice(["kill", "term"]), group=False)
            code = wait(pid, 90)
            self.kills += 1
        wrong += self.finish(folder, stage)
        wait_group(pid)
        self.report(
            [*wrong, *self.check(folder, stage)], mark, mode="parent", stage=stage, hits=[delay_s, code]
        )

    def worker(self) -> None:
        stage = self.random.choice(["generate", "score"])
        folder, mark, wrong = self.workspace("worker", self.before(stage)), self.mark(), []
        set_processes(folder, 2)
        pid, delay_s = spawn(folder, tgo("run", stage), self.log), self.random.uniform(3, 12)
        code = wait(pid, delay_s)
        if code is None:
            killed = self._kill_a_worker(pid)
            code = wait(pid, 120)
            if code is None:
                wrong.append("hangs 120 s after a worker was killed")
                send(pid, "kill")
                wait(pid, 10)
            elif killed:
                wrong += judged(code, "", (0, 2))
        wait_group(pid)
        self.report(
            [*wrong, *self.finish(folder, stage)], mark, mode="worker", stage=stage, hits=[delay_s, code]
        )

    def _kill_a_worker(self, pid: int) -> bool:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        workers = [one for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]
        if workers:
            os.kill(int(self.random.choice(workers)), signal.SIGKILL)
            self.kills += 1
        return bool(workers)

    def _no_traceback(self, mark: int) -> list[str]:
        return ["a traceback"] if "Traceback" in self.said(mark) else []


def main(arguments: list[str] | None = None) -> int:
    """Run trials until there are enough kills, or the time is over; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, help="the folder of projects and of the truth (default: a temporary one)"
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--modes", default="fork,points,cli,score,parent,worker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--model", default="demo", help="what the project tunes: demo, demo-masked, demo-video"
    )
    parser.add_argument("--stop", action="store_true", help="end with the first finding")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        trials = Kills(options.work or Path(temporary), options.seed, options.minutes, options.model)
        modes = options.modes.split(",")
        while trials.kills < options.kills and not trials.over and not (options.stop and trials.findings):
            getattr(trials, trials.random.choice(modes))()
        return trials.summary()


if __name__ == "__main__":
    sys.exit(main())
