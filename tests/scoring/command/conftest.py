"""`tgo score` as a user calls it, on small folders of images."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from PIL import Image

from stages.cli import main
from tgo_pipeline.rewards import load_reward

CLIP = "clip=demo"
AESTHETIC = "aesthetic=demo"


class Done(NamedTuple):
    """How a call ended: exit code, standard output, standard error, and what was logged."""

    code: int
    out: str
    err: str
    log: str

    @property
    def line(self) -> str:
        """The one line of an error."""
        (line,) = self.err.splitlines()
        assert line.startswith("tgo: ")
        return line


Tgo = Callable[..., Done]


@pytest.fixture
def tgo(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Tgo:
    """The command line `tgo score`, run in `tmp_path` with the CLIP reward of the small world unless told otherwise."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "tgo")

    def call(*arguments: str | Path, rewards: str = CLIP) -> Done:
        options = () if "--rewards" in arguments else ("--rewards", rewards)
        monkeypatch.setattr(sys, "argv", ["tgo", "score", *map(str, arguments), *options])
        caplog.clear()
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err, caplog.text)

    return call


@pytest.fixture
def interrupting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A reward that presses Ctrl-C while the first part is scored, and works from then on."""
    (tmp_path / "interrupting.py").write_text(
        "import os, signal\n"
        "pressed = False\n"
        "def reward(images, prompts):\n"
        "    global pressed\n"
        "    if not pressed:\n"
        "        pressed = True\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return [image.width + len(prompt) for image, prompt in zip(images, prompts)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "interrupting:reward"
    sys.modules.pop("interrupting", None)


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """The reward `counting:counted`, whose score is how many images it has got in this test: one that is scored again
    gets another number. Gives the prompts that it got since it was asked last."""
    (tmp_path / "counting.py").write_text(
        "got = []\n"
        "def counted(images, prompts):\n"
        "    got.extend(prompts)\n"
        "    return list(range(len(got) - len(prompts), len(got)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    asked = 0

    def since() -> list[str]:
        nonlocal asked
        got = sys.modules["counting"].got if "counting" in sys.modules else []
        before, asked = asked, len(got)
        return got[before:]

    yield since
    sys.modules.pop("counting", None)


def random_image(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_images(folder: Path, count: int) -> list[Path]:
    """Write `00.png`, `01.png`, ... of noise into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:02d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        random_image(number).save(path)
    return paths


def scores(path: Path | str = "scores.parquet") -> pl.DataFrame:
    """What a call wrote."""
    return pl.read_parquet(path)


def expected(images: list[Image.Image], prompts: list[str], reward: str = CLIP) -> np.ndarray:
    """The scores of images by the Python interface of the reward."""
    return load_reward(reward).score(images, prompts)
