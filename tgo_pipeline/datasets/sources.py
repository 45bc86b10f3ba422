"""What is named as a source of prompts or feedback: a public data set, rows of the hub, or a file."""

from __future__ import annotations

from pathlib import Path

from tgo_pipeline import datasets
from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.address import FORM, parse
from tgo_pipeline.reading.hub_rows import is_hub_rows
from tgo_pipeline.storage.fingerprints import content_fingerprint, fingerprint
from tgo_pipeline.storage.stores.inputs import local_path


def is_on_hub(source: str) -> bool:
    """Whether a source is on the hub, in which case its pinned revision says what it holds."""
    return is_hub_rows(source) or datasets.is_on_hub(source)


def identity(source: str) -> str:
    """A hash of what a source holds; the hub is not asked. Raises `TgoError` if it does not exist."""
    if datasets.is_dataset(source):
        return datasets.identity(source)
    if is_hub_rows(source):
        return fingerprint(hub=list(parse(source)))
    path = local_path(source)
    if not path.exists() or path.is_dir():
        forms = f" Name a file, {FORM}, or a public data set {datasets.known()}." if ":" in source else ""
        raise TgoError(f"{path} does not exist (looked in {Path.cwd()}).{forms}")
    return content_fingerprint(path)
