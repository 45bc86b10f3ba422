"""What every test needs, and needs undone afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.long import is_long, is_longest

if TYPE_CHECKING:
    from tests.hub_server import HubServer

FIRST = (
    "test_kills.py",
    "test_fuzz.py",
    "test_kill.py",
    "test_parallel.py",
    "test_masked_project.py",
    "test_dvc.py",
    "test_star_ratings.py",
    "test_recipe_projects.py",
    "test_trainer.py",
)
"""Files that take longest: two processes that share the files begin with them and end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is long, and put the files that take longest first; everything else in its order."""
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(FIRST)))
    for item in items:
        if is_long(item.nodeid):
            item.add_marker("long")
        if is_longest(item.nodeid):
            item.add_marker("longest")


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is kept in the user's own cache, also not by the processes that tests start."""
    before = os.environ.get("TGO_CACHE")
    os.environ["TGO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["TGO_CACHE"]
    if before is not None:
        os.environ["TGO_CACHE"] = before


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty hub and an empty cache of it."""
    from huggingface_hub import constants

    from tests.hub_server import HubServer

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with HubServer() as server:
        server.stand_in(monkeypatch)
        yield server


@pytest.fixture(autouse=True)
def _denormal_numbers() -> Iterator[None]:
    """Stages flush denormal numbers for their whole process; hypothesis wants them back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
