"""What the hub answers about repositories, asked all at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tgo_pipeline.doctor.sources import Kind

TIMEOUT_S = 5.0
"""How long the hub may take for an answer, if HF_HUB_ETAG_TIMEOUT does not say less: doctor is to end in seconds."""
AT_ONCE = 8
"""Questions at a time: each waits for the network, and a hub limits who asks more."""
Key = tuple[str, Kind, str | None]


@dataclass(frozen=True)
class Answer:
    """What the hub said of a repository, or the error that it ended with."""

    info: Any = None
    error: Exception | None = None


def _timeout_s() -> float:
    from huggingface_hub import constants

    return min(TIMEOUT_S, constants.HF_HUB_ETAG_TIMEOUT)


def ask_all(keys: set[Key]) -> dict[Key, Answer]:
    """Ask for every repository at the same time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(keys, pool.map(_ask, keys), strict=True))


def _ask(key: Key) -> Answer:
    """Names, sizes and hashes of a repository's files; of a gated one also whether they may be read."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    repository, kind, revision = key
    try:
        info: Any = HfApi().repo_info(
            repository,
            repo_type=kind,
            revision=revision,
            files_metadata=kind == "model",
            timeout=_timeout_s(),
        )
        if getattr(info, "gated", False) and info.siblings:
            name = max(info.siblings, key=lambda each: each.size or 0).rfilename
            url = hf_hub_url(repository, name, repo_type=kind, revision=info.sha)
            get_hf_file_metadata(url, timeout=_timeout_s())
        return Answer(info)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is said of this repository alone
        return Answer(error=error)
