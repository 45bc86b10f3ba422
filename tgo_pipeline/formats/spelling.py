"""One name in several spellings: `é` as one letter or as two (macOS), folders parted by slashes or backslashes."""

from __future__ import annotations

import os
import unicodedata


def key(name: str) -> str:
    """The same text for every spelling of a name or relative path, for comparisons."""
    return unicodedata.normalize("NFC", os.path.normpath(slashes(name)))


def slashes(name: str) -> str:
    """A relative path with the separators of this system; Windows writes backslashes."""
    return name.replace("\\", "/")


def on_disk(folder: str | os.PathLike[str], name: str) -> str:
    """The path of a file below a folder: as its name is written, or else in another spelling if that one is there."""
    path = os.path.join(folder, name)
    if os.path.lexists(path):
        return path
    for form in ("NFC", "NFD"):
        other = os.path.join(folder, unicodedata.normalize(form, slashes(name)))
        if os.path.lexists(other):
            return other
    return path
