"""Sample and score the base model, the tuned one and any others alike, then compare them.

`sides` says which models and where their samples lie; here the tables are made of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.models import (
    BASE,
    TUNED,
    Side,
    evaluation_rewards,
    has_diversity,
    measure_side,
    plan,
    read_test_prompts,
    remove_others,
    require_models,
    sample_side,
    sides,
)
from tgo_pipeline.evaluation.target import Target
from tgo_pipeline.params import Params
from tgo_pipeline.storage.fingerprints import content_fingerprint, fingerprint
from tgo_pipeline.storage.shards import Mark, table_status
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from tgo_pipeline.evaluation.statistics.hacking import Roles
    from tgo_pipeline.evaluation.statistics.means import Diversity
    from tgo_pipeline.evaluation.statistics.scores import ModelScores
    from tgo_pipeline.rewards.toys import ShownNames

__all__ = [
    "Side",
    "Target",
    "evaluate",
    "evaluation_rewards",
    "finished_scores",
    "plan",
    "read_test_prompts",
    "sample_side",
    "sides",
]
log = logging.getLogger("tgo")
VERSION = 2
MODELS, MATRIX, HACKING, SAMPLES = "models.parquet", "matrix.parquet", "hacking.parquet", "samples.parquet"
"""The tables that lie beside the models' folders."""


def evaluate(params: Params, workspace: Workspace) -> None:
    """Bring the images of all models up to date and write their tables there, that of base and tuned, and summaries.

    The training scores are the yardstick of the target score. All models draw the prompts of the test sets with the
    same seeds, steps and guidance. The folder `tables` gets every table once more to be read and cited. Raises
    `TgoError` for missing inputs before anything is sampled.
    """
    from tgo_pipeline.evaluation.tables.export import export
    from tgo_pipeline.evaluation.tables.legend import legend
    from tgo_pipeline.rewards import require, specs

    folder = workspace.evaluation_images
    test = read_test_prompts(workspace.prompts)
    rewards = evaluation_rewards(params)
    for spec in specs.resolve_all(rewards).values():
        require(spec)
    chosen = sides(params, workspace)
    require_models(chosen)
    target = _target(params, workspace)
    for side in chosen:
        sample_side(params, side, test, rewards)
    diversity = _diversity(params, chosen, test, rewards)
    remove_others(chosen, folder)
    joined = _join(params, target, chosen, test)
    made = _tables(params, joined, target, diversity)
    metadata = {
        **planned_mark(params, workspace).entries(),
        "confidence": params.evaluate.confidence,
        "aggregate": params.evaluate.aggregate,
        "published": params.evaluate.published,
        "legend": legend(params, workspace, sides=chosen, test=test),
    }
    excluded = joined.aggregated(params.evaluate.aggregate).pairs(BASE, TUNED).excluded()
    _write_tables(workspace.evaluation, folder, made, metadata | {"excluded": excluded})
    _write_summaries(workspace, made["evaluation"], params)
    export(workspace)
    _log_results(made, params.shown_names)


def _target(params: Params, workspace: Workspace) -> Target | None:
    """The target score; None where it is feedback, which images that are drawn now have none of."""
    if params.target_is_scored_anywhere:
        return Target.read(params, workspace)
    log.info(
        "the target %s is feedback: new images have none, so the models are compared on the rewards alone",
        params.target.reward,
    )
    return None


def _diversity(
    params: Params, chosen: Sequence[Side], test: pl.DataFrame, rewards: Mapping[str, str | None]
) -> Diversity | None:
    """The diversity of every model's images; None where prompts have one image, or are spread over shards."""
    from tgo_pipeline.evaluation.statistics.diversity import DIVERSITY
    from tgo_pipeline.evaluation.statistics.means import Diversity
    from tgo_pipeline.storage.tables import read_folder

    if not has_diversity(params):
        if params.evaluate.images_per_prompt > 1:
            log.warning(
                "leaving out diversity: the %d images of a prompt must lie in one shard (generate.shard_size is %d)",
                params.evaluate.images_per_prompt,
                params.generate.shard_size,
            )
        return None
    for side in chosen:
        measure_side(params, side, test, rewards)
    return Diversity.join({side.name: read_folder(side.diversity, DIVERSITY.names) for side in chosen})


def _join(params: Params, target: Target | None, chosen: Sequence[Side], test: pl.DataFrame) -> ModelScores:
    from tgo_pipeline.evaluation.statistics.scores import join_scores
    from tgo_pipeline.rewards import specs
    from tgo_pipeline.thresholds.targets import read_scores

    filled = list(specs.columns(specs.resolve_all(evaluation_rewards(params)), params.score.frame_parts))
    frames = {side.name: read_scores(side.scores, filled) for side in chosen}
    if target is not None:
        frames = {name: target.add_to(frame) for name, frame in frames.items()}
    names = [target.name, *filled] if target is not None else filled
    return join_scores(frames, test, list(dict.fromkeys(names)))


