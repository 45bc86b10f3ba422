"""Draw the test prompts with preference guidance of several strengths; compare rewards and diversity with strength 0.

Every strength has folders of its own, resumed like any other, so adding one draws that one alone. Equal seeds make the
comparison a paired one.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.models import PURPOSE, SPLIT, Side, evaluation_rewards, read_test_prompts
from tgo_pipeline.evaluation.statistics.diversity import CLIP, DIVERSITY, PIXELS, clip_spec, diversity_folder
from tgo_pipeline.evaluation.statistics.intervals import bootstrap_means
from tgo_pipeline.evaluation.target import Target
from tgo_pipeline.params import TARGET_COMBINATIONS, EvaluateParams, GuidanceParams, Params
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.tables import with_features
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger("tgo")
REWARD, DIVERSITIES = "reward", "diversity"
SWEEP = with_features(
    pa.schema(
        [
            pa.field("strength", pa.float64(), nullable=False),
            pa.field("measure", pa.string(), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("n", pa.int64(), nullable=False),
            pa.field("n_prompts", pa.int64(), nullable=False),
        ]
        + [
            pa.field(name, pa.float64())
            for name in ("mean", "difference", "difference_low", "difference_high")
        ]
    )
)


@dataclasses.dataclass(frozen=True)
class Guided:
    """What is swept: a base and how modules guide it."""

    base: str
    revision: str | None
    guidance: GuidanceParams

    @classmethod
    def find(cls, params: Params, model: Path) -> Guided:
        """`generate.guidance` if there is one, else the result of fine-tuning in `model`.

        A result that is no pair of modules is taken as the positive one (pgd). Raises `TgoError` if there is neither,
        or if the result needs prompts of its own.
        """
        from tgo_pipeline.generators.guidance import require_plain_prompts
        from tgo_pipeline.generators.location import described_guidance

        if params.generate.guidance is not None:
            return cls(params.model, params.revision, params.generate.guidance)
        if not model.is_dir():
            raise TgoError(
                f"there is nothing to sweep: {model} does not exist and generate.guidance is not set. Run the "
                "fine_tune stage, or name modules in generate.guidance."
            )
        if described := described_guidance(str(model)):
            return cls(*described)
        require_plain_prompts(str(model))
        return cls(params.model, params.revision, GuidanceParams(kind="pgd", positive=str(model)))

    def at(self, strength: float) -> GuidanceParams:
        """The guidance with another strength."""
        return dataclasses.replace(self.guidance, strength=strength)


def sweep(
    params: Params,
    workspace: Workspace,
    strengths: Iterable[float],
    *,
    images_per_prompt: int,
) -> None:
    """Write the table of the sweep (schema `SWEEP`), `plots/sweep.csv` and the charts in `plots/sweep`.

    All strengths draw the same prompts from the seeds of the evaluation; 0 is always among them. A target that combines
    rewards is left out where the training scores or thresholds are missing, or feedback is in it. Raises `TgoError`
    for missing inputs, before anything is drawn.
    """
    from tgo_pipeline.evaluation.sweep.plots import write_plots
    from tgo_pipeline.rewards import require, specs
    from tgo_pipeline.storage.tables import write_table

    wanted = check_strengths(strengths)
    if not 2 <= images_per_prompt <= params.generate.shard_size:
        raise TgoError(
            f"images_per_prompt is {images_per_prompt}: the distance between images of a prompt needs at least 2, "
            f"and all of them in one shard (generate.shard_size is {params.generate.shard_size})."
        )
    test = read_test_prompts(workspace.prompts)
    rewards = evaluation_rewards(params)
    for spec in specs.resolve_all(rewards).values():
        require(spec)
    guided = Guided.find(params, workspace.model)
    target = _target(params, workspace)
    folder = workspace.sweep_images
    sides = {
        s: Side(f"strength {s:g}", guided.base, guided.revision, folder / f"strength-{s:g}") for s in wanted
    }
    for strength, side in sides.items():
        log.info("strength %g (%d of %d)", strength, wanted.index(strength) + 1, len(wanted))
        _draw_and_score(params, side, guided.at(strength), test, rewards, images_per_prompt)
    filled = list(specs.columns(specs.resolve_all(rewards), params.score.frame_parts))
    first = [params.target.reward] if target or params.target.reward in filled else []
    names = [*first, *(name for name in filled if name not in first)]
    frames = {s: _scores(side, filled, target) for s, side in sides.items()}
    rows = compare(frames, names, REWARD, params.evaluate, params.seed)
    frames = {s: _diversities(side) for s, side in sides.items()}
    measured = [name for name in (CLIP, PIXELS) if not frames[0.0][name].null_count()]
    rows += compare(frames, measured, DIVERSITIES, params.evaluate, params.seed)
    result = pa.Table.from_pylist(rows, schema=SWEEP)
    with atomic(workspace.sweep) as temporary:
        write_table(
            result, temporary, {"confidence": params.evaluate.confidence, "guidance": guided.guidance.kind}
        )
    write_plots(result, names, workspace.plots, params.evaluate.confidence, params.shown_names)


def check_strengths(strengths: Iterable[float]) -> list[float]:
    """The strengths in ascending order, each once, with 0 for the base. Raises `TgoError` for an impossible one."""
    values = sorted({0.0, *strengths})
    for value in values:
        if not (math.isfinite(value) and value >= 0):
            raise TgoError(f"a strength is {value}: it must be 0 or more, and finite.")
    if len(values) == 1:
        raise TgoError("there is no strength to compare with 0: name at least one, such as 0.5,1,2,4.")
    return values


def _target(params: Params, workspace: Workspace) -> Target | None:
    """A target that combines rewards, if its yardstick is there; one that is a reward is a column already."""
    if params.target.reward not in TARGET_COMBINATIONS:
        return None
    missing = None
    if not params.target_is_scored_anywhere:
        missing = "it has feedback in it, which new images have none of"
    elif not (workspace.thresholds.is_file() and workspace.scores.is_dir()):
        missing = "there are no training scores to measure it by"
    if missing:
        log.info("leaving out the target %s: %s", params.target.reward, missing)
        return None
    return Target.read(params, workspace)


def _draw_and_score(
    params: Params,
    side: Side,
    guidance: GuidanceParams,
    test: pl.DataFrame,
    rewards: Mapping[str, str | None],
    images_per_prompt: int,
) -> None:
    from tgo_pipeline.generators import generate_folder, plan
    from tgo_pipeline.rewards.specs import resolve_all
    from tgo_pipeline.scoring.stage import score_folder

    job: dict[str, Any] = {
        "prompts": list(zip(test["prompt_id"], test["prompt"], strict=True)),
        "split": SPLIT,
        "model": side.model,
        "revision": side.revision,
        "params": dataclasses.replace(params.generate, source="model", images=None, guidance=guidance),
        "images_per_prompt": images_per_prompt,
        "seed": params.seed,
        "purpose": PURPOSE,
    }
    generate_folder(side.generations, **job, runtime=params.runtime)
    score_folder(
        side.generations,
        side.scores,
        rewards,
        runtime=params.runtime,
        max_error_rate=params.score.max_error_rate,
        dtype=params.score.dtype,
        frames=params.score.frames,
        frame_parts=params.score.frame_parts,
    )
    clip = clip_spec(list(resolve_all(rewards).values()))
    diversity_folder(
        side.generations,
        side.folder / "diversity",
        plan(**job),
        clip,
        params.runtime,
        params.score.frames,
    )


def _scores(side: Side, columns: Sequence[str], target: Target | None) -> pl.DataFrame:
    from tgo_pipeline.thresholds.targets import read_scores

    frame = read_scores(side.scores, columns)
    return target.add_to(frame) if target is not None else frame


def _diversities(side: Side) -> pl.DataFrame:
    from tgo_pipeline.storage.tables import read_folder

    return read_folder(side.folder / "diversity", DIVERSITY.names)


def compare(
    frames: Mapping[float, pl.DataFrame], names: Sequence[str], kind: str, params: EvaluateParams, seed: int
) -> list[dict[str, Any]]:
    """Rows of `SWEEP`: means of the columns `names` of every strength, and their paired difference to strength 0.

    All frames have the same rows in the same order, since they are of the same samples (or prompts). Differences have
    bootstrap intervals over prompts; a row that lacks a value on either side counts on neither.
    """
    base = _matrix(frames[0.0], names)
    clusters = np.array(frames[0.0]["prompt_id"].to_list())
    rows: list[dict[str, Any]] = []
    for strength, frame in frames.items():
        values = _matrix(frame, names)
        differences = values - base
        low, high = bootstrap_means(
            differences,
            clusters,
            resamples=params.bootstrap,
            confidence=params.confidence,
            seed=derive_seed(seed, "prompts", "bootstrap"),
        )
        for column, name in enumerate(names):
            known = ~np.isnan(differences[:, column])
            if not known.any():
                raise TgoError(
                    f"{name} has no score at strength {strength:g}: look at the errors in its score shards."
                )
            rows.append(
                {
                    "strength": strength,
                    "measure": name,
                    "kind": kind,
                    "n": int(known.sum()),
                    "n_prompts": len(np.unique(clusters[known])),
                    "mean": float(values[known, column].mean()),
                    "difference": float(differences[known, column].mean()),
                    "difference_low": _number(low[column]),
                    "difference_high": _number(high[column]),
                }
            )
    return rows


def _matrix(frame: pl.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:
    columns = [np.array(frame[name].cast(float).fill_null(math.nan), dtype=np.float64) for name in names]
    matrix = np.stack(columns, axis=1)
    return np.where(np.isfinite(matrix), matrix, np.nan)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
