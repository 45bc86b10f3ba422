"""`tgo levels` as a user types it."""

from pathlib import Path

import pytest

from stages import USER_ERROR
from stages.cli import main
from tests.project import ROOT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "data/labels holds no label shard: run the label stage first"), (["--batches", "2"], "equal to 8")],
)
def test_what_is_missing_or_wrong_is_said(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["tgo", "levels", "--params", str(ROOT / "params.yaml"), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == USER_ERROR
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
