"""Files of open_clip's package, found without importing it: that imports timm and every model, for many seconds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tgo_pipeline.errors import TgoError


def open_clip_file(name: str) -> Path:
    """A file beside the package's own code. Raises `TgoError` if open_clip is not installed."""
    package = find_spec("open_clip")
    if package is None or package.origin is None:
        raise TgoError(f"open_clip is not installed, whose {name} is needed: pip install open_clip_torch.")
    return Path(package.origin).with_name(name)
