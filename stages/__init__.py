"""One file per DVC stage: `python -m stages.score`, `tgo run score` and `dvc repro -s score` do the same work."""

from __future__ import annotations

from stages.begin import INTERRUPTED, UNSCORED, USER_ERROR  # isort: split

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from stages.ending import ending
from stages.upstream import ALLOW, PIPELINE, STAGES, require_current
from tgo_pipeline.executors.progress import configure_logging
from tgo_pipeline.params import load_params, overrides
from tgo_pipeline.params.recipes import require_filled
from tgo_pipeline.storage.stores.syncing import attach
from tgo_pipeline.storage.workspace import HERE

__all__ = [
    "ALLOW_STALE",
    "INTERRUPTED",
    "PARAMS",
    "PIPELINE",
    "STAGES",
    "UNSCORED",
    "USER_ERROR",
    "Inputs",
    "main",
    "run_command",
    "run_stage",
]

Inputs = dict[str, dict[str, Any]]
"""Of one stage: the versions of its code by name, and what the files hold that the parameters name, by key."""
PARAMS = typer.Option(HERE.params, "--params", help="The parameter file.")
"""The option of every command that reads it."""
ALLOW_STALE = typer.Option(
    False, "--allow-stale", help="Build on results of earlier stages that are not up to date."
)
"""The option of every command that runs a stage."""


def run_stage(name: str, params: Path, *, allow_stale: bool = False, given: Sequence[str] = ()) -> None:
    """Run one stage on a parameter file; ends the process with 2 for an error of the input, 130 after a signal.

    `given` are values such as `label.c=1` in place of those of the file. It does not build on stale results of earlier
    stages, unless `allow_stale` or the environment says so.
    """
    if allow_stale:
        os.environ[ALLOW] = "1"

    def work() -> None:
        loaded = load_params(params, given)
        attach(HERE.data, loaded.runtime.data)
        if name in STAGES:
            require_filled(loaded, [name])
            # an error in code of one's own is said before hours are spent on what comes first
            loaded.fine_tune.load_parts()
            require_current(name, loaded)
            overrides.note(name, given)
        importlib.import_module(f"stages.{name}").run(loaded)

    run_command(name, work)


def run_command(name: str, work: Callable[[], None]) -> None:
    """Do the work of `tgo <name>`; ends the process with 2 for an error of the input, 130 after a signal."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with ending(f"tgo {name}"):
        configure_logging()
        work()


def main(name: str) -> None:
    """The command line of `python -m stages.<name>`."""

    def command(params: Path = PARAMS, allow_stale: bool = ALLOW_STALE) -> None:
        run_stage(name, params, allow_stale=allow_stale)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=sys.modules["__main__"].__doc__)(command)
    app()
