"""`tgo score` in several processes: the bytes of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scoring.command.conftest import CLIP, Tgo, random_image, scores, write_images
from tests.scoring.command.test_inputs import write_csv
from tgo_pipeline.executors import local

COUNT = 150
CALL = ("photos", "--prompts", "p.csv")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three parts of images, and their prompts."""
    paths = write_images(tmp_path / "photos", COUNT)
    paths[70].write_bytes(b"no image")
    write_csv(tmp_path / "p.csv", [[path.name, f"fox {row}"] for row, path in enumerate(paths)])
    return tmp_path / "photos"


def test_two_processes_write_what_one_does(tgo: Tgo, tmp_path: Path, photos: Path) -> None:
    assert tgo(*CALL, "--out", "one.parquet").code == 3
    done = tgo(*CALL, "--processes", "2")
    assert done.code == 3 and "parts: 0 done, 3 to do (150 images)" in done.log
    assert (tmp_path / "scores.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert not list(tmp_path.glob("*.parts"))
    random_image(7000).save(photos / "03.png")
    again = tgo(*CALL, "--processes", "2", rewards=f"{CLIP},aesthetic=demo")
    assert again.code == 3 and scores()["aesthetic"].null_count() == 1
    assert scores()["clip"][4:].equals(scores("one.parquet")["clip"][4:])
    assert tgo(*CALL, "--processes", "2", "--overwrite").code == 3
    assert scores().columns == ["image", "prompt", "clip", "error"]


def in_this_process(shards: object, stop: object, make_worker: object, runtime: object) -> None:
    """An executor of one's own."""
    local.execute(shards, stop, make_worker, runtime)  # type: ignore[arg-type]


def none_at_all(*_: object) -> None:
    """An executor that does nothing, and says nothing."""


def test_an_executor_of_ones_own(tgo: Tgo, tmp_path: Path, photos: Path) -> None:
    assert tgo(*CALL, "--out", "one.parquet").code == 3
    own = f"{__name__}:{in_this_process.__name__}"
    assert tgo(*CALL, "--executor", own).code == 3
    assert (tmp_path / "scores.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    done = tgo(*CALL, "--executor", f"{__name__}:{none_at_all.__name__}", "--overwrite")
    assert done.code == 2 and "3 of 3 parts were not scored, although --executor" in done.line


def test_what_processes_cannot_share_is_refused(tgo: Tgo, photos: Path) -> None:
    done = tgo(*CALL, "--executor", "ranks")
    assert done.code == 2 and "--executor ranks: one call writes --out" in done.line
    done = tgo(*CALL, "--executor", "slurm")
    assert done.code == 2 and "slurm" in done.line
