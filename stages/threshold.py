"""Estimate tau and its uncertainty for every reward; reads data/scores, writes data/thresholds.parquet and plots."""

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
    """Fit the thresholds table."""
    from tgo_pipeline.thresholds.stage import fit_folder

    fit_folder(params, workspace)


def shards(params: Params, workspace: Workspace = HERE) -> tuple[Status, str]:
    """Whether the thresholds table is up to date, and the adequacy table, which has a version of its own."""
    from tgo_pipeline.storage.shards import Status, table_status
    from tgo_pipeline.thresholds.adequacy import table as adequacy_table
    from tgo_pipeline.thresholds.stage import planned_mark

    mark = planned_mark(params, workspace)
    fitted = table_status(workspace.thresholds, mark)
    if not fitted.done or table_status(workspace.adequacy, adequacy_table.planned_mark(mark)).done:
        return fitted, str(workspace.thresholds)
    return Status(0, 1, 0, 0), f"{workspace.adequacy} alone: tau and labels stay as they are"


def estimate(run: Estimate) -> StagePlan:
    """The size of the tables of thresholds."""
    from tgo_pipeline.planning import disk

    work = f"{len(run.params.score.columns)} rewards"
    return run.stage("threshold", work=work, files=1, disk_bytes=disk.PARQUET_BYTES * 4, disk="at most")


def inputs(params: Params) -> Inputs:
    """What else the thresholds depend on."""
    from tgo_pipeline.inputs import named_files
    from tgo_pipeline.thresholds.adequacy import table as adequacy_table
    from tgo_pipeline.thresholds.stage import VERSION

    versions = {"threshold": VERSION, "adequacy": adequacy_table.VERSION}
    return {"versions": versions, "files": named_files.proxy(params)}


if __name__ == "__main__":
    from stages import main

    main("threshold")
