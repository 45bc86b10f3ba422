"""`tgo run`: one stage, some in a row, or all that are not up to date."""

from __future__ import annotations

from pathlib import Path

import typer

from stages import ALLOW_STALE, PARAMS, PIPELINE, STAGES, run_stage
from tgo_pipeline.errors import TgoError

ALL, TO = "all", ".."


def run(
    stage: str = typer.Argument(
        help=f"One of {', '.join(STAGES)}; FIRST..LAST for some in a row; all.",
    ),
    params: Path = PARAMS,
    given: list[str] = typer.Option(
        [], "--set", metavar="KEY=VALUE", help="A value in place of the parameter file's, such as label.c=1."
    ),
    allow_stale: bool = ALLOW_STALE,
) -> None:
    """Run one stage: the same work as `dvc repro -s STAGE` and `python -m stages.STAGE`; or all, without DVC or git.

    Of several, those that are up to date are left out.
    """
    if stage == ALL or TO in stage:
        from stages.in_order import run_in_order

        run_in_order(_between(stage), params, allow_stale=allow_stale, given=given)
        return
    if stage not in PIPELINE:
        raise TgoError(f"{stage!r} is not a stage: it must be one of {', '.join((*STAGES, ALL))}.")
    run_stage(stage, params, allow_stale=allow_stale, given=given)


def _between(text: str) -> tuple[str, ...]:
    """The stages of `all`, `score..label`, `score..` or `..label`."""
    first, _, last = ("", TO, "") if text == ALL else text.partition(TO)
    for name in (first, last):
        if name and name not in STAGES:
            raise TgoError(f"{text}: {name!r} is not a stage: the order is {', '.join(STAGES)}.")
    begin = STAGES.index(first) if first else 0
    end = STAGES.index(last) if last else len(STAGES) - 1
    if begin > end:
        raise TgoError(f"{text}: {last} comes before {first}: the order is {', '.join(STAGES)}.")
    return STAGES[begin : end + 1]
