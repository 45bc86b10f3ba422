"""Label every scored sample at tau and weigh it; reads data/scores and data/thresholds.parquet, writes data/labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgo_pipeline.params import Params
from tgo_pipeline.storage.workspace import HERE, Workspace

if TYPE_CHECKING:
    from stages import Inputs
    from stages.estimate import Estimate
    from tgo_pipeline.planning.plan import StagePlan
    from tgo_pipeline.storage.shards import Status


def run(params: Params, workspace: Workspace = HERE) -> None:
    """Write the label shards, their metrics and the histogram of the weights."""
    from tgo_pipeline.thresholds.label_stage import label_folder

    label_folder(params, workspace)


def shards(params: Params, workspace: Workspace = HERE) -> tuple[Status, str]:
    """How many shards are done, stale and to do."""
    from tgo_pipeline.storage.shards import status
    from tgo_pipeline.thresholds.label_stage import plan

    planned = plan(params, workspace)
    return status(workspace.labels, planned), f"shards of {workspace.labels}"


def estimate(run: Estimate) -> StagePlan:
    """The size of the labels."""
    from stages.estimate import PROMPT_ID, SAMPLE_ID
    from tgo_pipeline.planning import disk

    bound = disk.table_most_bytes(run.images, PROMPT_ID + SAMPLE_ID, run.shards, 1)
    work = f"{run.images:,} labels"
    return run.stage("label", work=work, rows=run.images, files=run.shards, disk_bytes=bound, disk="at most")


def inputs(params: Params) -> Inputs:
    """What else the labels depend on."""
    from tgo_pipeline.inputs import named_files
    from tgo_pipeline.thresholds.label_stage import VERSION

    return {"versions": {"label": VERSION}, "files": named_files.proxy(params)}


if __name__ == "__main__":
    from stages import main

    main("label")
