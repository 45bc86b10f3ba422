"""Sample and score the base and the tuned model alike, then compare them.

Each side is a folder of generation shards and one of score shards, resumed like any other: the base side stays as it
is when only the tuned model changes.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.fingerprints import content_fingerprint, fingerprint
from tgo_pipeline.params import TARGET_COMBINATIONS, Params
from tgo_pipeline.shards import Shard, atomic, status

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from tgo_pipeline.evaluation.pairs import Pairs

log = logging.getLogger("tgo")
SPLIT, PURPOSE = "test", "evaluate"
VERSION = 1


@dataclass(frozen=True)
class Side:
    """One of the two models and where its samples lie."""

    name: str
    model: str
    revision: str | None
    folder: Path

    @property
    def generations(self) -> Path:
        return self.folder / "generations"

    @property
    def scores(self) -> Path:
        return self.folder / "scores"


def sides(params: Params, *, model: Path, folder: Path) -> tuple[Side, Side]:
    """Base and tuned side: `params.model`, and the result of fine-tuning in `model`."""
    base = Side("base", params.model, params.revision, folder / "base")
    return base, Side("tuned", str(model), None, folder / "tuned")


def evaluation_rewards(params: Params) -> dict[str, str | None]:
    """Every reward that the evaluation shows, as `score.rewards` has them: those of `score` and of `evaluate`.

    Raises `TgoError` if one column stands for two rewards.
    """
    for name, value in params.evaluate.rewards.items():
        if params.score.rewards.get(name, value) != value:
            raise TgoError(
                f"evaluate.rewards.{name} is {value!r}, but score.rewards.{name} is {params.score.rewards[name]!r}: "
                "one reward has one source; leave it out of evaluate.rewards."
            )
    return {**params.score.rewards, **params.evaluate.rewards}


def evaluate(
    params: Params,
    *,
    prompts: Path,
    scores: Path,
    thresholds: Path,
    model: Path,
    folder: Path,
    table: Path,
    metrics: Path,
    plots: Path,
) -> None:
    """Bring both sides of `folder` up to date and write `table`, `folder`/samples.parquet, `metrics` and the plot.

    `scores` are the training scores, the yardstick of the target score. Both sides draw the prompts of the test sets
    with the same seeds, steps and guidance. Raises `TgoError` for missing inputs before anything is sampled.
    """
    from tgo_pipeline.evaluation.compare import evaluation_table
    from tgo_pipeline.evaluation.pairs import samples_table
    from tgo_pipeline.rewards import require, specs

    test = read_test_prompts(prompts)
    rewards = evaluation_rewards(params)
    for spec in specs.resolve_all(rewards).values():
        require(spec)
    _require_model(model)
    target = Target.read(params, scores=scores, thresholds=thresholds)
    base, tuned = sides(params, model=model, folder=folder)
    for side in (base, tuned):
        sample_side(params, side, test, rewards)
    pairs = _pair(target, base, tuned, test, rewards)
    results = evaluation_table(pairs, target.name, params.evaluate, params.seed)
    metadata = {
        "fingerprint": fingerprint(
            version=VERSION,
            evaluate=params.evaluate,
            target=[target.name, target.rewards],
            inputs=[content_fingerprint(path) for path in (base.scores, tuned.scores, thresholds)],
        ),
        "confidence": params.evaluate.confidence,
        "excluded": pairs.excluded(),
    }
    _write_tables(table, results, folder / "samples.parquet", samples_table(pairs), metadata)
    _write_summaries(metrics, plots, results, list(params.evaluate.rewards))
    _log_result(results, target.name)


def read_test_prompts(path: Path) -> pl.DataFrame:
    """The rows of split "test" of the prompts table. Raises `TgoError` if there are none or one is in two sets."""
    import polars as pl

    from tgo_pipeline.tables import PROMPTS, read_table

    test = pl.DataFrame(read_table(path, PROMPTS)).filter(pl.col("split") == SPLIT)
    if test.is_empty():
        raise TgoError(
            f"{path} holds no test prompt: name a source in prompts.test, or set prompts.test_fraction."
        )
    repeated = test.filter(test["prompt_id"].is_duplicated())
    if not repeated.is_empty():
        names = ", ".join(repeated.filter(repeated["prompt_id"] == repeated["prompt_id"][0])["source"])
        raise TgoError(
            f"the prompt {repeated['prompt'][0]!r} is in several test sets ({names}): keep it in one."
        )
    return test


def _require_model(model: Path) -> None:
    if not model.is_dir():
        raise TgoError(
            f"{model} does not exist: run the fine_tune stage first, there is no tuned model to compare."
        )


@dataclass(frozen=True)
class Target:
    """The target score with what it is measured against: the scores that tau came from."""

    name: str
    rewards: list[str]
    reference: pl.DataFrame
    taus: Mapping[str, float]

    @classmethod
    def read(cls, params: Params, *, scores: Path, thresholds: Path) -> Target:
        from tgo_pipeline.targets import read_scores, reference_folder
        from tgo_pipeline.thresholds.table import read_thresholds, taus

        reference = read_scores(reference_folder(params.threshold, scores), params.target_rewards)
        return cls(params.target.reward, params.target_rewards, reference, taus(read_thresholds(thresholds)))

    def add_to(self, frame: pl.DataFrame) -> pl.DataFrame:
        """`frame` with the target score as a column; a target that is a single reward is there already."""
        import polars as pl

        from tgo_pipeline.targets import target_scores

        if self.name not in TARGET_COMBINATIONS:
            return frame
        values = target_scores(frame, self.name, self.rewards, self.reference, self.taus)
        return frame.with_columns(pl.Series(self.name, values))


def sample_side(params: Params, side: Side, test: pl.DataFrame, rewards: Mapping[str, str | None]) -> None:
    """Draw and score what is missing or stale of one side."""
    from tgo_pipeline.generators import generate_folder
    from tgo_pipeline.rewards.stage import score_folder

    generate_folder(side.generations, **_sampling(params, side, test), runtime=params.runtime)
    score_folder(
        side.generations,
        side.scores,
        rewards,
        runtime=params.runtime,
        max_error_rate=params.score.max_error_rate,
        dtype=params.score.dtype,
    )


def plan(params: Params, *, prompts: Path, model: Path, folder: Path) -> dict[Path, list[Shard]]:
    """The generation and score folders of both sides with their shards; loads no model.

    What the scores depend on is known once all generations of a side are drawn; until then its score shards carry an
    empty fingerprint, so that none of them counts as done. Raises `TgoError` for missing inputs.
    """
    from tgo_pipeline.generators import plan as plan_generations
    from tgo_pipeline.rewards.stage import plan as plan_scores

    test = read_test_prompts(prompts)
    rewards = evaluation_rewards(params)
    _require_model(model)
    shards: dict[Path, list[Shard]] = {}
    for side in sides(params, model=model, folder=folder):
        drawn = shards[side.generations] = plan_generations(**_sampling(params, side, test))
        complete = status(side.generations, drawn).done == len(drawn)
        unknown = [dataclasses.replace(shard, fingerprint="") for shard in drawn]
        shards[side.scores] = (
            plan_scores(side.generations, rewards, params.score.dtype) if complete else unknown
        )
    return shards


def _sampling(params: Params, side: Side, test: pl.DataFrame) -> dict[str, Any]:
    return {
        "prompts": list(zip(test["prompt_id"], test["prompt"], strict=True)),
        "split": SPLIT,
        "model": side.model,
        "revision": side.revision,
        "params": dataclasses.replace(params.generate, guidance=None),
        "images_per_prompt": params.evaluate.images_per_prompt,
        "seed": params.seed,
        "purpose": PURPOSE,
    }


def _pair(
    target: Target, base: Side, tuned: Side, test: pl.DataFrame, rewards: Mapping[str, str | None]
) -> Pairs:
    from tgo_pipeline.evaluation.pairs import pair_scores
    from tgo_pipeline.targets import read_scores

    base_scores, tuned_scores = (
        target.add_to(read_scores(side.scores, list(rewards))) for side in (base, tuned)
    )
    return pair_scores(base_scores, tuned_scores, test, list(dict.fromkeys([target.name, *rewards])))


def _write_tables(
    table: Path, results: pa.Table, samples_path: Path, samples: pa.Table, metadata: Mapping[str, Any]
) -> None:
    from tgo_pipeline.tables import write_table

    for path, content in ((samples_path, samples), (table, results)):
        with atomic(path) as temporary:
            write_table(content, temporary, metadata)


def _write_summaries(metrics_path: Path, plots: Path, results: pa.Table, shown: list[str]) -> None:
    from tgo_pipeline.evaluation.compare import metrics, win_rates_csv

    with atomic(metrics_path) as temporary:
        temporary.write_text(json.dumps(metrics(results, shown), indent=2) + "\n")
    with atomic(plots / "win_rates.csv") as temporary:
        temporary.write_text(win_rates_csv(results))


def _log_result(results: pa.Table, target: str) -> None:
    row = next(row for row in results.to_pylist() if row["is_target"])
    log.info(
        "%s of the tuned model: %+.4g against the base (%d pairs, %d prompts), win rate %.1f %%, %d ties, %d excluded",
        target,
        row["difference"],
        row["n"],
        row["n_prompts"],
        100 * row["win_rate"],
        row["ties"],
        row["n_excluded"],
    )
