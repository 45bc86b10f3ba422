"""A Hugging Face data set as a stream: a local one, through the code that opens one of the hub."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.scoring.command.conftest import AESTHETIC, CLIP, Tgo, expected, random_image, scores, write_images
from tests.scoring.command.test_inputs import write_csv
from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.address import Address, parse

pytest.importorskip("datasets")
COUNT = 150
ADDRESS = "hf:data@v1/train"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of image files with captions, and the same as Parquet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    paths = write_images(tmp_path / "data/train", COUNT)
    write_csv(
        tmp_path / "data/train/metadata.csv",
        [[path.name, f"fox {row}"] for row, path in enumerate(paths)],
        ("file_name", "text"),
    )
    return tmp_path / "data"


def right(reward: str = CLIP) -> np.ndarray:
    return expected(
        [random_image(number) for number in range(COUNT)],
        [f"fox {number}" for number in range(COUNT)],
        reward,
    )


def check(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(np.sort(found), np.sort(wanted), rtol=0, atol=1e-5)


def test_a_stream_is_scored_to_its_end_and_then_left_alone(tgo: Tgo, data: Path) -> None:
    done = tgo(ADDRESS)
    assert done.code == 0, done.err
    found = scores()
    assert found["image"].to_list() == [f"{ADDRESS}:{row}" for row in range(COUNT)]
    by_prompt = dict(zip(found["prompt"], found["clip"], strict=True))
    np.testing.assert_allclose(
        [by_prompt[f"fox {number}"] for number in range(COUNT)], right(), rtol=0, atol=1e-5
    )
    done = tgo(ADDRESS)
    assert "nothing to do: scores.parquet has the scores of all 150 images" in done.out
    done = tgo(ADDRESS, rewards=f"{CLIP},{AESTHETIC}")
    assert "loading aesthetic" in done.log and "loading clip" not in done.log
    assert scores().drop("aesthetic").equals(found)
    check(scores()["aesthetic"].to_numpy(), right(AESTHETIC))


def test_an_interrupted_stream_goes_on_to_the_same_bits(
    tgo: Tgo, tmp_path: Path, data: Path, interrupting: str
) -> None:
    both = f"{CLIP},{interrupting}"
    assert tgo(ADDRESS, rewards=both).code == 130
    done = tgo(ADDRESS, rewards=both)
    assert "parts: 1 done, 0 to do (0 images), and a stream to its end" in done.log
    tgo(ADDRESS, "--out", "unbroken.parquet", rewards=both)
    assert (tmp_path / "scores.parquet").read_bytes() == (tmp_path / "unbroken.parquet").read_bytes()


def test_a_changed_prompt_of_a_stream_sends_one_row(
    tgo: Tgo, tmp_path: Path, data: Path, counting: Callable[[], list[str]]
) -> None:
    """The file of prompts is part of every part's fingerprint: which of them a part has shows when it is read."""
    prompts = [[f"{ADDRESS}:{row}", f"fox {row}"] for row in range(COUNT)]
    write_csv(tmp_path / "p.csv", prompts)
    call, rewards = (ADDRESS, "--prompts", "p.csv"), f"{CLIP},counting:counted"
    assert tgo(*call, rewards=rewards).code == 0
    assert len(counting()) == COUNT
    before = scores()
    prompts[70][1] = "another and longer fox"
    write_csv(tmp_path / "p.csv", prompts)
    done = tgo(*call, rewards=rewards)
    assert "150 images, 1 of them now" in done.out
    assert counting() == ["another and longer fox"]
    same = [old == new for old, new in zip(before.iter_rows(), scores().iter_rows(), strict=True)]
    assert same.count(False) == 1
    assert scores()["prompt"][same.index(False)] == "another and longer fox"


@pytest.mark.parametrize("count", [64, 128, 65])
def test_a_stream_that_ends_with_a_part_or_just_after(
    tgo: Tgo, tmp_path: Path, data: Path, count: int
) -> None:
    import datasets

    every = datasets.load_dataset(str(data), split="train", cache_dir=str(tmp_path / "cache"))
    (tmp_path / "pq").mkdir()
    every.select(range(count)).to_parquet(tmp_path / "pq/train.parquet")
    assert tgo("hf:pq@v1", "--out", f"{count}.parquet").code == 0
    assert len(scores(f"{count}.parquet")) == count
    assert "nothing to do" in tgo("hf:pq@v1", "--out", f"{count}.parquet").out


def test_what_cannot_be_streamed(tgo: Tgo, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Available splits: ['train']" in tgo("hf:data@v1/test").line
    assert "hf:data@v1 has no column 'photo'" in tgo("hf:data@v1", "--image-column", "photo").line
    assert (
        "me/none is not in the local cache, and HF_HUB_OFFLINE forbids downloads"
        in tgo("hf:me/none@v1/train").line
    )
    done = tgo("hf:data@v1/train", "--image-column", "text", "--prompt", "a")
    assert "row 0: the image column holds str, not an image" in done.line
    (data / "p.txt").write_text("a\n")
    assert "how many images a stream has is not known" in tgo(ADDRESS, "--prompts", "data/p.txt").line
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert (
        "needs the package `datasets`: install it with `pip install tgo-pipeline[hub]`" in tgo(ADDRESS).line
    )


def test_a_stream_without_prompts(tgo: Tgo, data: Path) -> None:
    (data / "train/metadata.csv").unlink()
    done = tgo(ADDRESS)
    assert done.code == 2
    assert f"an image has no prompt, which clip needs: {ADDRESS}:0; give --prompts" in done.line
    assert tgo(ADDRESS, rewards=AESTHETIC).code == 0


def test_addresses() -> None:
    assert parse("hf:me/mine@abc") == Address("me/mine", "abc", None, None)
    assert parse("hf:me/mine@abc/train") == Address("me/mine", "abc", None, "train")
    assert parse("hf:me/mine@refs%2Fpr%2F1/small/test") == Address("me/mine", "refs/pr/1", "small", "test")
    with pytest.raises(TgoError, match="may change at any time: pin a commit, hf:me/mine@COMMIT"):
        parse("hf:me/mine@main/train")
    for wrong in ("hf:", "hf:me/mine", "hf:me/mine@", "hf:@abc", "hf:me/mine@a/b/c/d", "hf:me/mine@a//b"):
        with pytest.raises(TgoError, match="names no data set"):
            parse(wrong)
