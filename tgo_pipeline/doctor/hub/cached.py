"""What is in the caches of this machine already, so that it needs no hub."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from tgo_pipeline.doctor.findings import Finding, ok
from tgo_pipeline.doctor.sources import NamedSource
from tgo_pipeline.generators.location import INDEX
from tgo_pipeline.hub import cache, weight_files
from tgo_pipeline.hub.address import Official, Repository
from tgo_pipeline.hub.integrity import check_download


def pipeline_folder(repository: str, revision: str | None) -> Path | None:
    """The folder of the hub's cache that holds a pipeline at a revision; None if its index is not there."""
    index = file(repository, INDEX, revision)
    return index.parent if index else None


def file(repository: str, name: str, revision: str | None) -> Path | None:
    """The path of a file in the hub's cache, None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def official(wanted: Official) -> Path | None:
    """The path of an official file in the hub's cache or in this package's, None if it is in neither."""
    if isinstance(wanted.place, Repository):
        return file(wanted.place.repo, wanted.file, wanted.place.revision)
    name = wanted.sha256 or urllib.parse.quote(wanted.place, safe="")
    path = cache.location() / "files" / name / wanted.file
    return path if path.is_file() else None


def missing(source: NamedSource) -> list[str]:
    """Files of a reward that are not in the cache; of weights any one will do."""
    lacking = [name for name, wanted in source.files.items() if official(wanted) is None]
    forms = [form for form, _ in weight_files.forms(source.weights)]
    if forms and not any(file(source.repository, form, source.revision) for form in forms):
        lacking.append(" or ".join(source.weights))
    return lacking


def complete(source: NamedSource) -> bool:
    """Whether a source can be had from the cache alone; a data set is always streamed."""
    if source.address is not None:
        return False
    if source.files or source.weights:
        return not missing(source)
    return pipeline_folder(source.repository, source.revision) is not None


def whole(source: NamedSource) -> Iterator[Finding]:
    """A reward of which everything is in the cache. Raises `TgoError` if a file is not what is known of it."""
    for wanted in source.files.values():
        if path := official(wanted):
            check_download(path, wanted)
    yield ok(source.subject, f"{source} is in the cache.")
