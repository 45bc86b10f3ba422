"""What DVC demands of a parameter file: every name of dvc.yaml is in it, even where a default would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import yaml_text
from tgo_pipeline.formats.files import read_text
from tgo_pipeline.storage.workspace import Workspace

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
