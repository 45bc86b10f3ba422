"""Addresses on the model hub: a repository at a revision, a file of a release, a split of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

from tgo_pipeline.errors import TgoError

PREFIX = "hf:"
FORM = "hf:ORGANISATION/NAME@REVISION/SPLIT"

MOVING = ("main", "master", "HEAD")


@dataclass(frozen=True)
class Repository:
    """A repository of the model hub at a commit or tag."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"


@dataclass(frozen=True)
class Official:
    """A file of a release: its name there, a hub repository or a URL, and its size and sha256 where they are known."""

    file: str
    place: Repository | str
    size_bytes: int | None = None
    sha256: str | None = None

    @property
    def address(self) -> str:
        """Where a browser downloads it."""
        if isinstance(self.place, str):
            return self.place
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.place.repo, self.file, revision=self.place.revision)

    @property
    def identity(self) -> str:
        """What stands for the content: its sha256, or the pinned place."""
        return self.sha256 or f"{self.place}/{self.file}"


class Address(NamedTuple):
    """What `hf:org/name@revision[/[config/]split]` names."""

    repository: str
    revision: str
    config: str | None
    split: str | None


def parse(text: str) -> Address:
    """Read an address. Raises `TgoError` if it lacks the repository or the revision, or the revision moves."""
    repository, _, rest = text.removeprefix(PREFIX).rpartition("@")
    revision, *places = rest.split("/")
    if not repository or not revision or len(places) > 2 or not all(places):
        raise TgoError(
            f"{text!r} names no data set: write {FORM}, with a commit (or a tag) as the revision; a data set with "
            "configurations has .../CONFIGURATION/SPLIT."
        )
    if revision in MOVING:
        raise TgoError(
            f"{text} may change at any time: pin a commit, {PREFIX}{repository}@COMMIT, so that its rows stay the same."
        )
    config, split = (None, *places)[-2:] if places else (None, None)
    return Address(repository, unquote(revision), config, split)
