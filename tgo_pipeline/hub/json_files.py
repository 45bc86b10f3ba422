"""The JSON files beside weights: objects, or one error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError, in_one_line


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `TgoError` if the file cannot be read, is not JSON, is too deep, or holds no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TgoError(
            f"{path} cannot be read as JSON ({in_one_line(error)}): copy it again, complete."
        ) from error
    if not isinstance(value, dict):
        raise TgoError(f"{path} holds a JSON {type(value).__name__}, not an object: copy it again, complete.")
    return value
