"""The models of an evaluation: where each one's samples lie, and how they are drawn, scored and measured.

Each model is a folder of generation shards, one of score shards and, with several images a prompt, one of diversity
shards, resumed like any other: a model's folders stay as they are when only another model changes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.storage.digests import is_sidecar
from tgo_pipeline.storage.locks import lock
from tgo_pipeline.storage.paths import SHARD_NAME, file_name
from tgo_pipeline.storage.shards import Shard, is_parts, status
from tgo_pipeline.storage.stores import syncing
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.storage.writing import TEMPORARY

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger("tgo")
SPLIT, PURPOSE = "test", "evaluate"
BASE, TUNED = "base", "tuned"
PARTS = ("generations", "scores", "diversity")
"""The folders of one model."""
_REVISION = re.compile(r"(?P<model>[^@]+)@(?P<revision>[^@]+)")


@dataclass(frozen=True)
class Side:
    """A model of the evaluation and where its samples lie."""

    name: str
    model: str
    revision: str | None
    folder: Path

    @property
    def generations(self) -> Path:
        """The images of this model."""
        return self.folder / "generations"

    @property
    def scores(self) -> Path:
        """The scores of its images."""
        return self.folder / "scores"

    @property
    def diversity(self) -> Path:
        """How much its images of a prompt differ."""
        return self.folder / "diversity"


def sides(params: Params, workspace: Workspace) -> list[Side]:
    """The base (`params.model`), the tuned model of the workspace, then those of `evaluate.models`.

    Raises `TgoError` for a name that no folder can have, or a model without a name.
    """
    folder = workspace.evaluation_images
    base = Side(BASE, params.model, params.revision, folder / BASE)
    tuned = Side(TUNED, str(workspace.model), None, folder / TUNED)
    return [base, tuned, *(_further(name, text, folder) for name, text in params.evaluate.models.items())]


def _further(name: str, text: str, folder: Path) -> Side:
    place = file_name(name)
    if not name.strip() or place.endswith(".parquet") or place.casefold() in (BASE, TUNED):
        raise TgoError(
            f"evaluate.models has one named {name!r}: its samples lie in a folder of {folder} with this name, which "
            "must not be empty, end in .parquet, or be base or tuned in other letters. Rename it."
        )
    location = None if Path(text).expanduser().is_dir() else _REVISION.fullmatch(text)
    if location is None:
        return Side(name, text, None, folder / place)
    return Side(name, location["model"], location["revision"], folder / place)


def require_models(chosen: Sequence[Side]) -> None:
    """Raise `TgoError` unless every model is there, or may be on the hub."""
    from tgo_pipeline.generators.location import described_guidance, locate

    for side in chosen:
        if side.name == TUNED and not Path(side.model).is_dir():
            raise TgoError(
                f"{side.model} does not exist: run the fine_tune stage first, there is no tuned model to compare."
            )
        with _named(side):
            if described_guidance(side.model) is None:
                locate(side.model, side.revision)


@contextlib.contextmanager
def _named(side: Side) -> Iterator[None]:
    """Say of which model an error is."""
    try:
        yield
    except TgoError as error:
        raise TgoError(f"the model {side.name!r} of the evaluation: {error}") from None


def evaluation_rewards(params: Params) -> dict[str, str | None]:
    """Every reward that the evaluation shows, as `score.rewards` has them: those of `score` and of `evaluate`.

    Raises `TgoError` if one column stands for two rewards or for feedback too, or if there is none.
    """
    for name, value in params.evaluate.rewards.items():
        if name in params.score.feedback:
            raise TgoError(
                f"evaluate.rewards.{name}: score.feedback has a column of this name, which is another score; take "
                "another name."
            )
        if params.score.rewards.get(name, value) != value:
            raise TgoError(
                f"evaluate.rewards.{name} is {value!r}, but score.rewards.{name} is {params.score.rewards[name]!r}: "
                "one reward has one source; leave it out of evaluate.rewards."
            )
    rewards = {**params.score.rewards, **params.evaluate.rewards}
    if not rewards:
        raise TgoError(
            "there is no reward to evaluate with: feedback exists for the images it was given to, and new images have "
            "none. Name at least one reward in evaluate.rewards, such as `pickscore: null` or `hpsv2.1: null`."
        )
    return rewards


def read_test_prompts(path: Path) -> pl.DataFrame:
    """The rows of split "test" of the prompts table. Raises `TgoError` if there are none or one is in two sets."""
    import polars as pl

    from tgo_pipeline.storage.tables import PROMPTS, read_table

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


def sample_side(params: Params, side: Side, test: pl.DataFrame, rewards: Mapping[str, str | None]) -> None:
    """Draw and score what is missing or stale of one model."""
    from tgo_pipeline.generators import generate_folder
    from tgo_pipeline.scoring.stage import score_folder

    with _named(side):
        generate_folder(side.generations, **_sampling(params, side, test), runtime=params.runtime)
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


def has_diversity(params: Params) -> bool:
    """Whether prompts have several images, and all of them in one shard."""
    return 2 <= params.evaluate.images_per_prompt <= params.generate.shard_size


def measure_side(params: Params, side: Side, test: pl.DataFrame, rewards: Mapping[str, str | None]) -> None:
    """Measure how different the images of each prompt are, where that is missing or stale."""
    from tgo_pipeline.evaluation.statistics.diversity import clip_spec, diversity_folder
    from tgo_pipeline.generators import plan as plan_generations
    from tgo_pipeline.rewards.specs import resolve_all

    clip = clip_spec(list(resolve_all(rewards).values()))
    drawn = plan_generations(**_sampling(params, side, test))
    diversity_folder(side.generations, side.diversity, drawn, clip, params.runtime, params.score.frames)


def plan(params: Params, workspace: Workspace) -> dict[Path, list[Shard]]:
    """The folders of all models with their shards; loads no model.

    What the scores depend on is known once all generations of a model are drawn; until then its score shards carry an
    empty fingerprint, so that none of them counts as done. Raises `TgoError` for missing inputs.
    """
    from tgo_pipeline.evaluation.statistics.diversity import clip_spec, plan_diversity
    from tgo_pipeline.generators import plan as plan_generations
    from tgo_pipeline.rewards.specs import resolve_all
    from tgo_pipeline.scoring.stage import plan as plan_scores

    test = read_test_prompts(workspace.prompts)
    rewards = evaluation_rewards(params)
    chosen = sides(params, workspace)
    require_models(chosen)
    shards: dict[Path, list[Shard]] = {}
    for side in chosen:
        drawn = shards[side.generations] = plan_generations(**_sampling(params, side, test))
        complete = status(side.generations, drawn).done == len(drawn)
        unknown = [dataclasses.replace(shard, fingerprint="") for shard in drawn]
        shards[side.scores] = (
            plan_scores(
                side.generations,
                rewards,
                params.score.dtype,
                frames=params.score.frames,
                frame_parts=params.score.frame_parts,
            )
            if complete
            else unknown
        )
        if has_diversity(params):
            clip = clip_spec(list(resolve_all(rewards).values()))
            shards[side.diversity] = plan_diversity(side.generations, drawn, clip, params.score.frames)
    return shards


def remove_others(chosen: Sequence[Side], folder: Path) -> None:
    """Remove the folders of models that are no longer evaluated, as shards outside of a plan are removed.

    Only a folder that holds nothing but what this module writes is one; anything else in `folder` is left alone.
    """
    kept = {side.folder.name for side in chosen}
    for place in sorted(folder.iterdir()):
        if place.is_dir() and place.name not in kept and _is_side(place):
            with lock(place / "generations"):
                log.info("removing %s: its model is not in evaluate.models any more", place)
                for part in PARTS:
                    syncing.remove_others(place / part, ())
                shutil.rmtree(place)


def _is_side(folder: Path) -> bool:
    inside = [part for part in folder.iterdir() if not part.name.endswith(".lock")]
    shards = [file for part in inside if part.is_dir() for file in part.iterdir()]
    return (
        bool(shards)
        and {part.name for part in inside} <= set(PARTS)
        and all(
            SHARD_NAME.fullmatch(file.name)
            or file.name.startswith(TEMPORARY)
            or is_sidecar(file)
            or is_parts(file)
            for file in shards
        )
    )


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
