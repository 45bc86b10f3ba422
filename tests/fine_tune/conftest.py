"""One tiny data set and model for all tests of fine-tuning; each test has places of its own to write to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fine_tune import world


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, prompts, generations, scores, thresholds and labels; tests read it only."""
    return world.build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def places(source: Path, tmp_path: Path) -> dict[str, Path]:
    """Inputs from `source`, outputs in a fresh folder."""
    return world.joined_places(source, tmp_path)


@pytest.fixture
def model(source: Path) -> Path:
    return source / "model"


@pytest.fixture(autouse=True)
def keep_denormals() -> Iterator[None]:
    """Training flushes denormal numbers for the whole process; other tests may want them."""
    yield
    import torch

    torch.set_flush_denormal(False)
