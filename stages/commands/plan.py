"""`tgo plan`: what a run will take, before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path

import typer

PARAMS = typer.Option(Path("params.yaml"), "--params", help="The parameter file.")


def plan(
    params: Path = PARAMS,
    gpu: str = typer.Option(
        None,
        metavar="NAME",
        help="B200, H200, H100, A100-80, L40S, RTX4090, ..., or cpu; none: what is here.",
    ),
    gpus: int = typer.Option(1, min=1, metavar="N", help="How many of them."),
    prompts: int = typer.Option(
        None, min=1, metavar="N", help="Training prompts to reckon with, if not those there are."
    ),
    test_prompts: int = typer.Option(None, min=1, metavar="N", help="Test prompts to reckon with, likewise."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Say what a run will take before anything is spent: images, files, disk, operations, memory, hours."""
    from stages.estimate import make
    from tgo_pipeline.params import load_params
    from tgo_pipeline.planning import plan as planned
    from tgo_pipeline.planning.gpus import device
    from tgo_pipeline.rendering.terminal import show

    made = make(load_params(params), device(gpu), gpus, prompts, test_prompts)
    if as_json:
        typer.echo(json.dumps(made.as_json(), indent=2))
    else:
        show(planned.show(made), planned.WIDE)


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(plan)
