"""Upload a shared folder to the model hub: only what is missing there, and nothing twice after a broken line.

What the repository holds is compared by hash first. A repository that holds nothing but files of this folder is an
upload that was interrupted, and is continued; any other one is written into only if that is asked for.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tgo_pipeline.errors import TgoError, first_line
from tgo_pipeline.hub.errors import RAISED, address, refusal
from tgo_pipeline.sharing import hub
from tgo_pipeline.sharing.folders import (
    CARD,
    DATASET,
    DATASET_PARTS,
    LEFT_OUT,
    MODEL,
    shared_files,
    state_of,
    stored_state,
)
from tgo_pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

log = logging.getLogger("tgo")
Kind = Literal["model", "dataset"]
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
KEPT = (".gitattributes",)
"""Files that the hub makes by itself."""
STALE = {MODEL: (".safetensors", ".json"), DATASET: (".parquet",)}
"""What would still be read if it stayed from an earlier push: other files are left alone."""


@dataclass(frozen=True)
class File:
    """A local file and its name in the repository."""

    path: Path
    name: str

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class Upload:
    """What is uploaded, to where."""

    kind: Kind
    repo: str
    revision: str | None
    folder: Path
    files: list[File]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class PushResult:
    """What a push did: the address of the repository, and how many files and bytes were sent, kept and removed."""

    address: str
    sent: int
    sent_bytes: int
    kept: int
    removed: int


def plan(
    kind: Kind, repo: str, folder: Path, revision: str | None = None, workspace: Workspace | None = None
) -> Upload:
    """The files of a shared folder; touches no network.

    Raises `TgoError` if the name is none, the folder lacks its card, or the run has changed since (`workspace` given).
    """
    if not REPO.fullmatch(repo):
        raise TgoError(
            f"{repo!r} is not the name of a repository: it is ORG/NAME, of letters, digits, '.', '_' and '-', such as "
            "my-name/sd15-tgo."
        )
    if not (folder / CARD).is_file():
        raise TgoError(
            f"{folder} has no {CARD}: run `tgo card {kind}` first, it makes the folder with its card."
        )
    stored = stored_state(folder)
    if stored and stored.get("kind") != kind:
        raise TgoError(
            f"{folder} holds a {stored.get('kind')}, not a {kind}: name another folder with --from."
        )
    if stored and workspace is not None and stored.get("state") != state_of(kind, workspace):
        raise TgoError(
            f"{folder} was made of another run than the one that is here now: run `tgo card {kind}` again, or name "
            "the folder with --from to push it as it is."
        )
    files = [File(path, path.relative_to(folder).as_posix()) for path in shared_files(folder)]
    return Upload(kind, repo, revision, folder, files)


def push(planned: Upload, *, private: bool = False, update: bool = False) -> PushResult:
    """Create the repository if need be and upload what it lacks; `update` writes into one that holds other files.

    Raises `TgoError` for a missing token or permission, no network, a repository that holds something else, and a
    public one where `private` is asked for.
    """
    with _explained(planned):
        api = hub.connect()
        _check_card(planned)
        hub.create(api, planned.repo, planned.kind, private=private, revision=planned.revision)
        remote = hub.remote_files(api, planned.repo, planned.kind, planned.revision)
        missing = [file for file in planned.files if not _is_there(file, remote)]
        stale = _stale(planned, remote)
        _require_ours(planned, remote, missing, update)
        if missing or stale:
            _upload(api, planned, missing, stale)
    return PushResult(
        address(planned.repo, planned.kind),
        len(missing),
        sum(file.size for file in missing),
        len(planned.files) - len(missing),
        len(stale),
    )


@contextlib.contextmanager
def _explained(planned: Upload) -> Iterator[None]:
    """Turn what the hub's library raises into a `TgoError` that says what was refused and what to do."""
    from huggingface_hub.errors import HTTPError  # type: ignore[reportPrivateImportUsage]

    try:
        yield
    except (HTTPError, *RAISED) as error:
        reason = refusal(error, planned.repo, planned.kind, writing=True)
        raise TgoError(
            f"the upload to {planned.repo} failed: {reason}. What was sent is kept: run the same command again to go "
            "on; --dry-run needs no network."
        ) from error


def _check_card(planned: Upload) -> None:
    """Ask the hub what it thinks of the card's front matter before anything is sent."""
    import yaml
    from huggingface_hub import RepoCard

    card = next(file for file in planned.files if file.name == CARD)
    try:
        RepoCard.load(card.path).validate(planned.kind)
    except (ValueError, yaml.YAMLError) as error:
        raise TgoError(
            f"the hub refuses the front matter of {card.path} ({first_line(error)}): correct it there, or run "
            f"`tgo card {planned.kind}` again."
        ) from error


def _is_there(file: File, remote: Mapping[str, RepoFile]) -> bool:
    """Whether the repository has this content under this name, by size and then by the hash that the hub states."""
    found = remote.get(file.name)
    if found is None or found.size != file.size:
        return False
    with file.path.open("rb") as stream:
        if found.lfs is not None:
            return hashlib.file_digest(stream, "sha256").hexdigest() == found.lfs.sha256
        content = b"blob %d\0" % file.size + stream.read()  # git's own hash of a small file
    return hashlib.sha1(content, usedforsecurity=False).hexdigest() == found.blob_id


def _stale(planned: Upload, remote: Mapping[str, RepoFile]) -> list[str]:
    """Files of an earlier push that would be read along with the new ones."""
    wanted = {file.name for file in planned.files}
    return sorted(
        name
        for name in remote
        if name not in wanted
        and name.endswith(STALE[planned.kind])
        and (planned.kind == MODEL or name.startswith(tuple(f"{part}/" for part in DATASET_PARTS)))
    )


def _require_ours(
    planned: Upload, remote: Mapping[str, RepoFile], missing: Sequence[File], update: bool
) -> None:
    to_send = {file.name for file in missing}
    wanted = {file.name for file in planned.files}
    other = sorted(name for name in remote if name not in KEPT and (name not in wanted or name in to_send))
    if not other or update:
        return
    shown = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
    raise TgoError(
        f"{planned.repo} exists already and holds files that are not those of this {planned.kind} ({shown}): choose "
        "another name, or give --update to replace them."
    )


def _upload(api: HfApi, planned: Upload, missing: Sequence[File], stale: Sequence[str]) -> None:
    """Everything but the card, and the card after it: it describes what is complete by then.

    The library leaves out what is there already, and continues where an earlier call was broken off.
    """
    message = f"Upload {planned.kind} with tgo-pipeline"
    where: dict[str, Any] = {
        "repo_id": planned.repo,
        "repo_type": planned.kind,
        "revision": planned.revision,
    }
    card = next((file for file in missing if file.name == CARD), None)
    log.info("uploading %d files, %s", len(missing), hub.size(sum(file.size for file in missing)))
    if stale or any(file is not card for file in missing):
        api.upload_folder(
            folder_path=planned.folder,
            ignore_patterns=[*LEFT_OUT, CARD],
            delete_patterns=[glob.escape(name) for name in stale] or None,
            commit_message=message,
            **where,
        )
    if card is not None:
        api.upload_file(
            path_or_fileobj=card.path, path_in_repo=CARD, commit_message=f"{message}: its card", **where
        )
