"""How a stage ends that cannot go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import USER_ERROR, run_stage

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_a_disk_that_fills_up_outside_an_atomic_write_is_an_error_of_the_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stages.report.run", lambda params: FULL.write_text(params.model))
    with pytest.raises(SystemExit) as ended:
        run_stage("report", ROOT / "params.yaml")
    assert ended.value.code == USER_ERROR
    assert "tgo report: the disk is full while writing" in capsys.readouterr().err
