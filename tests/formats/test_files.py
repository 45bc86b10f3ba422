"""Only files with an end are read, wherever a path of a user is: no pipe, no device, nothing of /proc."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scoring.command.conftest import CLIP, Tgo, random_image, tgo
from tgo_pipeline.datasets.sources import identity
from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.read import read as read_feedback
from tgo_pipeline.formats.files import NotAFile, open_regular, read_bytes, read_text, require_regular
from tgo_pipeline.formats.json_text import read_object
from tgo_pipeline.hub.checkpoint import read_weights
from tgo_pipeline.images import import_folder as existing
from tgo_pipeline.params import GenerateParams, load_params
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.prompts.sources import prompts
from tgo_pipeline.reading.tables import open_table
from tgo_pipeline.storage.fingerprints import content_fingerprint

__all__ = ["tgo"]


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """A test that waits for a pipe would never end: end the process instead."""
    watch = threading.Timer(120, lambda: os._exit(1))
    watch.start()
    yield
    watch.cancel()


def test_what_is_no_file_is_named(tmp_path: Path, pipe: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    kinds = {
        pipe: "a pipe, not a file",
        tmp_path / "socket": "a socket, not a file",
        Path("/dev/zero"): "a device, not a file",
        Path("/proc/self/mem"): "the system makes it up",
        Path("/proc/meminfo"): "the system makes it up",
    }
    (tmp_path / "link").symlink_to(pipe)
    kinds[tmp_path / "link"] = "a pipe, not a file"
    for path, reason in kinds.items():
        for read in (require_regular, open_regular, read_bytes, read_text):
            with pytest.raises(NotAFile) as said:
                read(path)
            assert reason in str(said.value.strerror)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "gone")


def test_a_size_is_looked_at_before_anything_is_read(tmp_path: Path) -> None:
    with (tmp_path / "hole").open("wb") as stream:
        stream.truncate(2**40)
    for read in (read_bytes, read_text):
        with pytest.raises(NotAFile) as said:
            read(tmp_path / "hole")
        assert "it has 1,099,511.6 MB, more than the 268.4 MB" in str(said.value.strerror)
    (tmp_path / "small").write_bytes(b"\xef\xbb\xbf\xc3\xa9")
    assert read_text(tmp_path / "small") == "é"


READERS: dict[str, Callable[[str], object]] = {
    "prompts.txt": lambda path: list(prompts(path, "prompt")),
    "prompts.csv": lambda path: list(prompts(path, "prompt")),
    "prompts.jsonl": lambda path: list(prompts(path, "prompt")),
    "prompts.parquet": lambda path: list(prompts(path, "prompt")),
    "feedback.csv": lambda path: read_feedback(FeedbackParams(source=path, kind="rating")),
    "digest.csv": identity,
    "digest.bin": lambda path: content_fingerprint(Path(path)),
    "params.yaml": load_params,
    "config.json": lambda path: read_object(Path(path)),
    "weights.safetensors": lambda path: read_weights(Path(path)),
    "weights.pt": lambda path: read_weights(Path(path)),
    "table.csv": lambda path: list(open_table(path).rows(["a"])),
    "images.parquet": lambda path: existing.open_images(GenerateParams(source="images", images=path)),
    "images.csv": lambda path: existing.open_images(GenerateParams(source="images", images=path)),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("source", ["pipe", "/dev/zero", "/proc/kmsg"])
def test_every_reader_refuses_what_is_no_file(tmp_path: Path, pipe: Path, name: str, source: str) -> None:
    (tmp_path / name).symlink_to(pipe if source == "pipe" else source)
    with pytest.raises(TgoError, match=r"pipe, not a file|device, not a file|system makes it up") as said:
        READERS[name](str(tmp_path / name))
    assert name in str(said.value) or source in str(said.value)


def test_an_image_that_is_a_pipe_costs_its_row(tgo: Tgo, tmp_path: Path, pipe: Path) -> None:
    (tmp_path / "photos").mkdir()
    random_image(0).save(tmp_path / "photos/0.png")
    (tmp_path / "photos/1.png").symlink_to(pipe)
    (tmp_path / "photos/2.png").symlink_to("/dev/zero")
    import polars as pl

    assert tgo("photos", "--prompt", "a", rewards=CLIP).code == 3
    errors = pl.read_parquet("scores.parquet")["error"].to_list()
    reasons = ["it is a pipe, not a file", "it is a device, not a file"]
    assert errors == [None, *(f"the file cannot be read ({reason})" for reason in reasons)]
    (tmp_path / "photos/metadata.csv").write_text("file_name,prompt\n0.png,a\n1.png,b\n2.png,c\n")
    params = GenerateParams(source="images", images="photos")
    existing.import_folder(tmp_path / "taken", params=params, split="train", excluded=set())
    taken = pl.read_parquet(tmp_path / "taken/*.parquet")
    assert taken["width"].to_list() == [40, None, None]


def test_a_long_text_beside_an_image_is_no_caption(tgo: Tgo, tmp_path: Path) -> None:
    random_image(0).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("x" * 1_000_001)
    done = tgo("0.png", rewards=CLIP)
    assert done.code == 2
    assert "0.txt is longer than 1,000,000 characters, so it is no caption of 0.png" in done.line
