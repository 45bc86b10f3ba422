"""The model hub as `push` needs it: what a repository holds, and its refusals as errors that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

UNAUTHORISED, FORBIDDEN, NOT_FOUND = 401, 403, 404
LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token with write access"


@dataclass(frozen=True)
class Remote:
    """A file of a repository: its size in bytes, and sha256 if it is stored as a large file, else git's sha1."""

    size: int
    digest: str
    large: bool


def connect() -> HfApi:
    """The hub with the user's token. Raises `TgoError` if there is none, or the network is forbidden."""
    from huggingface_hub import HfApi, constants, get_token

    if constants.is_offline_mode():
        raise TgoError("HF_HUB_OFFLINE forbids the network: unset it to push, or look with --dry-run.")
    token = get_token()
    if not token:
        raise TgoError(f"no token for {constants.ENDPOINT}: {LOGIN} (--dry-run needs none).")
    return HfApi(token=token)


def address(repo: str, kind: str) -> str:
    """Where a browser finds a repository."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"


def create(api: HfApi, repo: str, kind: str, *, private: bool, revision: str | None) -> None:
    """Make the repository, and the branch `revision`, unless they exist.

    Raises `TgoError` if it is public already and `private` is asked for.
    """
    api.create_repo(repo, repo_type=kind, private=private or None, exist_ok=True)
    if private and not api.repo_info(repo, repo_type=kind).private:
        raise TgoError(
            f"{repo} exists already and is public, but --private is given: make it private in its settings, or choose "
            "another name."
        )
    if revision and not revision.startswith("refs/"):
        api.create_branch(repo, branch=revision, repo_type=kind, exist_ok=True)


def remote_files(api: HfApi, repo: str, kind: str, revision: str | None) -> dict[str, Remote]:
    """What the repository holds, by name."""
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(repo, recursive=True, revision=revision, repo_type=kind)
    return {entry.path: _remote(entry) for entry in tree if isinstance(entry, RepoFile)}


def _remote(entry) -> Remote:
    if entry.lfs is not None:
        return Remote(entry.size, entry.lfs.sha256, True)
    return Remote(entry.size, entry.blob_id, False)


@contextlib.contextmanager
def explained(repo: str, kind: str) -> Iterator[None]:
    """Turn what the hub's library raises into a `TgoError` that says what was refused and what to do."""
    from huggingface_hub.errors import HTTPError  # type: ignore[reportPrivateImportUsage]

    try:
        yield
    except (HTTPError, RuntimeError, OSError, ValueError) as error:
        raise TgoError(_explain(repo, kind, error)) from error


def _explain(repo: str, kind: str, error: BaseException) -> str:
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # type: ignore[reportPrivateImportUsage]  # of httpx or httpx2, as its version has it
    )

    chain = list(_chain(error))  # the library wraps what happened in errors that say where
    for each in chain:
        if isinstance(each, HfHubHTTPError):
            return _refusal(repo, kind, each.response.status_code, one_line(each))
        if isinstance(each, HFValidationError):
            return f"{repo!r} is no name of a repository ({one_line(each)})."
        if isinstance(each, HTTPError):
            return (
                f"{address(repo, kind)} is out of reach ({one_line(each)}): what was sent is kept; run the same "
                "command again where there is a network, and it goes on. --dry-run needs none."
            )
    return f"{address(repo, kind)}: the upload failed ({one_line(chain[-1])}): what was sent is kept; run it again."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _refusal(repo: str, kind: str, status: int, said: str) -> str:
    where = address(repo, kind)
    if status == UNAUTHORISED:
        return f"{where}: the hub does not accept the token ({said}): {LOGIN}."
    if status == FORBIDDEN:
        return (
            f"{where}: the token may not write there ({said}): use one with write access to {repo.split('/')[0]}, or "
            "push to a name of your own."
        )
    if status == NOT_FOUND:
        return (
            f"{where}: the hub knows no such repository or revision ({said}): check the name and --revision."
        )
    return f"{where}: the hub refused with status {status} ({said}): what was sent is kept; try again later."


def one_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return next(
        (line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__
    )


def size(bytes_: int) -> str:
    """A number of bytes in units of a thousand."""
    value = float(bytes_)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
