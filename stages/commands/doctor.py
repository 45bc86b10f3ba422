"""`tgo doctor`: what would keep a run from working here, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stages import PARAMS, USER_ERROR

if TYPE_CHECKING:
    from tgo_pipeline.doctor.request import Needs
    from tgo_pipeline.params import Params


def doctor(
    params: Path = PARAMS,
    plan: bool = typer.Option(
        False, "--plan", help="Compare memory and disk with what `tgo plan` computes; takes longer."
    ),
) -> None:
    """Check device, memory, disk, files, hub, versions and project before a run, and say what to do.

    Nothing is changed, and nothing downloaded (with --plan, a model's configuration files); the network is used only
    if a source is on the hub. Exit code 0 when nothing fails, 2 otherwise.
    """
    from tgo_pipeline.doctor import examine, view
    from tgo_pipeline.rendering.terminal import show

    groups = examine(params, _needs if plan else None)
    show(view.show(groups), view.WIDTH)
    raise typer.Exit(USER_ERROR if view.failed(groups) else 0)


def _needs(params: Params) -> Needs:
    """What the run takes, by the plan for a device like the first one here."""
    from stages.commands.plan import make
    from tgo_pipeline.doctor.device import gpus
    from tgo_pipeline.doctor.request import Needs
    from tgo_pipeline.planning.gpus import Device, device

    found = [] if params.runtime.device == "cpu" else gpus()
    on = (
        Device(found[0].name, 1.0, 1.0, found[0].total_bytes / 1e9, "this machine")
        if found
        else device("cpu")
    )
    plan = make(params, on, max(1, params.runtime.processes))
    return Needs({stage.stage: stage.memory_bytes for stage in plan.stages}, plan.total.disk_bytes)
