"""Small files of the model hub, and what to do when it does not give them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tgo_pipeline.errors import TgoError

UNAUTHORISED, FORBIDDEN, NOT_FOUND = 401, 403, 404
LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token with write access"

TOKEN_PAGE = "settings/tokens"


def fetch(repository: str, file: str, revision: str | None = None) -> Path | None:
    """The local path of one file of a hub repository, None if it has no such file; downloads that file alone.

    Raises `TgoError` that says what to do: for a gated repository, a missing one, and a hub out of reach.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except LocalEntryNotFoundError as error:
        raise TgoError(explain(repository, error)) from error
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TgoError(explain(repository, error)) from error


def explain(repository: str, error: BaseException) -> str:
    """What went wrong with a repository of the hub, and what to do about it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"{constants.ENDPOINT}/{repository}"
    if constants.is_offline_mode():
        return (
            f"{repository} is not in the local cache, and HF_HUB_OFFLINE forbids downloads: unset it, or put the "
            "model's files into a folder and name that."
        )
    if isinstance(error, GatedRepoError):
        return (
            f"{repository} is gated and the hub did not let you in: accept its licence on {page} with your account, "
            f"make a read token on {constants.ENDPOINT}/{TOKEN_PAGE}, and run `hf auth login` (or set HF_TOKEN)."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no such revision: pin a commit that {page} lists."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no repository {repository}, or you may not read it: mend the name, or log in with "
            "`hf auth login` (or set HF_TOKEN)."
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"the hub refused {repository} (HTTP {status}): accept its licence on {page}, and log in with "
            "`hf auth login` (or set HF_TOKEN to a token that may read it)."
        )
    reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
    return f"{repository}: the hub at {constants.ENDPOINT} did not answer as it should ({reason}): check the network."


def address(repo: str, kind: str) -> str:
    """Where a browser finds a repository."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"


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
