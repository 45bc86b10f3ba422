"""What the hub's answer about a repository means for what is wanted of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, BinaryIO

from tgo_pipeline.datasets import open_dataset
from tgo_pipeline.doctor.findings import Finding, fail, note, ok, warn
from tgo_pipeline.doctor.hub import cached
from tgo_pipeline.doctor.resources import gigabytes
from tgo_pipeline.doctor.sources import NamedSource, moves
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators.location import INDEX
from tgo_pipeline.hub import weight_files
from tgo_pipeline.hub.errors import refusal
from tgo_pipeline.params.recipes import PLACEHOLDER
from tgo_pipeline.reading.hub_rows import is_hub_rows
from tgo_pipeline.reading.places import Place

if TYPE_CHECKING:
    from tgo_pipeline.doctor.hub.answers import Answer
    from tgo_pipeline.hub.address import Official

SUFFIX, PICKLE = ".safetensors", ".bin"


def about(source: NamedSource, answer: Answer) -> Iterator[Finding]:
    """Whether a repository is there, may be read, has the revision, and holds what is wanted."""
    if answer.error is not None:
        reason = f"{refusal(answer.error, source.repository, source.kind, source.revision)}."
        if cached.complete(source):
            yield warn(source.subject, f"{reason} Until then what is in the cache is used.")
        else:
            yield fail(source.subject, reason)
        return
    info = answer.info
    if source.revision == PLACEHOLDER or moves(source.revision):
        yield note(source.subject, f"the newest commit of {source.repository} is {info.sha}.")
    files = {each.rfilename: each for each in info.siblings or ()}
    if source.address is not None:
        yield from _dataset(source, source.address, list(files))
    elif source.files or source.weights:
        yield from _reward(source, files)
    else:
        yield from _pipeline(source, files)


def _dataset(source: NamedSource, address: str, names: list[str]) -> Iterator[Finding]:
    if is_hub_rows(address):
        yield ok(source.subject, f"{source}: {len(names)} file(s), streamed when they are read.")
        return
    dataset = open_dataset(address)
    dataset.place = Listed(str(source), getattr(dataset.place, "only", None), names)
    count = len(dataset.files())
    if dataset.place.only is not None and dataset.place.only not in names:
        raise TgoError(f"{source} has no file {dataset.place.only}.")
    yield ok(source.subject, f"{source}: {count} file(s), streamed when they are read.")


class Listed(Place):
    """A repository of which only the names of its files are known."""

    def __init__(self, name: str, only: str | None, names: Sequence[str]) -> None:
        self.name = name
        self.only = only
        self._names = sorted(names)

    def find(self, *patterns: str) -> list[str]:
        if self.only is not None:
            return [self.only]
        return [name for name in self._names if any(fnmatch(name, pattern) for pattern in patterns)]

    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        raise TgoError(f"{self.where(name)} is not read by this check.")

    def identity(self, names: Sequence[str]) -> list[str]:
        return [self.name, *names]


def _reward(source: NamedSource, files: dict[str, Any]) -> Iterator[Finding]:
    if not cached.missing(source):
        yield from cached.whole(source)
        return
    wanted = [each.file for each in source.files.values()]
    lacking = [name for name in wanted if name not in files]
    if source.weights and not _weights(source, files):
        lacking.append(" or ".join(source.weights))
    if lacking:
        yield fail(
            source.subject, f"{source} has no {', '.join(lacking)}: name the repository of this reward."
        )
        return
    for known in source.files.values():
        _compare(known, files[known.file])
    yield ok(source.subject, f"{source}: {gigabytes(_size(files, _needed(source, files)))} to download.")


def _compare(known: Official, stated: Any) -> None:
    """Raise `TgoError` if the hub states another size or sha256 than was recorded for a release."""
    if stated.size is not None and known.size_bytes not in (None, stated.size):
        raise TgoError(
            f"{known.file} of {known.place} has {stated.size:,} bytes, and {known.size_bytes:,} were expected: it "
            "is not the file of the release."
        )
    found = stated.lfs.sha256 if stated.lfs else None
    if found is not None and known.sha256 not in (None, found):
        raise TgoError(
            f"{known.file} of {known.place} has the sha256 {found}, and {known.sha256} was expected: it is not "
            "the file of the release."
        )


def _pipeline(source: NamedSource, files: dict[str, Any]) -> Iterator[Finding]:
    from tgo_pipeline.doctor.weights import pipeline

    if INDEX not in files:
        yield fail(
            source.subject,
            f"{source} has no {INDEX}, so it is not a pipeline of diffusers: name the repository that has one.",
        )
    elif folder := cached.pipeline_folder(source.repository, source.revision):
        yield from pipeline(f"{source.subject} (in the cache)", folder)
    else:
        size = _size(files, _needed(source, files))
        yield ok(source.subject, f"{source}: about {gigabytes(size)} to download.")


def to_download(source: NamedSource, answer: Answer) -> dict[str, int]:
    """Bytes of each file that the hub has and the cache lacks; of a data set none is kept."""
    if answer.error is not None or source.address is not None or cached.complete(source):
        return {}
    files = {each.rfilename: each for each in answer.info.siblings or ()}
    return {f"{source.repository}/{name}": _size(files, [name]) for name in _needed(source, files)}


def _needed(source: NamedSource, files: Mapping[str, Any]) -> list[str]:
    """The files of a repository that are read; of a reward's weights the first that there are."""
    if not source.files and not source.weights:
        return pipeline_files(list(files))
    return [*(each.file for each in source.files.values()), *_weights(source, files)]


def _weights(source: NamedSource, files: Mapping[str, Any]) -> list[str]:
    """The first form of a reward's weights that a repository has; of shards the index, and what is called like them."""
    form = next((form for form, _ in weight_files.forms(source.weights) if form in files), None)
    if form is None:
        return []
    if not form.endswith(".json"):
        return [form]
    stem, suffix = form.split(".index.")[0].rsplit(".", 1)
    return [
        form,
        *(name for name in files if name.startswith((f"{stem}-", f"{stem}.")) and name.endswith(suffix)),
    ]


def _size(files: Mapping[str, Any], names: Sequence[str]) -> int:
    return sum(files[name].size or 0 for name in names if name in files)


def pipeline_files(names: list[str]) -> list[str]:
    """The weight files that a pipeline is loaded from, part by part.

    Safetensors before pickles, and weights in half precision where there are no others.
    """
    weights = [name for name in names if name.count("/") == 1 and not name.startswith("safety_checker/")]
    chosen: dict[str, list[str]] = {}
    for variant in (None, *weight_files.VARIANTS):
        for suffix in (SUFFIX, PICKLE):
            found = [name for name in weights if name.endswith(suffix) and _is_of(name, variant)]
            new = {name.split("/")[0] for name in found} - chosen.keys()
            for name in found:
                if name.split("/")[0] in new:
                    chosen.setdefault(name.split("/")[0], []).append(name)
    return [name for part in chosen.values() for name in part]


def _is_of(name: str, variant: str | None) -> bool:
    """Whether a file is of a variant such as `fp16` (None: of none), and of a library that is used here."""
    first, *middle, _ = name.split("/")[1].split(".")
    known = first.startswith(("diffusion_pytorch_model", "model", "pytorch_model"))
    return known and [each.split("-")[0] for each in middle] == ([variant] if variant else [])
