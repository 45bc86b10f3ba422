"""Read, normalise, deduplicate and split the prompts; reads their sources, writes data/prompts.parquet."""

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
    """Write the prompts and metrics/prompts.json."""
    from tgo_pipeline import prompts

    prompts.write(params.prompts, params.seed, workspace.prompts, workspace.metrics / "prompts.json")


def shards(params: Params, workspace: Workspace = HERE) -> tuple[Status, str]:
    """Whether the table is there, and that of the parameters."""
    from tgo_pipeline.prompts import planned_fingerprint
    from tgo_pipeline.storage.shards import Mark, table_status

    mark = Mark(planned_fingerprint(params.prompts, params.seed))
    return table_status(workspace.prompts, mark), str(workspace.prompts)


def estimate(run: Estimate) -> StagePlan:
    """The size of the prompts table."""
    from stages.estimate import PROMPT_ID
    from tgo_pipeline.planning import disk

    rows = len(run.train) + len(run.test)
    sizes = sum(len(text.encode()) + 2 * PROMPT_ID for _, text in (*run.train, *run.test))
    bound = sizes + rows * disk.ROW_BYTES + disk.PARQUET_BYTES
    work = f"{len(run.train):,} train, {len(run.test):,} test"
    return run.stage("prompts", work=work, rows=rows, files=1, disk_bytes=bound, disk="at most")


def inputs(params: Params) -> Inputs:
    """What else the prompts depend on."""
    from tgo_pipeline.inputs import named_files
    from tgo_pipeline.prompts.build import VERSION

    return {"versions": {"prompts": VERSION}, "files": named_files.prompts(params)}


if __name__ == "__main__":
    from stages import main

    main("prompts")
