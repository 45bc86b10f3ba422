"""The summary on the screen, and the table for whoever opens it later."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.scoring.command.conftest import AESTHETIC, CLIP, Tgo, scores, write_images
from tgo_pipeline.rendering.text import score
from tgo_pipeline.rewards.toys import meaning
from tgo_pipeline.scoring.command.run import Outcome
from tgo_pipeline.scoring.command.summary import BLOCKS, HEIGHT, Column, Summary, bars, show

FIVE = "hpsv2.1=demo,pickscore=demo,imagereward=demo,clip=demo,aesthetic=demo"


@pytest.fixture
def five(tgo: Tgo, tmp_path: Path) -> str:
    """What a call with five rewards prints."""
    paths = write_images(tmp_path / "photos", 40)
    paths[3].write_bytes(b"[bold]no image[/bold]")
    done = tgo("photos", "--prompt", "a red fox", rewards=FIVE)
    assert done.code == 3
    return done.out


def test_the_table_has_the_right_numbers_in_80_columns(five: str) -> None:
    assert max(map(len, five.splitlines())) <= 80
    for name in ("hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic"):
        values = scores()[name].drop_nulls().to_numpy().astype(np.float64)
        (line,) = [line.split() for line in five.splitlines() if line.startswith(f" {name} ")]
        line = [word for word in line if word != "(demo)"]  # in a line of its own below a long name
        assert line[1:3] == ["39", "1"]
        wanted = [values.mean(), values.std(ddof=1), *np.quantile(values, [0, 0.05, 0.5, 0.95, 1])]
        np.testing.assert_allclose(np.array(line[3:], float), wanted, rtol=0, atol=0.006 * wanted[1])


def test_scales_failures_and_place_are_told(five: str) -> None:
    assert "hpsv2.1 (demo)  HPSv2.1: raw cosine" in five
    assert "These are toys: their scores say nothing of an image." in " ".join(five.split())
    assert "1 of 40 images could not be scored\n  photos/03.png: not a known image format" in five
    assert "scores.parquet: 40 images, " in five and "images/s" in five


def test_many_failures_are_cut(tgo: Tgo, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "photos", 9)
    for path in paths[:8]:
        path.write_bytes(b"no")
    out = tgo("photos", "--prompt", "a", rewards=CLIP).out
    assert "8 of 9 images could not be scored" in out
    assert "... and 3 more, in the column `error`" in out
    paths[8].write_bytes(b"no")
    out = tgo("photos", "--prompt", "a", rewards=CLIP).out
    assert "9 of 9 images could not be scored" in out


def test_bars_are_as_high_as_counts() -> None:
    lines = bars(np.array([0, 1, 4, 8, 16]))
    assert len(lines) == HEIGHT
    padded = [line.ljust(5) for line in lines]
    heights = [sum(BLOCKS.index(line[place]) for line in padded) for place in range(5)]
    assert heights == [0, 2, 8, 16, 32]
    assert bars(np.array([1, 100000]))[-1] == "▁█"


@pytest.mark.parametrize(
    ("value", "std", "shown"),
    [
        (0.27134, 0.0123, "0.2713"),
        (21.3456, 1.2, "21.35"),
        (1234.5, 400, "1234"),
        (0.5, 0.0, "0.5"),
        (1e-9, 1e-9, "1.0e-09"),
        (float("nan"), 1.0, "–"),
    ],
)
def test_decimals_follow_the_spread(value: float, std: float, shown: str) -> None:
    assert score(value, std) == shown


def test_the_usual_range_is_that_of_official_weights() -> None:
    about = {"scale": "raw cosine", "typical_range": [0.14, 0.33], "source": "official"}
    assert meaning(about) == "raw cosine; usually 0.14 to 0.33"
    assert meaning({**about, "source": "demo"}) == "raw cosine"
    assert meaning({**about, "typical_range": None}) == "raw cosine"


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5], [1.0, 2.0], list(np.linspace(0, 1, 1000))])
def test_any_number_of_scores_can_be_shown(values: list[float]) -> None:
    about = {"scale": "points", "typical_range": None}
    name = "clip/laion-h14-hpspad"
    column = Column(name, np.array(values, np.float32), 1_000_000 - len(values), about)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(show(Summary(Path("s.parquet"), 1_000_000, 3, [column], []), Outcome()))
    assert "points" in console.export_text() or not values


def test_a_terminal_gets_colours_and_a_bar(tgo: Tgo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "photos", 3)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    screen, terminal = pty.openpty()
    shown: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(screen, shown))
    reader.start()
    with open(terminal, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        done = tgo("photos", "--prompt", "a fox")
    reader.join()
    text = b"".join(shown).decode()
    assert done.code == 0
    assert "\x1b[36mclip" in text and "3 images" in text
    assert "scoring \x1b[" in text
    assert "images scored" not in done.log, "the bar stands for the lines of a log"


def _read_all(screen: int, shown: list[bytes]) -> None:
    """Read until the other side is closed, which Linux says with an error."""
    with contextlib.suppress(OSError):
        while chunk := os.read(screen, 65536):
            shown.append(chunk)
    os.close(screen)


def test_the_table_opens_everywhere_and_says_what_it_is(tgo: Tgo, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 3)
    (tmp_path / "photos/02.png").write_bytes(b"no")
    tgo("photos", "--prompt", "a fox", rewards=f"{CLIP},{AESTHETIC}")
    path = str(tmp_path / "scores.parquet")
    names = ["image", "prompt", "clip", "aesthetic", "error"]
    table = pq.read_table(path)
    assert table.column_names == names
    assert [str(table.schema.field(name).type) for name in names] == [
        "string",
        "string",
        "float",
        "float",
        "string",
    ]
    assert table["clip"].null_count == 1
    assert scores().columns == names
    pandas = pytest.importorskip("pandas").read_parquet(path)
    assert list(pandas.columns) == names and pandas["clip"].dtype == np.float32
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.features["clip"].dtype == "float32" and loaded[2]["clip"] is None
    about = json.loads(pq.read_schema(path).metadata[b"tgo"])["rewards"]["clip"]
    assert about["reward"] == "clip/openai-l14" and about["source"] == "demo" and about["dtype"] == "fp32"
    assert len(about["sha256"]) == 64 and about["version"] and "cosine" in about["scale"]
