"""Official files from the model hub, at pinned commits, or from a URL; offline from the caches."""

from __future__ import annotations

import http.client
import logging
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub import cache
from tgo_pipeline.hub.address import Official, Repository
from tgo_pipeline.hub.errors import RAISED, Unavailable, Unreachable, refusal
from tgo_pipeline.hub.integrity import check_download
from tgo_pipeline.hub.route import require_route
from tgo_pipeline.storage.disk import explain_disk, refused
from tgo_pipeline.storage.writing import atomic

log = logging.getLogger("tgo")
TIMEOUT_S = 20
"""How long a server that has answered may be silent while it sends a file."""


def fetch_all(reward: str, wanted: Mapping[str, Official], then: str) -> dict[str, Path]:
    """The paths of official files, name in the layout to path; downloads those that no cache has.

    Raises `TgoError` that says for each missing file where it can be found, and to do `then` with it.
    """
    paths: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for name, official in wanted.items():
        try:
            paths[name] = fetch(official)
        except Unavailable as error:
            missing[name] = str(error)
    if not missing:
        return paths
    files = "; ".join(_instruction(name, wanted[name]) for name in missing)
    reasons = "; ".join(dict.fromkeys(missing.values()))
    raise TgoError(
        f"reward {reward}: {', '.join(missing)} cannot be downloaded from here ({reasons}). "
        f"Where there is a network, download into one folder: {files}. Then {then}."
    )


def _instruction(name: str, official: Official) -> str:
    size = f", {official.size_bytes:,} bytes" if official.size_bytes else ""
    return f"{official.address} (as {name}{size})"


def fetch(official: Official) -> Path:
    """The path of an official file in the hub's cache or this package's, downloaded if it is in neither.

    Raises `Unavailable` if that fails and `TgoError` if the content is not what was released.
    """
    if isinstance(official.place, str):
        return _fetch_url(official.place, official)
    path = _download(official.place, official.file)
    if path is None:
        raise Unavailable(f"{official.place} has no {official.file}")
    check_download(path, official)
    return path


def find(place: Repository, file: str) -> Path | None:
    """A file of a hub repository, downloaded unless it is in the hub's cache; None if the repository has none.

    Raises `TgoError` if the repository cannot be reached or the file came damaged.
    """
    try:
        path = _download(place, file)
    except Unavailable as error:
        if isinstance(error, Unreachable) and _is_cached(place):
            log.warning("%s: the cache has no %s, and the hub is out of reach: going on without", place, file)
            return None
        raise TgoError(
            f"{file} of {place} is not in the model hub's cache and cannot be downloaded ({error}). Where there is a "
            "network, download the repository into a folder, and name that instead."
        ) from error
    if path is not None:
        check_download(path, Official(file, place))
    return path


def _download(place: Repository, file: str) -> Path | None:
    """A file of the hub, from its cache where possible; None if the repository has none. Raises `Unavailable`."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(place.repo, file, revision=place.revision)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None:  # the hub said earlier that there is none
        return None
    with explain_disk(Path(file)):
        log.info("asking the model hub for %s of %s", file, place)
        return ask(place.repo, file, place.revision)


def ask(repository: str, file: str, revision: str | None = None) -> Path | None:
    """The path of one file of a repository as the hub has it now; None if there is none.

    That in the cache where the hub is out of reach. Raises `Unavailable` if there is none either.
    """
    from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        HTTPError,  # type: ignore[reportPrivateImportUsage]  # of httpx, or of httpx2: as the release has it
        RemoteEntryNotFoundError,
    )

    try:
        require_route(hf_hub_url(repository, file, revision=revision))
    except Unreachable:
        if isinstance(cached := try_to_load_from_cache(repository, file, revision=revision), str):
            return Path(cached)
        raise
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except RemoteEntryNotFoundError:
        return None
    except (HTTPError, *RAISED) as error:
        if refused(error) is not None:
            raise
        raise Unavailable(refusal(error, repository, revision=revision)) from error


def _is_cached(place: Repository) -> bool:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=place.repo, repo_type="model")
    return (folder / "snapshots" / place.revision).is_dir() or (folder / "refs" / place.revision).is_file()


def _fetch_url(url: str, official: Official) -> Path:
    """Download to this package's cache, under the recorded sha256; kept only if the content is that."""
    path = cache.folder("files") / (official.sha256 or urllib.parse.quote(url, safe="")) / official.file
    if path.is_file():
        check_download(path, official)
        return path
    require_route(url)
    log.info("downloading %s", url)
    with atomic(path) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, temporary.open("wb") as stream:
                shutil.copyfileobj(answer, stream)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise Unavailable(f"{url}: {getattr(error, 'reason', error)}") from error
        check_download(temporary, official)
    return path
