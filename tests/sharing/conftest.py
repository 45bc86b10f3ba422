"""One finished run that the tests of cards share; none of them writes into it but below `share`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sharing.finished import finish, places
from tgo_pipeline.params import Params
from tgo_pipeline.storage.workspace import Workspace


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, parameters and tables."""

    folder: Path
    params: Params

    @property
    def places(self) -> Workspace:
        return places(self.folder)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a full fine-tuning of the small world."""
    folder = tmp_path_factory.mktemp("sharing") / "run"
    return Run(folder, finish(folder))
