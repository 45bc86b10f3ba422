"""A worker that ends in the middle of a call: what the user reads, and that nothing of what was scored is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.scoring.command.conftest import Tgo, scores, write_images

MODULE = """
import os

def rate(images, prompts):
    if os.path.exists("broken") and any(image.width == 41 for image in images):
        print("the driver is gone", flush=True)
        os._exit(9)
    with open("asked.txt", "a") as file:
        file.write(f"{len(images)}\\n")
    return [image.getpixel((0, 0))[0] + len(prompt) for image, prompt in zip(images, prompts)]
"""
COUNT, SCORED = 90, 64
"""Images, and those of them in the part before that which ends the worker."""


@pytest.fixture
def call(tgo: Tgo, tmp_path: Path) -> tuple[str, ...]:
    """A call whose worker ends on the images of the second part, as long as there is a file `broken`."""
    (tmp_path / "judge.py").write_text(MODULE)
    for path in write_images(tmp_path / "photos", COUNT)[SCORED:]:
        Image.open(path).resize((41, 32)).save(path)
    (tmp_path / "broken").touch()
    return ("photos", "--prompt", "a fox", "--rewards", f"worker:python={sys.executable}:judge:rate")


def asked() -> int:
    """How many images the reward has scored."""
    return sum(map(int, Path("asked.txt").read_text().split()))


def test_what_was_scored_before_is_kept_and_the_next_call_goes_on(tgo: Tgo, call: tuple[str, ...]) -> None:
    done = tgo(*call)
    assert done.code == 2
    assert "its worker ended with exit code 9; the last that it printed: the driver is gone" in done.line
    assert "started 3 times and scored nothing in between; what was scored before is kept" in done.line
    assert not Path("scores.parquet").exists() and asked() == SCORED
    Path("broken").unlink()
    done = tgo(*call)
    assert done.code == 0 and "1 done, 1 to do" in done.log
    assert asked() == COUNT, "no image was scored twice"
    table = scores()
    assert len(table) == COUNT and table["error"].null_count() == table["rate"].count() == COUNT


def test_a_worker_that_gives_something_else_than_numbers_ends_the_call_in_one_line(
    tgo: Tgo, call: tuple[str, ...]
) -> None:
    Path("judge.py").write_text("def rate(images, prompts):\n    return [str(image) for image in images]\n")
    done = tgo(*call)
    assert done.code == 2 and "raised ValueError: could not convert string to float" in done.line
    assert not Path("scores.parquet").exists()
