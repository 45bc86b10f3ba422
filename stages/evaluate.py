"""Compare base, tuned and other models on the test prompts; reads models/tuned, writes data/evaluation and tables."""

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
    """Sample and score all models, write the evaluation tables, metrics, plot and what is to be cited."""
    from tgo_pipeline.evaluation.stage import evaluate

    evaluate(params, workspace)


def shards(params: Params, workspace: Workspace = HERE) -> tuple[Status, str]:
    """How many shards of all models are done, stale and to do; with all done, whether the tables are theirs."""
    from tgo_pipeline.evaluation.stage import plan, planned_mark
    from tgo_pipeline.storage.shards import Status, status, table_status

    planned = plan(params, workspace)
    every = [status(folder, shards) for folder, shards in planned.items()]
    total = Status(
        *(sum(getattr(one, name) for one in every) for name in ("done", "stale", "to_do", "failed")),
    )
    if total.stale or total.to_do:
        return total, f"shards of {workspace.evaluation_images}"
    compared = table_status(workspace.evaluation, planned_mark(params, workspace))
    if compared.done:
        return total, f"shards of {workspace.evaluation_images}"
    return Status(0, compared.stale, compared.to_do, total.failed), f"{workspace.evaluation} alone"


def estimate(run: Estimate) -> StagePlan:
    """What sampling and scoring the compared models will take."""
    from stages.estimate import PROMPT_ID, SAMPLE_ID
    from tgo_pipeline.planning import disk
    from tgo_pipeline.planning.plan import StagePlan

    section = run.params.evaluate
    sides = 2 + len(section.models)
    each = len(run.test) * section.images_per_prompt
    shards = disk.shard_count(len(run.test), section.images_per_prompt, run.params.generate.shard_size)
    bound = sides * each * run.most_bytes
    rewards = {**run.params.score.rewards, **section.rewards}
    filled = len(run.params.reward_columns)
    columns = sides * disk.table_most_bytes(each, PROMPT_ID + SAMPLE_ID, shards, filled)
    cost, precision = run.scoring(rewards)
    drawn = sides * each * run.drawing.flops_per_image
    scored = sides * (each * cost.flops_per_image + len(run.test) * cost.flops_per_prompt)
    hours = run.device.hours(drawn, run.params.generate.precision) + run.device.hours(scored, precision)
    return StagePlan(
        stage="evaluate",
        work=f"{sides} models, {len(run.test):,} prompts, {section.images_per_prompt} {run.what}s each",
        images=sides * each,
        files=2 * sides * shards,
        disk_bytes=bound + columns,
        disk="at most",
        flops=drawn + scored,
        precision=precision,
        memory_bytes=max(run.drawing.peak_bytes, cost.peak_bytes),
        hours=hours / run.gpus,
    )


def inputs(params: Params) -> Inputs:
    """What else the evaluation depends on: it samples and scores as the earlier stages do."""
    from tgo_pipeline.evaluation import stage
    from tgo_pipeline.evaluation.statistics import diversity
    from tgo_pipeline.generators import stage as generators
    from tgo_pipeline.inputs import named_files
    from tgo_pipeline.scoring import stage as scoring

    versions = {
        "evaluate": stage.VERSION,
        "generate": generators.VERSION,
        "score": scoring.VERSION,
        "diversity": diversity.VERSION,
    }
    files = named_files.model(params) | named_files.compared_models(params)
    files |= named_files.rewards(params) | named_files.rewards(params, "evaluate")
    files |= named_files.proxy(params) | named_files.published(params)
    return {"versions": versions, "files": files}


if __name__ == "__main__":
    from stages import main

    main("evaluate")
