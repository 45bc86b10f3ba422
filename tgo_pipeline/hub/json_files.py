"""The JSON files beside weights: objects, or one error that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tgo_pipeline.formats.json_text import read_object


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `TgoError` if the file cannot be read, is not JSON, is too deep, or holds no object."""
    return read_object(path, "copy it again, complete")
