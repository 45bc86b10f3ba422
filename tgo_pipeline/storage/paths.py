"""Names of files."""

import hashlib
import re
from pathlib import Path

SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.parquet")


def file_name(text: str) -> str:
    """`text` as part of a file name: itself where it can be one, else with `_` for the rest and a hash to tell it by.

    Two texts never give the same name, so that `a/b` and `a:b` do not overwrite each other.
    """
    plain = re.sub(r"[^A-Za-z0-9.+_-]", "_", text)
    if plain == text and not text.startswith("."):
        return text
    return f"{plain.lstrip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder in the order of their names, without hidden ones: those are not finished."""
    return sorted(folder.glob("[!.]*.parquet"))
