"""`tgo sweep`: guide models/tuned, or what generate.guidance names, with several strengths. No DVC stage."""

from __future__ import annotations

from pathlib import Path

import typer

from stages import PARAMS, run_command
from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.workspace import HERE


def sweep(
    strengths: str = typer.Option("0,0.5,1,2,4", metavar="LIST", help="Strengths of guidance, with commas."),
    images_per_prompt: int = typer.Option(4, min=2, metavar="N", help="Images of each test prompt."),
    params: Path = PARAMS,
) -> None:
    """Draw the test prompts with preference guidance of several strengths: rewards, diversity and their plots."""
    from tgo_pipeline.evaluation.sweep.sweep import sweep
    from tgo_pipeline.evaluation.sweep.view import WIDE
    from tgo_pipeline.evaluation.sweep.view import show as view
    from tgo_pipeline.params import load_params
    from tgo_pipeline.rendering.terminal import show

    def work() -> None:
        sweep(load_params(params), HERE, _numbers(strengths), images_per_prompt=images_per_prompt)

    run_command("sweep", work)
    show(view(HERE.sweep, load_params(params).shown_names), WIDE)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise TgoError(
            f"strengths is {text!r}: it must be numbers with commas between them ({error})."
        ) from error
