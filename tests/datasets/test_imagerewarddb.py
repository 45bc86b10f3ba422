"""ImageRewardDB: ratings, ranks, and images in archives or unpacked."""

import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.datasets.public import jpeg, uid, write_imagerewarddb
from tests.datasets.streams import rows
from tgo_pipeline.datasets import open_dataset
from tgo_pipeline.datasets.schemas import COMPARISONS, IMAGE_ROWS, LISTING, PROMPT_ROWS, RATINGS
from tgo_pipeline.errors import TgoError

IN_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
"""Archive by archive."""


@pytest.mark.parametrize("unpacked", [False, True])
def test_images_come_from_archives_or_folders(tmp_path: Path, unpacked: bool) -> None:
    root = write_imagerewarddb(tmp_path / "set", unpacked=unpacked)
    dataset = open_dataset(f"imagerewarddb:{root}/train")
    images = rows(dataset.images(), IMAGE_ROWS)
    assert [row["image_uid"] for row in images] == [uid(n) for n in IN_ORDER]
    assert [row["image"]["bytes"] for row in images] == [jpeg(n) for n in IN_ORDER]
    assert [row["image_uid"] for row in rows(dataset.listing(), LISTING)] == [uid(n) for n in IN_ORDER]
    assert rows(dataset.images(5), IMAGE_ROWS) == images[5:]
    dates = dataset.dates([uid(0), uid(1)])
    assert dates is not None
    assert all(dates)


def test_ratings_prompts_and_comparisons_by_rank(tmp_path: Path) -> None:
    dataset = open_dataset(f"imagerewarddb:{write_imagerewarddb(tmp_path / 'set')}")
    ratings = {row["image_uid"]: row["value"] for row in rows(dataset.ratings(), RATINGS)}
    assert [ratings[uid(n)] for n in range(8)] == [7, 5, 5, 1] * 2
    prompts = [(row["prompt"], row["category"]) for row in rows(dataset.prompts(), PROMPT_ROWS)]
    assert prompts == [("prompt 0", "People"), ("prompt 1", "Abstract")]
    labels = {
        (row["image_0_uid"], row["image_1_uid"]): row["label_0"]
        for row in rows(dataset.comparisons(), COMPARISONS)
    }
    assert len(labels) == 2 * 6
    assert labels[uid(0), uid(2)] == 1.0
    assert labels[uid(2), uid(1)] == 0.5
    assert labels[uid(2), uid(3)] == 1.0


def test_a_missing_member_is_null_and_a_missing_archive_is_named(tmp_path: Path) -> None:
    root = write_imagerewarddb(tmp_path / "set")
    archive = root / "images/train/train_2.zip"
    (root / "images/train/train_1.zip").write_bytes(archive.read_bytes())
    dataset = open_dataset(f"imagerewarddb:{root}/train")
    images = rows(dataset.images(), IMAGE_ROWS)
    assert [row["image"] is None for row in images] == [True] * 4 + [False] * 4
    archive.unlink()
    with pytest.raises(
        TgoError, match=r"has neither images/train/train_2 nor .*train_2\.zip\. Download images/"
    ):
        list(dataset.images())


def test_a_broken_archive_is_named(tmp_path: Path) -> None:
    root = write_imagerewarddb(tmp_path / "set")
    archive = root / "images/train/train_1.zip"
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(TgoError, match=r"train_1\.zip is not a whole archive .*download it again"):
        list(open_dataset(f"imagerewarddb:{root}").images())


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    root = write_imagerewarddb(tmp_path / "set")
    archive = root / "images/train/train_1.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
        for number in range(0, 8, 2):
            stream.writestr(f"{uid(number)}.webp", jpeg(number))
    damaged = bytearray(archive.read_bytes())
    damaged[80:200] = b"\xff" * 120
    archive.write_bytes(damaged)
    with pytest.raises(TgoError, match="is not a whole archive"):
        rows(open_dataset(f"imagerewarddb:{root}/train").images(), IMAGE_ROWS)


def test_a_changed_schema_and_a_missing_split_are_named(tmp_path: Path) -> None:
    root = write_imagerewarddb(tmp_path / "set")
    table = pq.read_table(root / "metadata-train.parquet")
    pq.write_table(table.rename_columns({"overall_rating": "rating"}), root / "metadata-test.parquet")
    with pytest.raises(
        TgoError, match=r"metadata-test\.parquet has no column 'overall_rating'; .* rank, rating,"
    ):
        list(open_dataset(f"imagerewarddb:{root}/test").ratings())
    with pytest.raises(TgoError, match="has the splits test, train: add one"):
        list(open_dataset(f"imagerewarddb:{root}").ratings())
    with pytest.raises(TgoError, match=r"has no metadata-validation\.parquet"):
        open_dataset(f"imagerewarddb:{root}/validation").identity()


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    root = write_imagerewarddb(tmp_path / "set")
    table = pq.read_table(root / "metadata-train.parquet")
    pq.write_table(pa.Table.from_batches([], table.schema), root / "metadata-train.parquet")
    assert list(open_dataset(f"imagerewarddb:{root}").images()) == []


def _changed(root: Path, **columns: list) -> str:
    """The data set with other values of some columns in its first rows."""
    path = write_imagerewarddb(root) / "metadata-train.parquet"
    table = pq.read_table(path)
    for name, values in columns.items():
        column = pa.array(values + table[name].to_pylist()[len(values) :])
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, path)
    return f"imagerewarddb:{root}"


def test_what_has_no_rank_is_not_compared_and_what_has_no_rating_is_empty(tmp_path: Path) -> None:
    dataset = open_dataset(_changed(tmp_path / "set", rank=[None], overall_rating=[None]))
    pairs = rows(dataset.comparisons(), COMPARISONS)
    assert len(pairs) == 3 + 6
    assert uid(0) not in {row[side] for row in pairs for side in ("image_0_uid", "image_1_uid")}
    ratings = {row["image_uid"]: row["value"] for row in rows(dataset.ratings(), RATINGS)}
    assert ratings[uid(0)] is None
    assert ratings[uid(1)] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": ["first"] + ["1"] * 7}, "column 'rank' is string, which cannot be read as double"),
        ({"image_path": [None]}, "an image has no image_path"),
    ],
)
def test_values_of_another_kind_are_named(tmp_path: Path, change: dict[str, list], message: str) -> None:
    with pytest.raises(TgoError, match=message):
        rows(open_dataset(_changed(tmp_path / "set", **change)).comparisons(), COMPARISONS)
