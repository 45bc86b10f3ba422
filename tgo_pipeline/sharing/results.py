"""The evaluation in a model card: tables with intervals, the legend of their names, and the hub's `model-index`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tgo_pipeline import paths
from tgo_pipeline.evaluation.view import decimals, measured
from tgo_pipeline.params import Params
from tgo_pipeline.sharing.facts import Places, PromptSet, RewardFact, described_rewards, prompt_sets
from tgo_pipeline.sharing.markdown import bullets, code, table, text
from tgo_pipeline.tables import read_metadata, read_table

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

ALL = "all"
TASK = "text-to-image"
DIGITS = 6
_HASH_SHOWN = 16


@dataclass(frozen=True)
class Results:
    """The rows of the evaluation table with what they are made of."""

    rows: list[dict[str, Any]]
    confidence: float
    sets: list[PromptSet]
    rewards: list[RewardFact]
    params: Params

    @classmethod
    def read(cls, params: Params, places: Places) -> Results | None:
        """None if the model was not evaluated."""
        from tgo_pipeline.evaluation.compare import EVALUATION

        if not places.evaluation.is_file():
            return None
        return cls(
            rows=read_table(places.evaluation, EVALUATION).to_pylist(),
            confidence=read_metadata(places.evaluation).get("confidence", params.evaluate.confidence),
            sets=prompt_sets(places.prompts),
            rewards=described_rewards(params, places.side("tuned", "scores"), places.scores),
            params=params,
        )

    @property
    def by_set(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each test set, all sets together first."""
        names = dict.fromkeys(row["test_set"] for row in self.rows)
        return {name: [row for row in self.rows if row["test_set"] == name] for name in names}


def tables(results: Results) -> str:
    """One Markdown table for each test set; a single one stands for all sets together."""
    sets = results.by_set
    if len(sets) == 2 and ALL in sets:
        sets.pop(ALL)
    return "\n\n".join(_table(name, rows, results) for name, rows in sets.items())


def _table(name: str, rows: Sequence[Mapping[str, Any]], results: Results) -> str:
    level = f"{results.confidence:.0%}"
    header = ("reward", "base", "tuned", f"difference [{level}]", "effect", f"win rate [{level}]", "ties")
    cells = [_cells(row) for row in rows]
    title = "all test sets together" if name == ALL else f"test set {code(name)}"
    counts = f"{rows[0]['n_prompts']:,} prompts, {rows[0]['n']:,} pairs"
    return f"**{title[0].upper()}{title[1:]}** ({counts})\n\n{table(header, cells, range(1, len(header)))}"


def _cells(row: Mapping[str, Any]) -> list[str]:
    places = decimals(row["base_std"])
    return [
        code(row["reward"]) + (" (target)" if row["is_target"] else ""),
        f"{row['base_mean']:.{places}f}",
        f"{row['tuned_mean']:.{places}f}",
        measured(row, "difference", f"+.{places}f"),
        "–" if row["effect"] is None else f"{row['effect']:+.2f}",
        measured(row, "win_rate", ".1%"),
        str(row["ties"]),
    ]


def legend(results: Results, identity: Sequence[str]) -> str:
    """What every name in the tables is; `identity` are lines on the two models."""
    params, level = results.params, f"{results.confidence:.0%}"
    sampling, evaluate = params.generate, params.evaluate
    said = [
        *identity,
        f"Sampling, for both models alike: {evaluate.images_per_prompt} images a prompt with the same seeds (run seed "
        f"{params.seed}), {sampling.steps} steps, guidance scale {sampling.guidance_scale:g}.",
        f"Difference: tuned − base, mean over pairs of one prompt and seed, {level} paired bootstrap over prompts. "
        "Effect: the same in standard deviations of the base model's scores.",
        f"Win rate: share of pairs that the tuned model wins strictly, {level} Wilson interval on the effective number "
        "of independent pairs; ties count for nobody.",
    ]
    return "\n\n".join([bullets(said), reward_table(results), _set_table(results.sets)])


def reward_table(results: Results) -> str:
    """The rewards of the evaluation with their exact identities, and what part each played."""
    shown = {row["reward"] for row in results.rows}
    rewards = [fact for fact in results.rewards if fact.column in shown]
    rows = [[*identity_cells(fact), _part(fact, results.params)] for fact in rewards]
    combined = shown - {fact.column for fact in rewards}
    made = ", ".join(code(name) for name in results.params.target_rewards)
    rows += [[code(name), f"combination of {made}", "–", "–", "–", "the target"] for name in sorted(combined)]
    return table([*IDENTITY_HEADER, "part"], rows)


IDENTITY_HEADER = ("reward", "model and version", "scale", "source", "sha256 of the weights")


def identity_cells(fact: RewardFact) -> list[str]:
    """A row of what exactly gives a column's scores."""
    model = " ".join(str(part) for part in (fact.reward, fact.version, fact.dtype) if part)
    digest = code(fact.sha256[:_HASH_SHOWN]) if fact.sha256 else "–"
    return [code(fact.column), text(model), text(fact.scale or "–"), text(_place(fact.source)), digest]


def _place(source: str | None) -> str:
    """A source without the folders of this machine."""
    return (source or "–").rsplit("/", 1)[-1] if (source or "").startswith(("/", "~")) else source or "–"


def _part(fact: RewardFact, params: Params) -> str:
    if fact.column == params.target.reward:
        return "the target"
    if fact.column in params.target_rewards:
        return "part of the target"
    return "scored, not trained on" if fact.column in params.score.columns else "held out"


def _set_table(sets: Sequence[PromptSet]) -> str:
    rows = [[code(each.name), f"{each.prompts:,}", code(each.sha256[:_HASH_SHOWN])] for each in sets]
    return table(("test set", "prompts", "sha256 of the sorted prompts"), rows, [1])


def model_index(results: Results) -> list[EvalResult]:
    """Mean score and win rate of every reward on each test set, with intervals, as the hub's front matter has them."""
    sets = {each.name: each for each in results.sets}
    found = []
    for row in results.rows:
        if row["test_set"] != ALL:
            found += _index_entries(row, sets.get(row["test_set"]), results.confidence)
    return found


def _index_entries(row: Mapping[str, Any], which: PromptSet | None, confidence: float) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    about: dict[str, Any] = {
        "task_type": TASK,
        "dataset_type": paths.file_name(row["test_set"]),
        "dataset_name": row["test_set"],
        "dataset_args": {"prompts": which.prompts, "sha256": which.sha256} if which else None,
    }
    interval = {"confidence": confidence, "low": row["win_rate_low"], "high": row["win_rate_high"]}
    return [
        EvalResult(
            **about,
            metric_type="win_rate",
            metric_name=f"{row['reward']}: win rate against the base model",
            metric_value=round(row["win_rate"], DIGITS),
            metric_args={key: round(value, DIGITS) for key, value in interval.items()},
        ),
        EvalResult(
            **about,
            metric_type="mean_score",
            metric_name=f"{row['reward']}: mean score",
            metric_value=round(row["tuned_mean"], DIGITS),
        ),
    ]
