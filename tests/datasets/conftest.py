"""A hub of data sets on this machine, and what a stream gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty hub."""
    with HubServer() as server:
        server.stand_in(monkeypatch)
        yield server
