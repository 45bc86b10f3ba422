"""A toy project as the working folder, and `tgo doctor` in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doctor import toy

Doctor = Callable[..., toy.Shown]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound project, which is the working folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    toy.make_project(folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def doctor(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """`doctor(*options)` runs the command in the project."""
    return lambda *options: toy.doctor(capsys, monkeypatch, *options)