def finished_scores(params: Params, workspace: Workspace) -> tuple[ModelScores, str | None]:
    """The scores of all models of a finished evaluation, aggregated, and the name of the target if new images have one.

    Draws and scores nothing. Raises `TgoError` if the evaluation is not that of the parameters.
    """
    first = "run the stage evaluate first (`tgo run evaluate`)."
    if missing := [side.name for side in sides(params, workspace) if not side.scores.is_dir()]:
        raise TgoError(
            f"there are no scores of {', '.join(missing)} in {workspace.evaluation_images}: {first}"
        )
    if not table_status(workspace.evaluation, planned_mark(params, workspace)).done:
        raise TgoError(
            f"{workspace.evaluation} is missing, or not that of the parameters and scores of now: {first}"
        )
    target = _target(params, workspace)
    test = read_test_prompts(workspace.prompts)
    joined = _join(params, target, sides(params, workspace), test)
    return joined.aggregated(params.evaluate.aggregate), None if target is None else target.name


def _tables(
    params: Params, joined: ModelScores, target: Target | None, diversity: Diversity | None
) -> dict[str, pa.Table]:
    """Every table by the name of its file."""
    from tgo_pipeline.evaluation.statistics.compare import evaluation_table
    from tgo_pipeline.evaluation.statistics.hacking import hacking_table
    from tgo_pipeline.evaluation.statistics.matrix import matrix_table
    from tgo_pipeline.evaluation.statistics.means import models_table
    from tgo_pipeline.evaluation.statistics.scores import samples_table

    settings, seed = params.evaluate, params.seed
    name = target.name if target is not None else None
    roles = _roles(target, params) if target is not None else None
    aggregated = joined.aggregated(settings.aggregate)
    return {
        "evaluation": evaluation_table(aggregated.pairs(BASE, TUNED), name, settings, seed),
        SAMPLES: samples_table(joined.pairs(BASE, TUNED)),
        MODELS: models_table(aggregated, name, settings, seed, diversity),
        MATRIX: matrix_table(aggregated, name, settings, seed),
        HACKING: hacking_table(aggregated, roles, settings, seed),
    }


def _roles(target: Target, params: Params) -> Roles:
    """Each reward's part by its first column: its other numbers are no rewards that could confirm a gain, and the
    target's own least of all.
    """
    from tgo_pipeline.evaluation.statistics.hacking import Roles
    from tgo_pipeline.rewards import specs

    of_target = {spec.column for spec in params.target_specs.values()}
    filled = specs.columns(specs.resolve_all(evaluation_rewards(params)), params.score.frame_parts)
    others = {name for name, spec in filled.items() if name == spec.column} - of_target
    return Roles.of(
        target.name, target.rewards, [name for name in filled if name in others or name in target.rewards]
    )


def planned_mark(params: Params, workspace: Workspace) -> Mark:
    """What the tables of the models' present samples and scores carry in their metadata.

    Raises `TgoError` if there are no thresholds, or not all models are sampled and scored.
    """
    inputs = [
        path
        for side in sides(params, workspace)
        for path in (side.scores, *([side.diversity] if has_diversity(params) else []))
    ]
    target = None
    if params.target_is_scored_anywhere:
        target = [params.target.reward, params.target_rewards, content_fingerprint(workspace.thresholds)]
    content = fingerprint(
        version=VERSION,
        evaluate=params.evaluate,
        target=target,
        inputs=[content_fingerprint(path) for path in inputs],
    )
    return Mark(content)


def _write_tables(
    table: Path, folder: Path, made: Mapping[str, pa.Table], metadata: Mapping[str, Any]
) -> None:
    from tgo_pipeline.storage.tables import write_table

    for name, content in reversed(list(made.items())):
        with atomic(table if name == "evaluation" else folder / name) as temporary:
            write_table(content, temporary, metadata)


def _write_summaries(workspace: Workspace, results: pa.Table, params: Params) -> None:
    from tgo_pipeline.evaluation.statistics.compare import metrics, win_rates_csv

    with atomic(workspace.metrics / "evaluate.json") as temporary:
        temporary.write_text(json.dumps(metrics(results, list(params.evaluate.rewards)), indent=2) + "\n")
    with atomic(workspace.plots / "win_rates.csv") as temporary:
        temporary.write_text(win_rates_csv(results, params.shown_names), encoding="utf-8")


def _log_results(made: Mapping[str, pa.Table], shown: ShownNames) -> None:
    """The target (or every reward without one) of each model against the base, and what looks like hacking."""
    from tgo_pipeline.evaluation.statistics.hacking import suspicions
    from tgo_pipeline.evaluation.statistics.scores import ALL

    rows = [
        row
        for row in made[MATRIX].to_pylist()
        if row["model_b"] == BASE and row["test_set"] == ALL and row["n"]
    ]
    for row in [row for row in rows if row["is_target"]] or rows:
        log.info(
            "%s of %s: %+.4g against the base (%d pairs, %d prompts), win rate %.1f %%, %d ties, %d excluded",
            shown(row["reward"]),
            row["model_a"],
            row["difference"],
            row["n"],
            row["n_prompts"],
            100 * row["win_rate"],
            row["ties"],
            row["n_excluded"],
        )
    for note in suspicions(made[HACKING]):
        log.warning("look at the images before trusting the target: %s", shown.text(note))
