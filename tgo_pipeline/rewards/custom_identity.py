"""What the scores of a reward of one's own depend on, and its columns, found without importing it, or torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub import cache
from tgo_pipeline.plugins import folder
from tgo_pipeline.storage.fingerprints import content_fingerprint
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.storage.stores.inputs import local_path

_PART = re.compile(r"\w[\w-]*")


def custom_fingerprint(reference: str, source: str | None) -> str:
    """What the scores depend on: the files that define the object, its `version` if it has one, and the source.

    The object is not imported: commands that only look compare it too.
    """
    codes = folder.code_hashes(reference)
    return fingerprint_of(
        reward=reference,
        version=folder.stated_version(reference),
        code=sorted({codes[0], codes[-1]} if codes else ()),
        source=source_fingerprint(source),
    )


def source_fingerprint(source: str | None) -> str | None:
    """The content of a source that is a file or a folder here, else its name."""
    path = local_path(source) if source else None
    if path is None or not path.exists():
        return source
    return cache.sha256(path) if path.is_file() else content_fingerprint(path)


def own_parts(reference: str, file: Path | None = None) -> dict[str, str]:
    """What an object calls its further numbers, and what they mean: its attribute `parts`, as its file states it.

    `file` is the one that defines it, where that is not found from here. Raises `TgoError` for an attribute that is no
    dict of names and meanings, or is not written out.
    """
    value = folder.stated(reference, "parts", file)
    if value is None:
        return {}
    try:
        found = ast.literal_eval(value)
    except (ValueError, TypeError):
        found = None
    if not _are_parts(found):
        raise TgoError(
            f"{reference}: parts is {ast.unparse(value)}: write names and meanings out, such as "
            'parts = {"sharpness": "how sharp the edges are"}.'
        )
    return found


def _are_parts(found: Any) -> TypeGuard[dict[str, str]]:
    return isinstance(found, dict) and all(
        isinstance(name, str) and _PART.fullmatch(name) and isinstance(meaning, str)
        for name, meaning in found.items()
    )


def check_parts(name: str, found: Iterable[str], stated: Iterable[str]) -> None:
    """Raise `TgoError` unless a loaded reward has the parts that its file states, whose columns were planned for."""
    if (has := list(found)) != (planned := list(stated)):
        raise TgoError(
            f"reward {name} has {_listed(has)} once it is loaded, and its file states {_listed(planned)}: write "
            "`parts = {name: meaning}` out in the body of the class, or `function.parts = ...` beside the function."
        )


def _listed(parts: list[str]) -> str:
    return f"the parts {', '.join(parts)}" if parts else "no parts"
