"""All checks, in the order in which they are shown."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tgo_pipeline.doctor.findings import Finding, attempt
from tgo_pipeline.doctor.request import Needs, Request
from tgo_pipeline.params import Params
from tgo_pipeline.plugins.folder import looking

GROUPS = {
    "parameters": "parameters",
    "device": "device",
    "memory and disk": "resources",
    "files": "files",
    "model hub": "hub.checks",
    "versions": "versions",
    "project": "project",
    "optional": "optional",
}
"""Heading of each group, and the module whose `checks(case)` yields subjects with their checks."""
Check = tuple[str, Callable[[], Iterable[Finding]]]


@dataclass(frozen=True)
class FindingGroup:
    """The findings under one heading."""

    title: str
    findings: list[Finding]


def examine(path: Path, plan: Callable[[Params], Needs] | None = None) -> list[FindingGroup]:
    """Make every check of the parameter file `path` in the working folder; groups without a finding are left out.

    `plan` computes what the run takes, for memory and disk to be compared with; by default lower bounds are.
    """
    case = Request.of(path, plan)
    with looking():
        groups = [FindingGroup(title, _findings(title, module, case)) for title, module in GROUPS.items()]
    return [group for group in groups if group.findings]


def _findings(title: str, module: str, case: Request) -> list[Finding]:
    found: list[Finding] = []

    def run() -> Iterable[Finding]:
        checks: Iterable[Check] = importlib.import_module(f"tgo_pipeline.doctor.{module}").checks(case)
        for subject, check in checks:
            found.extend(attempt(subject, check))
        return ()

    broken = attempt(title, run)
    return found + broken
