"""`tgo score` with a judge behind a URL: its answers in the table, and what is said where it gives none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from PIL import Image

from tests.rewards.judge.server import brightness, serving, text
from tests.scoring.command.conftest import Tgo

CALL = ("images", "--prompt", "a shade of grey")


@pytest.fixture(autouse=True)
def _images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for shade in (0, 51, 255):
        Image.new("RGB", (20, 10), (shade,) * 3).save(tmp_path / f"images/{shade:03}.png")


def describe(folder: Path, url: str) -> None:
    stated = {"url": url, "model": "m", "template": "Rate {prompt} from 0 to 10.", "retries": 0}
    (folder / "judge.yaml").write_text(yaml.safe_dump(stated))


def dark_or_bright(body: dict[str, Any], image: Image.Image) -> tuple[int, Any]:
    return text("dark") if image.getpixel((0, 0)) == (0, 0, 0) else brightness(body, image)


def test_its_numbers_are_a_column(tgo: Tgo, tmp_path: Path) -> None:
    with serving(dark_or_bright) as server:
        describe(tmp_path, server.url)
        done = tgo(*CALL, rewards="judge=judge.yaml,jpeg_kb")
    assert done.code == 3 and len(server.requests) == 3
    table = pl.read_parquet(tmp_path / "scores.parquet")
    assert table["judge"].round(2).to_list() == [None, 2.0, 10.0]
    assert table["error"].to_list() == ["judge gave no score: no number in the answer 'dark'", None, None]
    assert "m, 0 to 10; usually 0 to 10" in done.out
    assert tgo(*CALL, rewards="judge=judge.yaml,jpeg_kb").code == 3, "the server is gone, and is not needed"


def test_a_server_that_is_not_there_ends_the_call_with_one_line(tgo: Tgo, tmp_path: Path) -> None:
    describe(tmp_path, "http://127.0.0.1:9/v1")
    done = tgo(*CALL, rewards="judge=judge.yaml")
    assert done.code == 2 and "did not answer" in done.line
    done = tgo(*CALL, rewards="judge")
    assert done.code == 2 and "judge was given no source" in done.line
