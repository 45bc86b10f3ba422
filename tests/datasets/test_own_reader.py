"""A reader of the project folder, wherever the address of a data set is understood."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.modules import project_folder
from tgo_pipeline import images, prompts
from tgo_pipeline.datasets import identity, is_dataset, open_dataset
from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.read import read
from tgo_pipeline.inputs import named_files
from tgo_pipeline.params import FeedbackParams, Params, PromptsParams, ScoreParams
from tgo_pipeline.plugins.folder import NotChecked, looking

MODULE = """
from tgo_pipeline.datasets import Dataset
from tgo_pipeline.datasets.schemas import IMAGE_ROWS, LISTING, PROMPT_ROWS, RATINGS

class Comics(Dataset):
    title, markers = "Comics", ("*.png",)

    def files(self):
        return self.place.find("*.png")

    def _rows(self):
        for name in self.files():
            yield {"prompt": name.removesuffix(".png"), "image_uid": name, "value": 3.0}

    def prompts(self):
        yield from self._batches(self._rows(), PROMPT_ROWS)

    def ratings(self):
        yield from self._batches(self._rows(), RATINGS)

    def listing(self):
        yield from self._batches(self._rows(), LISTING)

    def images(self, start=0):
        rows = list(self._rows())[start:]
        for row in rows:
            with self.place.open(row["image_uid"]) as stream:
                row["image"] = {"bytes": stream.read(), "path": row["image_uid"]}
        yield from self._batches(rows, IMAGE_ROWS)

class Unfinished(Dataset):
    title, markers = "Unfinished", ()
"""
NAMES = ["a bear", "a bird", "a cat", "a dog", "a horse", "a mouse"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with `mine.py` and images in it; the module is forgotten afterwards."""
    (tmp_path / "comics").mkdir()
    for name in NAMES:
        (tmp_path / f"comics/{name}.png").write_bytes(name.encode())
    with project_folder(tmp_path, monkeypatch, mine=MODULE):
        yield tmp_path


ADDRESS = "mine:Comics:comics"


def test_it_is_read_for_prompts_images_and_feedback() -> None:
    assert is_dataset(ADDRESS) and not is_dataset("demo:train") and not is_dataset("hf:a/b@c/train")
    table = prompts.build(PromptsParams(train=ADDRESS, test_fraction=0.5), 0).table
    assert sorted(table["prompt"].to_pylist()) == NAMES
    (source,) = images.open([ADDRESS], images.Columns())
    assert [row.content for row in source.rows(0, len(NAMES))] == [name.encode() for name in NAMES]
    rows, left_out = read(FeedbackParams(source=ADDRESS, kind="rating"))
    assert rows["image"].to_list() == [f"{name}.png" for name in NAMES] and left_out == 0


def test_its_identity_is_its_code_and_every_file_of_its_place_and_needs_no_import(folder: Path) -> None:
    with looking():
        first = identity(ADDRESS)
        with pytest.raises(NotChecked, match="not checked: data set mine:Comics"):
            open_dataset(ADDRESS)
    assert "mine" not in sys.modules
    assert open_dataset(ADDRESS).identity() == first
    (folder / "comics/notes.txt").write_text("new")
    second = identity(ADDRESS)
    (folder / "mine.py").write_text(MODULE + "# changed\n")
    assert len({first, second, identity(ADDRESS)}) == 3
    assert identity("mine:Comics:comics/test"), "a split of the folder above"


def test_the_first_stage_of_dvc_sees_a_change_of_it_without_import(folder: Path) -> None:
    params = Params(
        prompts=PromptsParams(train=ADDRESS, test_fraction=0.5), score=ScoreParams(rewards={"oracle": None})
    )
    with looking():
        before = named_files.prompts(params)["prompts.train"]
        (folder / "mine.py").write_text(MODULE + "# changed\n")
        assert named_files.prompts(params)["prompts.train"] != before
    assert "unreadable" not in before


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("mine:Unfinished:comics", "data set mine:Unfinished: mine:Unfinished lacks files, prompts"),
        ("json:JSONDecoder:comics", "is JSONDecoder, no subclass of tgo_pipeline.datasets.base.Dataset"),
        ("mine:Comics:elsewhere/x", "does not exist"),
        ("comics:comics", "'comics:comics' names no data set.*or a reader of your own as module:object"),
    ],
)
def test_what_is_wrong_with_it_is_said(address: str, reason: str) -> None:
    with pytest.raises(TgoError, match=reason):
        open_dataset(address)
