"""What to train with: `tgo presets`, published values, and `tgo levels`, the noise levels that carry signal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stages import ALLOW_STALE, PARAMS, run_command
from stages.upstream import ALLOW, require_current
from tgo_pipeline.params import load_params
from tgo_pipeline.storage.workspace import HERE

if TYPE_CHECKING:
    from fine_tune.noise_levels.table import Levels


def presets() -> None:
    """Print the published values of every objective by model, and the paper or code that each is from."""
    from tgo_pipeline.params.presets import table
    from tgo_pipeline.plugins.folder import looking
    from tgo_pipeline.rendering.terminal import show

    with looking():
        shown = table()
    show(shown)


def levels(
    batches: int = typer.Option(
        None,
        min=8,
        metavar="N",
        help="Batches to measure in every range of levels; by default as many as auto does.",
    ),
    params: Path = PARAMS,
    allow_stale: bool = ALLOW_STALE,
) -> None:
    """Measure at which noise levels the gradient of the first update carries signal, and suggest a range to train on.

    Writes data/noise_levels.parquet, which `fine_tune.noise_levels: auto` uses, and a chart in plots/noise_levels.
    """
    if allow_stale:
        os.environ[ALLOW] = "1"
    found: list[Levels] = []
    updates = 0

    def work() -> None:
        nonlocal updates
        loaded = load_params(params)
        updates = loaded.fine_tune.steps
        loaded.fine_tune.load_parts()
        require_current("fine_tune", loaded)
        from fine_tune.levels import measure_levels
        from fine_tune.noise_levels.view import write_plots

        found.extend(measure_levels(loaded, HERE, batches))
        write_plots(found, updates, HERE.plots / HERE.noise_levels.stem)

    run_command("levels", work)
    from fine_tune.noise_levels.view import WIDE
    from fine_tune.noise_levels.view import show as view
    from tgo_pipeline.rendering.terminal import show

    for each in found:
        show(view(each, updates), WIDE)
