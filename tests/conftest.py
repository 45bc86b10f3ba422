"""What every test needs, and needs undone afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is kept in the user's own cache, also not by the processes that tests start."""
    before = os.environ.get("TGO_CACHE")
    os.environ["TGO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["TGO_CACHE"]
    if before is not None:
        os.environ["TGO_CACHE"] = before


@pytest.fixture(autouse=True)
def _denormal_numbers() -> Iterator[None]:
    """Stages flush denormal numbers for their whole process; hypothesis wants them back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
