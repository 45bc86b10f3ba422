"""The model hub as `push` needs it: what a repository holds, and its refusals as errors that say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.errors import LOGIN

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile


def connect() -> HfApi:
    """The hub with the user's token. Raises `TgoError` if there is none, or no way to the hub."""
    from huggingface_hub import HfApi, constants, get_token

    from tgo_pipeline.hub.route import hub_out_of_reach

    if constants.is_offline_mode():
        raise TgoError("HF_HUB_OFFLINE forbids the network: unset it to push, or look with --dry-run.")
    token = get_token()
    if not token:
        raise TgoError(f"no token for {constants.ENDPOINT}: {LOGIN} (--dry-run needs none).")
    if no_route := hub_out_of_reach():
        raise TgoError(f"{no_route}: check the network, or look with --dry-run.")
    return HfApi(token=token)


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


def remote_files(api: HfApi, repo: str, kind: str, revision: str | None) -> dict[str, RepoFile]:
    """What the repository holds, by name."""
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(repo, recursive=True, revision=revision, repo_type=kind)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def size(bytes_: int) -> str:
    """A number of bytes in units of a thousand."""
    value = float(bytes_)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
