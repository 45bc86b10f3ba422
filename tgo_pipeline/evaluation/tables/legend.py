"""What each name in an evaluation's tables is: exact identities, so that numbers can be compared with others.

A legend is plain JSON: sections of named things, each with its facts. It goes into the metadata of every table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline import __version__
from tgo_pipeline.evaluation.identities import model_identity
from tgo_pipeline.evaluation.models import PURPOSE, Side
from tgo_pipeline.evaluation.statistics.matrix import FLIPS
from tgo_pipeline.params import TARGET_COMBINATIONS, Params
from tgo_pipeline.rewards.toys import ShownNames
from tgo_pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

Facts = dict[str, Any]
Legend = dict[str, dict[str, Facts]]
SECTIONS = {
    "rewards": "Rewards",
    "target": "Target",
    "test_sets": "Test sets",
    "models": "Models",
    "sampling": "Sampling",
    "statistics": "Statistics",
    "software": "Software",
}
"""The sections of a legend in their order, with their titles."""
SEEDS = (
    "63 bits of sha256(run seed, sample id, purpose), where a sample id is the prompt's id and the image's number; "
    "equal for all models, whatever the batches and processes"
)
AGGREGATES = {
    "single": "image by image, equal seeds",
    "median": "the median score of a prompt's images (with an even number the mean of the middle two)",
    "mean": "the mean score of a prompt's images",
    "best": "the best score of a prompt's images",
}
CORRECTIONS = {"holm": "Holm", "bh": "Benjamini-Hochberg", "none": "none"}


def legend(params: Params, workspace: Workspace, *, sides: Sequence[Side], test: pl.DataFrame) -> Legend:
    """The legend of a finished evaluation.

    Reads what the score shards of the first side say of their rewards, and the files of the models.
    """
    from tgo_pipeline.thresholds.targets import described

    return {
        "rewards": described(sides[0].scores),
        "target": _target(params, workspace.scores),
        "test_sets": _test_sets(params, test, workspace.prompts),
        "models": {side.name: model_identity(side.model, side.revision) for side in sides},
        "sampling": {"images": _sampling(params, sides[0])},
        "statistics": {"intervals and tests": _statistics(params)},
        "software": {"tgo-pipeline": {"version": __version__}},
    }


def _target(params: Params, scores: Path) -> dict[str, Facts]:
    from tgo_pipeline.thresholds.targets import reference_folder, scores_fingerprint

    name = params.target.reward
    if not params.target_is_scored_anywhere:
        return {name: {"note": "feedback on the training images: new images have no target score"}}
    if name not in TARGET_COMBINATIONS:
        return {name: {"note": "one of the rewards"}}
    reference = reference_folder(params.threshold, scores)
    return {
        name: {
            "of": params.target_rewards,
            "measured against": f"the scores that tau came from ({reference})",
            "fingerprint": scores_fingerprint(reference),
        }
    }


PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def _test_sets(params: Params, test: pl.DataFrame, prompts: Path) -> dict[str, Facts]:
    """Source, size and hash of each test set (the hash of `metrics/prompts.json`), and how it was counted."""
    from tgo_pipeline.prompts.normalise import set_hash
    from tgo_pipeline.storage.tables import read_metadata

    counts = read_metadata(prompts).get("test", {})
    found = {}
    for name in dict.fromkeys(test["source"].to_list()):
        found[name] = {
            "source": params.prompts.test.get(name, params.prompts.train),
            **counts.get(name, {}),
            "kept": test.filter(test["source"] == name).height,
            "hash": set_hash(test.filter(test["source"] == name)["prompt_id"]),
        }
    return found


def _sampling(params: Params, side: Side) -> Facts:
    from tgo_pipeline.storage.tables import read_table
    from tgo_pipeline.thresholds.targets import score_files

    columns = ["width", "height", "steps", "guidance_scale"]
    row = read_table(score_files(side.generations)[0], columns=columns).slice(0, 1).to_pylist()[0]
    return {
        "steps": row["steps"],
        "guidance scale": round(row["guidance_scale"], 6),
        "size": f"{row['width']} x {row['height']} pixels",
        "images per prompt": params.evaluate.images_per_prompt,
        "run seed": params.seed,
        "purpose": PURPOSE,
        "seed of an image": SEEDS,
        "precision": PRECISIONS[params.generate.precision],
        "safety checker": "off",
    }


def _statistics(params: Params) -> Facts:
    evaluate = params.evaluate
    level = f"level {evaluate.confidence:.10g}"
    return {
        "aggregate": f"{evaluate.aggregate}: {AGGREGATES[evaluate.aggregate]}",
        "win": "strictly above on the same prompt (and seed); ties count for nobody, and half beside it",
        "interval of a win rate": f"Wilson, {level}, n reduced by the design effect of images that share a prompt",
        "other intervals": f"percentile bootstrap, {level}, {evaluate.bootstrap} resamples of whole prompts, paired",
        "p-value": "two-sided sign-flip test of the mean paired difference, prompts as units, "
        f"{FLIPS} random sign patterns (all patterns up to {FLIPS.bit_length() - 1} prompts)",
        "correction": f"{CORRECTIONS[evaluate.correction]}, over all pairs of models, rewards and test sets (all "
        "together among them); categories and challenges are families of their own",
        "significant": f"adjusted p-value below {1 - evaluate.confidence:.10g}",
    }


def shown_names(legend: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> ShownNames:
    """What people read of the rewards and the target of a legend."""
    sources = {name: facts.get("source") for name, facts in legend.get("rewards", {}).items()}
    return ShownNames.of(
        sources, {name: facts.get("of", []) for name, facts in legend.get("target", {}).items()}
    )


def facts_text(facts: Mapping[str, Any]) -> str:
    """The facts of one thing in a line; a hash is cut to 16 digits (whole in the metadata of the tables)."""
    shown = [(key, value) for key, value in facts.items() if value not in (None, "", [], {})]
    return "; ".join(f"{key.replace('_', ' ')}: {_value(value)}" for key, value in shown)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({facts_text(value)})"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(each) for each in value)
    text = str(value)
    return text[:16] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
