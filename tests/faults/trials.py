"""Trials against an unbroken run: what it wrote, stage by stage, and a line of JSON for each trial."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from tests.faults import workspaces
from tests.faults.children import fork, wait, warm
from tests.faults.workspaces import STAGES

PATIENCE_S = 600


class Trials:
    """A work folder with the truth in it, and the counts of what was tried and what went wrong."""

    def __init__(self, work: Path, seed: int, minutes: float = 30, model: str = "demo") -> None:
        self.work, self.model = work.resolve(), model
        self.work.mkdir(parents=True, exist_ok=True)
        self.random = random.Random(seed)
        self.log = self.work / "children.log"
        self.log.touch()
        self.trials = self.kills = 0
        self.findings: list[dict] = []
        self.duration: dict[str, float] = {}
        warm()
        self._make_truth()
        self.end = time.monotonic() + 60 * minutes

    def _make_truth(self) -> None:
        """Run every stage unbroken, and once more: what differs then differs without any fault."""
        marker = self.work / "saved" / "complete.json"
        if not marker.is_file():
            folder = workspaces.make(self.work / "truth", self.model)
            workspaces.copy_outputs(folder, self.work / "saved" / "start")
            for stage in STAGES:
                began = time.monotonic()
                self.run_unbroken(folder, stage)
                self.duration[stage] = time.monotonic() - began
                workspaces.copy_outputs(folder, self.work / "saved" / stage)
            marker.write_text(json.dumps(self.duration))
        self.duration = json.loads(marker.read_text())
        self.after = {stage: workspaces.contents(self.work / "saved" / stage) for stage in STAGES}
        again = self.workspace("noise", "evaluate")
        self.run_unbroken(again, "report")
        self.noise = workspaces.differences(self.after["report"], workspaces.contents(again))

    def run_unbroken(self, folder: Path, stage: str) -> None:
        """Run a stage that must end well."""
        mark = self.mark()
        code = wait(fork(folder, ["run", stage], self.log), PATIENCE_S)
        if code != 0:
            raise RuntimeError(f"an unbroken run of {stage} ends with {code}: {self.said(mark)}")

    @property
    def over(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() > self.end

    def workspace(self, name: str, after: str = "start") -> Path:
        """A project in the state that it has after a stage of the unbroken run."""
        folder = self.work / name
        if not (folder / "params.yaml").is_file():
            workspaces.make(folder, self.model)
        (folder / "params.yaml").write_text(workspaces.params(self.model))
        workspaces.copy_outputs(self.work / "saved" / after, folder)
        return folder

    def before(self, stage: str) -> str:
        """What is done before a stage."""
        place = STAGES.index(stage)
        return STAGES[place - 1] if place else "start"

    def mark(self) -> int:
        """Where the log ends now."""
        return self.log.stat().st_size

    def said(self, mark: int) -> str:
        """What children have said since."""
        return self.log.read_bytes()[mark:].decode(errors="replace")[-1500:]

    def check(self, folder: Path, stage: str) -> list[str]:
        """What differs from the unbroken run after that stage."""
        found = workspaces.differences(self.after[stage], workspaces.contents(folder))
        return [line for line in found if line not in self.noise]

    def finish(self, folder: Path, stage: str) -> list[str]:
        """Run a stage to its end; what is wrong then."""
        code = wait(fork(folder, ["run", stage], self.log), PATIENCE_S)
        odd = [] if code == 0 else [f"the finishing run ends with {code}"]
        return [*odd, *self.check(folder, stage)]

    def report(self, wrong: list[str], mark: int, **about: object) -> None:
        """Count a trial and print its line."""
        self.trials += 1
        line = {"trial": self.trials, **about, "wrong": wrong}
        if wrong:
            line["said"] = self.said(mark)
            self.findings.append(line)
        print(json.dumps(line), flush=True)

    def summary(self) -> int:
        """Print the counts; the exit code of the harness."""
        print(json.dumps({"trials": self.trials, "kills": self.kills, "findings": len(self.findings)}))
        return int(bool(self.findings))


def judged(code: int | None, said: str, allowed: tuple[int | None, ...]) -> list[str]:
    """What is wrong with how a disturbed run ended."""
    odd = [] if code in allowed else [f"exit code {code}"]
    return [*odd, "a traceback"] if "Traceback" in said else odd
