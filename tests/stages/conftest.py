"""A command in an empty folder that says what is wrong, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stages import USER_ERROR
from stages.cli import main
from tests.project import ROOT

Refused = Callable[[str, Sequence[str], str], None]
"""Runs a command with arguments, and looks for what it has to say."""


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    def run(command: str, arguments: Sequence[str], message: str) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["tgo", command, "--params", str(ROOT / "params.yaml"), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == USER_ERROR
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    return run
