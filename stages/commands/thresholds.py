"""`tgo thresholds`: the statistics of the thresholds, and whether one is enough."""

from __future__ import annotations

from pathlib import Path

import typer

from tgo_pipeline.storage.workspace import HERE


def thresholds(
    path: Path = typer.Argument(HERE.thresholds, help="The thresholds table."),
    explain: bool = typer.Option(False, "--explain", help="Say whether one threshold is enough, and why."),
    reward: str = typer.Option(
        None, metavar="NAME", help="With --explain: the reward to explain, if not the target."
    ),
) -> None:
    """Print the threshold statistics of every reward."""
    from tgo_pipeline.rendering.terminal import show

    if explain or reward is not None:
        from tgo_pipeline.thresholds.adequacy.view import show as report

        show(report(path.with_name(HERE.adequacy.name), reward), width=100)
        return
    from tgo_pipeline.thresholds.view import show as statistics

    show(statistics(path))
