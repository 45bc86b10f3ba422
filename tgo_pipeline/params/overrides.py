"""Values from the command line instead of those of `params.yaml`: `--set fine_tune.learning_rate=1e-5`.

A result of a stage is that of the parameters it ran with: the next stage without them finds it stale. What a stage ran
with is noted, to be said then.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import json_text, yaml_text
from tgo_pipeline.params.parsing import unknown_key
from tgo_pipeline.storage.workspace import HERE, Workspace
from tgo_pipeline.storage.writing import atomic


def override(kind: type, raw: Mapping[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Parameters with values of the command line, each `section.key=value` as YAML spells the value.

    `kind` is the dataclass that the parameters are parsed into. Raises `TgoError` for a text of another form and an
    unknown key; types are checked where the whole is parsed.
    """
    changed = copy.deepcopy(dict(raw))
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise TgoError(f"--set {text}: it must be KEY=VALUE, such as fine_tune.learning_rate=1e-5.")
        *sections, last = _names(kind, key, f"--set {text}: ")
        below = changed
        for name in sections:
            if not isinstance(below.get(name), dict):
                below[name] = {}
            below = below[name]
        try:
            below[last] = yaml_text.loads(value)
        except TgoError as error:
            raise TgoError(f"--set {text}: {error}") from error
    return changed


def _names(kind: type, key: str, where: str) -> list[str]:
    """The names that a key is made of. Names of rewards and the like may hold a dot: score.rewards.hpsv2.1."""
    name, _, rest = key.partition(".")
    hints = typing.get_type_hints(kind)
    if name not in hints:
        raise TgoError(where + unknown_key(name, name, list(hints)))
    if not rest:
        return [name]
    hint = hints[name]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
    if dataclasses.is_dataclass(hint):
        return [name, *_names(typing.cast(type, hint), rest, where)]
    if typing.get_origin(hint) is not dict:
        raise TgoError(f"{where}{name} is a value, and holds no {rest}.")
    inner = typing.get_args(hint)[1]
    if not dataclasses.is_dataclass(inner):
        return [name, rest]
    entry, _, field = rest.rpartition(".")
    return [name, entry, *_names(typing.cast(type, inner), field, where)] if entry else [name, rest]


def note(stage: str, given: Sequence[str], workspace: Workspace = HERE) -> None:
    """Note what a stage runs with besides the parameter file."""
    noted = _noted(workspace)
    if noted.get(stage, []) == list(given):
        return
    kept = {name: values for name, values in noted.items() if name != stage}
    if given:
        kept[stage] = list(given)
    workspace.overrides.parent.mkdir(parents=True, exist_ok=True)
    with atomic(workspace.overrides) as temporary:
        temporary.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def noted(stage: str, workspace: Workspace = HERE) -> list[str]:
    """What a stage ran with last besides the parameter file."""
    return _noted(workspace).get(stage, [])


def _noted(workspace: Workspace) -> dict[str, list[str]]:
    return json_text.read_object(workspace.overrides) if workspace.overrides.is_file() else {}
