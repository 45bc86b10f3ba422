"""Whether the model hub gives what the parameters name, by what it says of files: none is downloaded.

Nothing is asked if nothing is on the hub. Every repository is asked once, all at the same time.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.doctor.findings import Finding, fail, note, ok, warn
from tgo_pipeline.doctor.hub import cached
from tgo_pipeline.doctor.hub.answers import Key, _timeout_s, ask_all
from tgo_pipeline.doctor.hub.findings import about, to_download
from tgo_pipeline.doctor.request import Request
from tgo_pipeline.doctor.resources import Need, compare
from tgo_pipeline.doctor.sources import NamedSource, addressed, sources
from tgo_pipeline.params.recipes import PLACEHOLDER

if TYPE_CHECKING:
    from tgo_pipeline.doctor.examine import Check
    from tgo_pipeline.hub.address import Official


def checks(case: Request) -> Iterator[Check]:
    """The way to the hub, then every repository; nothing where no source is on it."""
    if case.params is None:
        return
    wanted, urls = sources(case.params), addressed(case.params)
    if not wanted and not urls:
        return
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its advice on tokens is given here
    reason = _no_route() if wanted else None
    answers = {} if reason else ask_all({_key(source) for source in wanted})
    if wanted:
        yield "endpoint", lambda: _endpoint(reason)
    for source in wanted:
        if reason is None:
            yield source.subject, lambda s=source: about(s, answers[_key(s)])
        else:
            yield source.subject, lambda s=source: _from_cache(s)
    for subject, each in urls.items():
        yield subject, lambda s=subject, e=each: _at_url(s, e)
    waiting: dict[str, int] = {}  # a file that several keys need is counted once
    for source in wanted if reason is None else ():
        waiting |= to_download(source, answers[_key(source)])
    if waiting:
        yield "cache", lambda: _room(sum(waiting.values()))


def _key(source: NamedSource) -> Key:
    """A revision that is still to be filled in asks for the newest one."""
    revision = None if source.revision == PLACEHOLDER else source.revision
    return source.repository, source.kind, revision


def _no_route() -> str | None:
    """Why the hub cannot be asked; None if it can."""
    from huggingface_hub import constants

    from tgo_pipeline.hub.errors import Unreachable
    from tgo_pipeline.hub.route import require_route

    try:
        require_route(constants.ENDPOINT, _timeout_s())
    except Unreachable as error:
        return str(error)
    return None


def _endpoint(reason: str | None) -> Iterator[Finding]:
    from huggingface_hub import constants, get_token

    if reason is None:
        token = "with" if get_token() else "without"
        yield ok("endpoint", f"{constants.ENDPOINT} can be reached, {token} a token.")
    elif constants.is_offline_mode():
        yield note(
            "endpoint", "HF_HUB_OFFLINE is set: everything must be in the cache, which is looked at now."
        )
    else:
        yield warn(
            "endpoint",
            f"{constants.ENDPOINT} cannot be reached ({reason}): check the network, a proxy (HTTPS_PROXY) or a mirror "
            "(HF_ENDPOINT). What is in the cache is looked at now.",
        )


def _from_cache(source: NamedSource) -> Iterator[Finding]:
    """Whether a source can be had without the hub."""
    from tgo_pipeline.doctor.weights import pipeline

    subject = source.subject
    if source.address is not None:
        yield fail(subject, f"{source} is streamed from the hub: name a local copy (docs/DATASETS.md).")
    elif source.files or source.weights:
        if lacking := cached.missing(source):
            yield fail(
                subject,
                f"{source}: the cache has no {', '.join(lacking)}: download where there is a network (hf download "
                f"{source.repository}), or name a folder.",
            )
        else:
            yield from cached.whole(source)
    elif folder := cached.pipeline_folder(source.repository, source.revision):
        yield from pipeline(subject, folder)
    else:
        yield fail(
            subject,
            f"{source} is not in the cache: download it where there is a network (hf download {source.repository}), "
            "or name a folder.",
        )


def _room(size_bytes: int) -> Iterator[Finding]:
    """Whether what is to be downloaded fits onto the disk of the hub's cache."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    need = Need(size_bytes, f"to {folder} go")
    yield from compare(
        "cache", shutil.disk_usage(there).free, [need], "make room, or set HF_HOME to another disk"
    )


def _at_url(subject: str, wanted: Official) -> Iterator[Finding]:
    """A file of a release that is at a URL of its own: in the cache, or there with the recorded size."""
    from tgo_pipeline.doctor.hub.urls import size_at
    from tgo_pipeline.hub.errors import Unavailable

    if path := cached.official(wanted):
        cached.check_download(path, wanted)
        yield ok(subject, f"{wanted.file} is in the cache.")
        return
    try:
        size = size_at(wanted.address, _timeout_s())
    except Unavailable as error:
        yield fail(subject, f"{error}. Download {wanted.address} where there is a network, into a folder.")
        return
    if size is not None and wanted.size_bytes not in (None, size):
        yield fail(subject, f"{wanted.address} has {size:,} bytes, and {wanted.size_bytes:,} were expected.")
    else:
        yield ok(subject, f"{wanted.file} can be downloaded from {wanted.address}.")
