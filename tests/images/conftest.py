"""Images read by both commands, and a hub on this machine that both read from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datasets.conftest import hub as data_hub
from tests.hub_server import HubServer
from tests.scoring.command.conftest import tgo

__all__ = ["data_hub", "tgo"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(data_hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty hub for the library `datasets` too."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", data_hub.endpoint)
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", tmp_path / "cache")
    yield data_hub


def publish(hub: HubServer, repository: str, root: Path) -> str:
    """Put a folder on the hub; its address."""
    for path in root.rglob("*"):
        if path.is_file():
            hub.files[f"{repository}/{COMMIT}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return f"hf:{repository}@{COMMIT}"
