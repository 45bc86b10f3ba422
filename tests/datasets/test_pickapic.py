"""Pick-a-Pic in its public schema: rounds, ties, winners that stay, images as bytes or not at all."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.datasets.public import PICKAPIC, jpeg, pickapic, uid, write_pickapic
from tests.datasets.streams import rows
from tgo_pipeline.datasets import open_dataset
from tgo_pipeline.datasets.schemas import COMPARISONS, IMAGE_ROWS, LISTING, PROMPT_ROWS
from tgo_pipeline.errors import TgoError

CAPTIONS = ["a cat"] * 3 + ["a dog"] * 3 + ["a fox"] * 2
LISTED = list(enumerate(CAPTIONS))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pickapic(tmp_path / "pickapic_v2")


def test_prompts_are_the_captions_in_order(root: Path) -> None:
    found = rows(open_dataset(f"pickapic:{root}/train").prompts(), PROMPT_ROWS)
    assert [row["prompt"] for row in found] == ["a cat", "a cat", "a dog", "a dog", "a fox"]
    assert {row["category"] for row in found} == {None}


def test_every_image_is_listed_once_and_has_its_bytes(root: Path) -> None:
    dataset = open_dataset(f"pickapic:{root}/train")
    listed = rows(dataset.listing(), LISTING)
    assert [(row["image_uid"], row["prompt"]) for row in listed] == [(uid(n), text) for n, text in LISTED]
    assert listed[1]["model"] == "CompVis/stable-diffusion-v1-4"
    images = rows(dataset.images(), IMAGE_ROWS)
    assert [{key: row[key] for key in LISTING.names} for row in images] == listed
    assert [row["image"]["bytes"] for row in images] == [jpeg(n) for n, _ in LISTED]
    for start in range(len(LISTED) + 1):
        assert rows(dataset.images(start), IMAGE_ROWS) == images[start:]


def test_comparisons_have_ties_and_leave_out_what_nobody_chose(root: Path) -> None:
    found = rows(open_dataset(f"pickapic:{root}/train").comparisons(), COMPARISONS)
    labels = [
        (row["image_0_uid"], row["image_1_uid"], row["label_0"], row["label_1"], row["rater"])
        for row in found
    ]
    assert labels == [
        (uid(0), uid(1), 1.0, 0.0, "7"),
        (uid(0), uid(2), 0.0, 1.0, "7"),
        (uid(3), uid(4), 0.5, 0.5, "8"),
        (uid(4), uid(5), 0.0, 1.0, "9"),
    ]
    assert found[0]["model_0"] == "dreamlike-art/diffusion-2.0"


def test_an_image_whose_bytes_are_missing_is_null(tmp_path: Path) -> None:
    table = pickapic().to_pylist()
    table[0]["jpg_1"] = None
    root = write_pickapic(tmp_path / "set", pa.Table.from_pylist(table, PICKAPIC))
    images = rows(open_dataset(f"pickapic:{root}/train").images(), IMAGE_ROWS)
    assert [row["image"] is None for row in images] == [n == 1 for n, _ in LISTED]


def test_v1_lacks_a_column_that_is_not_read(tmp_path: Path) -> None:
    root = write_pickapic(tmp_path / "v1", pickapic().drop_columns(["__index_level_0__"]))
    assert len(rows(open_dataset(f"pickapic:{root}/train").images(), IMAGE_ROWS)) == len(LISTED)


def test_the_variant_without_images_has_the_rest(tmp_path: Path) -> None:
    root = write_pickapic(tmp_path / "none", pickapic().drop_columns(["jpg_0", "jpg_1"]))
    dataset = open_dataset(f"pickapic:{root}/train")
    assert len(rows(dataset.comparisons(), COMPARISONS)) == 4
    assert len(rows(dataset.listing(), LISTING)) == len(LISTED)
    with pytest.raises(
        TgoError, match=r"no column 'jpg_0', so it has no images: .*_no_images.*pickapic_v1 and _v2"
    ):
        next(dataset.images())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.rename_columns({"caption": "prompt"}),
            r"train-00000.*no column 'caption'; its columns are: are_",
        ),
        (lambda t: t.drop_columns(["label_1"]), r"no column 'label_1'"),
        (
            lambda t: t.set_column(11, "label_0", pa.array(["won"] * 5)),
            r"'label_0' is string, .* read as double",
        ),
    ],
)
def test_a_changed_schema_is_named(tmp_path: Path, change, message: str) -> None:
    root = write_pickapic(tmp_path / "changed", change(pickapic()))
    with pytest.raises(TgoError, match=message):
        list(open_dataset(f"pickapic:{root}/train").comparisons())


def test_images_of_another_type_are_refused(tmp_path: Path) -> None:
    table = pickapic()
    table = table.set_column(9, "jpg_0", table["caption"])
    root = write_pickapic(tmp_path / "changed", table)
    with pytest.raises(TgoError, match="'jpg_0' is string, not the bytes of an image"):
        next(open_dataset(f"pickapic:{root}/train").images())


def test_a_damaged_file_is_named(root: Path) -> None:
    file = next((root / "data").glob("train-00001*"))
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(TgoError, match=r"train-00001.*cannot be read as Parquet"):
        list(open_dataset(f"pickapic:{root}/train").listing())


def test_one_file_and_the_other_names_of_a_split(tmp_path: Path, root: Path) -> None:
    file = next((root / "data").glob("train-00001*"))
    assert len(rows(open_dataset(f"pickapic:{file}").prompts(), PROMPT_ROWS)) == 2
    assert len(rows(open_dataset(f"pickapic:{root}/test_unique").prompts(), PROMPT_ROWS)) == 1
    (tmp_path / "default" / "train").mkdir(parents=True)
    pq.write_table(pickapic(), tmp_path / "default" / "train" / "0000.parquet")
    assert len(rows(open_dataset(f"pickapic:{tmp_path}/default/train").prompts(), PROMPT_ROWS)) == 5


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("label_0", [True] * 5, "double"),
        ("user_id", [7.0] * 5, "string"),
        ("has_label", [1] * 5, "bool"),
        ("image_0_uid", [True] * 5, "string"),
    ],
)
def test_types_that_do_not_fit_are_refused(tmp_path: Path, column: str, values: list, kind: str) -> None:
    table = pickapic()
    table = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
    source = f"pickapic:{write_pickapic(tmp_path / 'set', table)}/train"
    with pytest.raises(TgoError, match=rf"column '{column}' is .*, which cannot be read as {kind}"):
        list(open_dataset(source).comparisons())
