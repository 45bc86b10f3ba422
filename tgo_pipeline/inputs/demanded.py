"""What must be so for the last stage to run: DVC sees every name of dvc.yaml, and oracles know every caption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import yaml_text
from tgo_pipeline.formats.files import read_text
from tgo_pipeline.params import Params
from tgo_pipeline.storage.workspace import Workspace

MOVING_ORACLE, MOVING_MODEL = "moving_oracle", "demo-video"
ORACLES = {"oracle": "demo:plain", MOVING_ORACLE: "demo:moving"}
"""The rewards that know the small world's captions alone, and prompts that they know."""
SHOWN = 60
"""Characters of a caption in an error."""
DEFAULTS = {"seed": "0", "model": "demo", "revision": "null"}
"""Of the parameters that are not sections."""


def lacking(workspace: Workspace) -> str:
    """What to say of names that dvc.yaml has and the parameter file lacks; empty if none is."""
    stages = read_yaml(workspace.pipeline).get("stages") or {}
    wanted = (name for stage in stages.values() for name in stage.get("params", ()) if isinstance(name, str))
    given = read_yaml(workspace.params)
    missing = [name for name in dict.fromkeys(wanted) if name.split(".")[0] not in given]
    if not (missing and given):
        return ""
    lines = ", ".join(f"`{name}: {DEFAULTS.get(name, '{}')}`" for name in missing)
    return (
        f"{workspace.params} lacks {', '.join(missing)}, which {workspace.pipeline} names and DVC therefore wants "
        f"to see there: write {lines} for the defaults."
    )


def require_known_captions(params: Params) -> None:
    """Raise `TgoError` if an oracle of the small world is to judge samples of captions that it does not know, or if
    clips of its model would not be those that it was trained on.
    """
    _require_own_clips(params)
    section = params.prompts
    for oracle, example in ORACLES.items():
        if oracle not in {*params.score.rewards, *params.evaluate.rewards}:
            continue
        sources = {f"prompts.test.{name}": source for name, source in section.test.items()}
        if section.test_fraction or oracle in params.score.rewards:
            sources["prompts.train"] = section.train
        for key, source in sources.items():
            if (caption := _unknown_caption(oracle, source, section.column)) is not None:
                raise TgoError(
                    f"the reward {oracle} is the true preference of the small world alone, and {key} is "
                    f"{source}{caption}: remove {oracle} from the rewards, or take prompts such as {example}."
                )


def _require_own_clips(params: Params) -> None:
    """Raise `TgoError` if the small world's model of clips is to draw others: it would take hours and show nothing."""
    from tgo_pipeline.demo import moving, world

    own = (world.SIZE_PX, world.SIZE_PX, moving.FRAMES)
    asked = (params.generate.width, params.generate.height, params.generate.frames)
    if params.model == MOVING_MODEL and asked != own:
        raise TgoError(
            f"{MOVING_MODEL} draws clips of {own[0]} x {own[1]} pixels and {own[2]} frames, and generate.width, height "
            f"and frames are {', '.join(map(str, asked))}: begin with `tgo init --recipe {MOVING_MODEL}`."
        )


def _unknown_caption(oracle: str, source: str, column: str) -> str | None:
    """Which caption of a source an oracle does not know; empty where none was looked at, None if it knows all."""
    from tgo_pipeline.datasets.sources import is_on_hub
    from tgo_pipeline.demo import moving, world
    from tgo_pipeline.prompts.normalise import normalise
    from tgo_pipeline.prompts.sources import prompts

    if is_on_hub(source):
        return ""
    parse = moving.parse if oracle == MOVING_ORACLE else world.parse
    for text in filter(None, (normalise(prompt.text) for prompt in prompts(source, column))):
        try:
            parse(text)
        except ValueError:
            return f", with {text[:SHOWN]!r}"
    return None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file; empty if there is none. Raises `TgoError` if it holds no mapping."""
    if not path.is_file():
        return {}
    try:
        content = yaml_text.loads(read_text(path)) or {}
    except (TgoError, OSError, UnicodeDecodeError) as error:
        raise TgoError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise TgoError(f"{path} holds {type(content).__name__}, not a mapping.")
    return content
