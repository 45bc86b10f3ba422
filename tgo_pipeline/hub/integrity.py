"""Whether a file is what its name says: the released weights, other weights, or no weights at all."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub import cache
from tgo_pipeline.hub.address import Official
from tgo_pipeline.hub.weight_files import refuse_imposter

log = logging.getLogger("tgo")


def check_weights(name: str, path: Path, known: Mapping[str, Official], others: Mapping[str, str]) -> None:
    """Check a local weight file of reward `name`.

    Raises `TgoError` if it is not a weight file at all, the official file of another reward (`others`: file to reward),
    or of the size of the official one (`known`) with another content. Another size is said once: other weights.
    """
    if path.name in others:
        raise TgoError(
            f"reward {name}: {path.name} is the official file of {others[path.name]}, whose scores are others. "
            f"Ask for {others[path.name]}, or give {name} its own file."
        )
    refuse_imposter(path)
    official = known.get(path.name)
    if official is None or official.sha256 is None:
        return
    if path.stat().st_size != official.size_bytes:
        _say_unofficial(path, f"{path.stat().st_size:,} bytes instead of {official.size_bytes:,}")
    elif cache.sha256(path) != official.sha256:
        raise TgoError(
            f"reward {name}: {path} is as long as the official file but is not it: its sha256 is "
            f"{cache.sha256(path)}, that of the official one is {official.sha256}. It is damaged or was changed: "
            f"download it again from {official.address}."
        )


def check_download(path: Path, official: Official) -> None:
    """Check a file that came from the hub or a URL against its recorded sha256, or the one that the hub states.

    Raises `TgoError` naming both if they differ.
    """
    expected = official.sha256 or _stated(path)
    if expected is None or cache.sha256(path) == expected:
        return
    raise TgoError(
        f"{official.address} was downloaded, but its sha256 is {cache.sha256(path)} instead of {expected}: the file is "
        f"damaged or was changed, and is not used. Delete {path.resolve()} if it is there, and run again."
    )


def _stated(path: Path) -> str | None:
    """The sha256 that the hub's cache names large files by."""
    blob = path.resolve().name
    return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None


@lru_cache(maxsize=256)
def _say_unofficial(path: Path, difference: str) -> None:
    log.warning("%s is not the official file of that name (%s): using it as other weights", path, difference)
