"""Addresses: a name, a place, a revision that stays."""

import os
from pathlib import Path

import pytest

from tests.datasets.public import write_hpdv2, write_pickapic
from tgo_pipeline.datasets import READERS, is_dataset, open_dataset
from tgo_pipeline.errors import TgoError


def test_only_known_names_are_data_sets() -> None:
    assert all(is_dataset(f"{name}:somewhere") for name in READERS)
    for text in ("demo:train", "prompts.txt", "pickapic", "hf:org/name@1", "photos/metadata.csv", ""):
        assert not is_dataset(text)
    with pytest.raises(
        TgoError, match=r"'demo:x' names no data set: write NAME:FOLDER.*pickapic, hpdv2, hpdv3"
    ):
        open_dataset("demo:x")


@pytest.mark.parametrize("revision", ["main", "master", "HEAD", "refs%2Fconvert%2Fparquet"])
def test_a_moving_revision_is_refused(revision: str) -> None:
    with pytest.raises(TgoError, match=r"may change at any time: pin a commit, hf:org/name@COMMIT"):
        open_dataset(f"pickapic:hf:org/name@{revision}/train")


@pytest.mark.parametrize("where", ["hf:org/name", "hf:org/name@", "hf:name@1", "hf:@1", "hf:a/b/c@1"])
def test_an_unpinned_or_broken_hub_address_is_refused(where: str) -> None:
    with pytest.raises(TgoError, match="pins no data set of the hub: write NAME"):
        open_dataset(f"pickapic:{where}")


def test_a_missing_place_is_named(tmp_path: Path) -> None:
    for where in (f"{tmp_path}/nosuch/train", f"{tmp_path}/file.parquet", f"{tmp_path}/train"):
        with pytest.raises(TgoError, match=rf"{where} does not exist"):
            open_dataset(f"pickapic:{where}")
    with pytest.raises(TgoError, match="names no place"):
        open_dataset("pickapic:")


def test_several_splits_need_one_named(tmp_path: Path) -> None:
    root = write_pickapic(tmp_path / "set")
    with pytest.raises(
        TgoError, match=rf"has the splits test_unique, train: add one, as in pickapic:{root}/test_unique"
    ):
        open_dataset(f"pickapic:{root}").files()
    with pytest.raises(TgoError, match=r"no split 'validation'.*it has test_unique, train"):
        open_dataset(f"pickapic:{root}/validation").files()
    (tmp_path / "empty").mkdir()
    with pytest.raises(TgoError, match="holds no Parquet file"):
        open_dataset(f"pickapic:{tmp_path}/empty").files()
    with pytest.raises(TgoError, match="has the splits test, train: add one"):
        open_dataset(f"hpdv2:{write_hpdv2(tmp_path / 'hpd')}").files()


def test_a_folder_of_images_named_like_a_split_is_the_split(tmp_path: Path) -> None:
    root = write_hpdv2(tmp_path / "hpd")
    assert (root / "test").is_dir()
    assert open_dataset(f"hpdv2:{root}/test").files() == ["test.json"]


def test_the_identity_follows_size_date_and_split(tmp_path: Path) -> None:
    root = write_pickapic(tmp_path / "set")

    def identity(split: str = "train") -> str:
        return open_dataset(f"pickapic:{root}/{split}").identity()

    first = identity()
    assert identity() == first != identity("test_unique")
    os.utime(next((root / "data").glob("train-00001*")), ns=(1, 1))
    assert identity() != first
