"""`tgo run`: one stage."""

from __future__ import annotations

from pathlib import Path

import typer

from stages import ALLOW_STALE, PARAMS, PIPELINE, STAGES, run_stage
from tgo_pipeline.errors import TgoError


def run(
    stage: str = typer.Argument(help=f"One of {', '.join(STAGES)}."),
    params: Path = PARAMS,
    allow_stale: bool = ALLOW_STALE,
) -> None:
    """Run one stage: the same work as `dvc repro -s STAGE` and `python -m stages.STAGE`."""
    if stage not in PIPELINE:
        raise TgoError(f"{stage!r} is not a stage: it must be one of {', '.join(STAGES)}.")
    run_stage(stage, params, allow_stale=allow_stale)
