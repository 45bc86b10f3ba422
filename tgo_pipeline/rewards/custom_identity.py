"""What the scores of a reward of one's own depend on, found without importing it, or torch."""

from __future__ import annotations

from pathlib import Path

from tgo_pipeline.hub import cache
from tgo_pipeline.plugins import folder
from tgo_pipeline.storage.fingerprints import content_fingerprint
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of


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
    path = Path(source).expanduser() if source else None
    if path is None or not path.exists():
        return source
    return cache.sha256(path) if path.is_file() else content_fingerprint(path)
