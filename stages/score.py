"""Score every image with every reward, and take the feedback; reads data/generations, writes data/scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgo_pipeline.formats.limits import IMAGES
from tgo_pipeline.params import Params
from tgo_pipeline.storage.workspace import HERE, Workspace

if TYPE_CHECKING:
    from stages import Inputs
    from stages.estimate import Estimate
    from tgo_pipeline.planning.plan import StagePlan
    from tgo_pipeline.storage.shards import Shard, Status


def run(params: Params, workspace: Workspace = HERE) -> None:
    """Bring the score shards up to date."""
    from tgo_pipeline.scoring.stage import score_folder

    score_folder(
        workspace.generations,
        workspace.scores,
        params.score.rewards,
        runtime=params.runtime,
        max_error_rate=params.score.max_error_rate,
        dtype=params.score.dtype,
        feedback=params.score.feedback,
        metrics=workspace.metrics / "score.json",
        frames=params.score.frames,
        frame_parts=params.score.frame_parts,
    )


def plan(params: Params, workspace: Workspace = HERE) -> list[Shard]:
    """The shards that `run` would write; loads no model."""
    from tgo_pipeline.scoring.stage import plan

    score = params.score
    return plan(
        workspace.generations, score.rewards, score.dtype, score.feedback, score.frames, score.frame_parts
    )


def shards(params: Params, workspace: Workspace = HERE) -> tuple[Status, str]:
    """How many shards are done, stale and to do; stale ones by a new version of a reward's code with what is new."""
    from tgo_pipeline.scoring.stage import changes
    from tgo_pipeline.storage.shards import status

    planned = plan(params, workspace)
    notes = [f"shards of {workspace.scores}", *changes(workspace.scores, planned, params.score.rewards)]
    return status(workspace.scores, planned), "; ".join(notes)


def estimate(run: Estimate) -> StagePlan:
    """What scoring the training images will take."""
    from stages.estimate import PROMPT_ID, SAMPLE_ID
    from tgo_pipeline.planning import disk

    columns = run.params.score.columns
    bound = disk.table_most_bytes(run.images, PROMPT_ID + SAMPLE_ID, run.shards, len(columns))
    common: dict[str, Any] = {
        "work": f"{run.images:,} {run.what}s, {len(columns)} columns",
        "rows": run.images,
        "files": run.shards,
        "disk_bytes": bound,
        "disk": "at most",
    }
    if not run.params.score.rewards:
        return run.stage("score", **common)
    cost, precision = run.scoring(run.params.score.rewards)
    flops = cost.flops_per_image * run.images + cost.flops_per_prompt * len(run.train)
    parts = {"weights": cost.weight_bytes, "activations": cost.peak_bytes - cost.weight_bytes}
    return run.stage("score", precision, flops, memory_bytes=cost.peak_bytes, parts=parts, **common)


def inputs(params: Params) -> Inputs:
    """What else the scores depend on; the version of a reward's code is in the digest of its files."""
    from tgo_pipeline.inputs import named_files
    from tgo_pipeline.scoring.stage import VERSION

    versions: dict[str, Any] = {"score": VERSION, **IMAGES.identity}
    if params.score.feedback:
        from tgo_pipeline.feedback import columns

        versions["feedback"] = columns.VERSION
    return {"versions": versions, "files": named_files.rewards(params) | named_files.feedback(params)}


if __name__ == "__main__":
    from stages import main

    main("score")
