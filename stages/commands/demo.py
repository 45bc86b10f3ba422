"""`tgo demo`: the embedded small world."""

from __future__ import annotations

from pathlib import Path

import typer

from stages.ending import guarded

app = typer.Typer(no_args_is_help=True, help="The embedded small world.")


@app.command("train")
@guarded
def train_demo(
    output: Path = typer.Option(Path("demo-weights"), help="The folder for the new weights."),
    seed: int = typer.Option(0, help="The seed of everything."),
) -> None:
    """Train the small world's two base models and five reward models from nothing (an hour and a half on two cores)."""
    from tgo_pipeline.demo_training.train import train

    output.mkdir(parents=True, exist_ok=True)  # a folder that may not be written is said now, not in an hour
    train(output, seed=seed)
