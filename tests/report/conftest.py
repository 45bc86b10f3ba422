"""One finished run and its report for all tests of the report."""

from __future__ import annotations

import pytest

from tests.report.workspace import Workspace, write_workspace
from tgo_pipeline.report.build import build


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = write_workspace(tmp_path_factory.mktemp("run"))
    build(made.params, made.sources)
    return made


@pytest.fixture(scope="session")
def page(workspace: Workspace) -> str:
    return workspace.report.read_text(encoding="utf-8")
