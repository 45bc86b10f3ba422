"""JSON from outside: a key that is there twice, or values nested without end, are refused, not read in part.

`loads("{...}", "adapter_config.json")` and `read_object(path)` raise a `TgoError` that names the place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.formats.files import read_text


class DuplicateKey(ValueError):
    """An object has a key twice: the last value would win."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values. Raises `DuplicateKey`."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise DuplicateKey(f"the key {twice!r} is there twice: keep one of them")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=unique)
"""Raises `ValueError` (`DuplicateKey` among them), and `RecursionError` for values that are nested too deep."""


def reason(error: BaseException) -> str:
    """Why a text is not JSON that can be read, in one line."""
    if isinstance(error, RecursionError):
        return "its values are nested too deep"
    return in_one_line(error)


def loads(text: str | bytes, where: object) -> Any:
    """The value of a JSON text. Raises `TgoError` that says where it is."""
    try:
        return DECODER.decode(text.decode("utf-8") if isinstance(text, bytes) else text)
    except DuplicateKey as error:
        raise TgoError(f"{where}: {error}.") from None
    except (ValueError, RecursionError) as error:
        raise TgoError(f"{where}: not JSON ({reason(error)}).") from error


def read_object(path: Path, advice: str = "copy it again") -> dict[str, Any]:
    """The object that a JSON file holds. Raises `TgoError` if it cannot be read, or holds none."""
    try:
        value = DECODER.decode(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise TgoError(f"{path} cannot be read as JSON ({reason(error)}): {advice}.") from error
    if not isinstance(value, dict):
        raise TgoError(f"{path} holds a JSON {type(value).__name__}, not an object: {advice}.")
    return value
