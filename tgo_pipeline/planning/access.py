"""Small files of the model hub, and what to do when it does not give them."""

from __future__ import annotations

from pathlib import Path

from tgo_pipeline.errors import TgoError

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
