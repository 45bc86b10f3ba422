"""What cards say, read from the tables of a run and never from memory of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import EMBEDDED, Params
from tgo_pipeline.rendering.markdown import code
from tgo_pipeline.storage.tables import read_metadata, sample_column

PAPER = "https://arxiv.org/abs/2605.04653"
_PLACE = re.compile(r"(?P<kind>(?:[\w.-]+[:=])*)(?P<place>[~/].*)", re.DOTALL)
"""A path of this machine, by itself or as part of an address (`pickapic:/data/x`, `pickscore=/data/x`)."""


@dataclass(frozen=True)
class RewardFact:
    """A score column and what exactly gave its numbers; unknown parts are None."""

    column: str
    reward: str
    version: str | None
    scale: str | None
    source: str | None
    sha256: str | None
    dtype: str | None


def described_rewards(params: Params, *folders: Path) -> list[RewardFact]:
    """Every score column of the folders, as the shards say; feedback columns as the parameters say."""
    stored: dict[str, Mapping[str, Any]] = {}
    for folder in folders:
        for path in shards(folder):
            stored = {**read_metadata(path).get("rewards", {}), **stored}
    given = {**params.score.rewards, **params.evaluate.rewards}
    columns = dict.fromkeys([*given, *stored, *params.score.feedback])
    return [_reward(name, stored.get(name, {}), params) for name in columns]


def _reward(column: str, stored: Mapping[str, Any], params: Params) -> RewardFact:
    feedback = params.score.feedback.get(column)
    if feedback is not None:
        kind = f"feedback ({feedback.kind})"
        return RewardFact(column, kind, None, None, feedback.source, stored.get("sha256"), None)
    given = {**params.score.rewards, **params.evaluate.rewards}.get(column)
    return RewardFact(
        column,
        str(stored.get("reward", column)),
        stored.get("version"),
        stored.get("scale"),
        stored.get("source") or given or "the official checkpoint",
        stored.get("sha256"),
        stored.get("dtype"),
    )


def shards(folder: Path) -> list[Path]:
    """The Parquet shards of a folder in order, none if it does not exist."""
    return sorted(folder.glob("[!.]*.parquet"))


def holds_clips(generations: Path) -> bool:
    """Whether a folder of generations holds clips; False if it holds nothing."""
    return any(sample_column(path) == "video" for path in shards(generations)[:1])


def task(clips: bool) -> str:
    """What the hub calls what the model does."""
    return "text-to-video" if clips else "text-to-image"


def hub_id(model: str) -> str | None:
    """The model as an id of the hub; None for a folder of this machine and for an embedded model."""
    is_folder = without_places(model) != model or Path(model).expanduser().exists()
    return None if model in EMBEDDED or is_folder else model


def shown_model(model: str) -> str:
    """What a card calls a model or a source: a folder of this machine by its last name alone, which is nobody else's
    business."""
    folder = Path(model).expanduser()
    return folder.resolve().name if model not in EMBEDDED and folder.exists() else without_places(model)


def target_words(params: Params) -> str:
    """The target as Markdown: the score, or how which scores are combined."""
    names = ", ".join(code(name) for name in params.target_rewards)
    return names if params.target_rewards == [params.target.reward] else f"{params.target.reward} of {names}"


def tracked(params: Params) -> dict[str, Any]:
    """All parameters that change numbers, as plain data, with folders of this machine by their last names."""
    sections = {key: value for key, value in dataclasses.asdict(params).items() if key != "runtime"}
    return without_places(sections)


def without_places(value: Any) -> Any:
    """Plain data with every absolute path cut to its last name: paths of this machine are private."""
    if isinstance(value, dict):
        return {key: without_places(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_places(each) for each in value]
    if isinstance(value, str) and (found := _PLACE.fullmatch(value)):
        is_url = found["kind"] and found["place"].startswith("//")
        return value if is_url else found["kind"] + Path(found["place"]).name
    return value


def require_file(path: Path, stage: str) -> None:
    """Raise `TgoError` naming the stage to run if a table or folder is missing."""
    if not path.exists():
        raise TgoError(f"{path} does not exist: run the {stage} stage first (`tgo run {stage}`).")
