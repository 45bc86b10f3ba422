"""HPDv2, HPDv3 and the Diffusion-KTO csv: rows that name image files."""

import json
from pathlib import Path

import pytest

from tests.datasets.public import jpeg, uid, write_diffusion_kto, write_hpdv2, write_hpdv3
from tests.datasets.streams import rows
from tgo_pipeline.datasets import open_dataset
from tgo_pipeline.datasets.schemas import COMPARISONS, IMAGE_ROWS, LISTING, PROMPT_ROWS, RATINGS
from tgo_pipeline.errors import TgoError


def _pairs(address: str) -> list[tuple[str, str, float, str | None]]:
    found = rows(open_dataset(address).comparisons(), COMPARISONS)
    assert all(row["label_0"] + row["label_1"] == 1 for row in found)
    return [(row["image_0_uid"], row["image_1_uid"], row["label_0"], row["rater"]) for row in found]


def test_hpdv2_pairs(tmp_path: Path) -> None:
    address = f"hpdv2:{write_hpdv2(tmp_path / 'set')}/train"
    assert _pairs(address) == [("0.jpg", "1.jpg", 1.0, None), ("2.jpg", "3.jpg", 0.0, None)]
    images = rows(open_dataset(address).images(), IMAGE_ROWS)
    assert [row["image"]["bytes"] for row in images] == [jpeg(n) for n in range(4)]
    assert [row["prompt"] for row in images] == ["a cat", "a cat", "a dog", "a dog"]


def test_hpdv2_ranks_of_every_rater(tmp_path: Path) -> None:
    root = write_hpdv2(tmp_path / "set")
    first = [
        ("4.jpg", "5.jpg", 1.0, "1f0a"),
        ("4.jpg", "6.jpg", 1.0, "1f0a"),
        ("5.jpg", "6.jpg", 1.0, "1f0a"),
    ]
    second = [
        ("4.jpg", "5.jpg", 0.0, "2b7c"),
        ("4.jpg", "6.jpg", 0.5, "2b7c"),
        ("5.jpg", "6.jpg", 1.0, "2b7c"),
    ]
    assert _pairs(f"hpdv2:{root}/test") == first + second
    assert [
        row["image"]["bytes"] for row in rows(open_dataset(f"hpdv2:{root}/test").images(1), IMAGE_ROWS)
    ] == [
        jpeg(5),
        jpeg(6),
    ]
    record = json.loads((root / "test.json").read_text())[0]
    renamed = record | {"raw_annotations": [{"rank": [1, 2, 3], "user": "1f0a"}]}
    (root / "test.json").write_text(json.dumps([renamed]))
    with pytest.raises(
        TgoError, match=r"raw_annotations has no column 'user_hash'; its columns are: rank, user"
    ):
        _pairs(f"hpdv2:{root}/test")
    del record["raw_annotations"]
    (root / "test.json").write_text(json.dumps([record]))
    assert [pair[2:] for pair in _pairs(f"hpdv2:{root}/test")] == [(1.0, None)] * 3


def test_hpdv3_prefers_the_first_path(tmp_path: Path) -> None:
    address = f"hpdv3:{write_hpdv3(tmp_path / 'set')}/train"
    assert {pair[2] for pair in _pairs(address)} == {1.0}
    listed = rows(open_dataset(address).listing(), LISTING)
    assert [(row["image_uid"], row["model"]) for row in listed] == [
        ("images/0.jpg", "sdxl"),
        ("images/1.jpg", "flux"),
        ("images/2.jpg", "real_images"),
        ("images/3.jpg", "sd3"),
        ("images/4.jpg", "sdxl"),
    ]
    assert [row["image"]["bytes"] for row in rows(open_dataset(address).images(3), IMAGE_ROWS)] == [
        jpeg(3),
        jpeg(4),
    ]


def test_hpdv3_benchmark_has_prompts_by_category(tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "set")
    found = rows(open_dataset(f"hpdv3:{root}/benchmark").prompts(), PROMPT_ROWS)
    assert [(row["prompt"], row["category"]) for row in found] == [
        ("a Animals", "Animals"),
        ("a Design", "Design"),
    ]
    with pytest.raises(TgoError, match="has no images or comparisons in its benchmark"):
        list(open_dataset(f"hpdv3:{root}/benchmark").comparisons())


def test_diffusion_kto_rates_by_partition(tmp_path: Path) -> None:
    address = f"diffusion-kto:{write_diffusion_kto(tmp_path / 'set')}"
    found = rows(open_dataset(address).ratings(), RATINGS)
    assert [row["value"] for row in found] == [1.0, 0.5, 0.0, 0.0]
    assert [row["prompt"] for row in found] == ["a cat", "a cat", "a dog", ""]
    images = rows(open_dataset(address).images(), IMAGE_ROWS)
    assert [(row["image_uid"], row["image"]["bytes"]) for row in images] == [
        (f"train/{uid(n)}.jpg", jpeg(n)) for n in range(4)
    ]


@pytest.mark.parametrize(
    ("address", "json_only", "advice"),
    [
        (
            "hpdv2:{}/train",
            write_hpdv2,
            r"archives of ymhao/HPDv2, unpack them into one folder with train\.json",
        ),
        ("hpdv3:{}/train", write_hpdv3, r"cat images\.tar\.gz\.\* \| gunzip \| tar -xv"),
        ("diffusion-kto:{}", write_diffusion_kto, "Save the images of Pick-a-Pic below the csv's folder"),
    ],
)
def test_without_the_image_folder_it_says_what_to_do(
    tmp_path: Path, address: str, json_only, advice: str
) -> None:
    root = json_only(tmp_path / "set")
    for image in root.rglob("*.jpg"):
        image.unlink()
    dataset = open_dataset(address.format(root))
    assert sum(batch.num_rows for batch in dataset.listing()) > 3
    with pytest.raises(TgoError, match=rf"no image is there \(looked for .*jpg and others\).*{advice}"):
        next(dataset.images())


def test_one_missing_file_is_null_and_dates_tell(tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "set")
    (root / "images/1.jpg").unlink()
    dataset = open_dataset(f"hpdv3:{root}/train")
    images = rows(dataset.images(), IMAGE_ROWS)
    assert [row["image"] is None for row in images] == [False, True, False, False, False]
    dates = dataset.dates([row["image_uid"] for row in images])
    assert dates is not None
    assert [date is None for date in dates] == [False, True, False, False, False]


def test_a_name_outside_the_folder_is_refused(tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "set")
    record = json.loads((root / "train.json").read_text())[0] | {"path1": "../../secret.jpg"}
    (root / "train.json").write_text(json.dumps([record]))
    with pytest.raises(TgoError, match=r"'\.\./\.\./secret\.jpg' names no image file below the folder"):
        next(open_dataset(f"hpdv3:{root}/train").images())


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "train.json",
            '"path2"',
            '"path_2"',
            r"train\.json, record 0 has no column 'path2'; its columns are: prompt,",
        ),
        ("train.json", '"a cat"', "7", "a value is of another type"),
        ("train.json", '[{"prompt"', '[3, {"prompt"', "record 0 is a JSON int, not an object"),
    ],
)
def test_a_changed_json_is_named(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    root = write_hpdv3(tmp_path / "set")
    (root / file).write_text((root / file).read_text().replace(old, new, 1))
    with pytest.raises(TgoError, match=message):
        list(open_dataset(f"hpdv3:{root}/train").comparisons())


def test_ranks_that_do_not_fit_the_images_are_refused(tmp_path: Path) -> None:
    root = write_hpdv2(tmp_path / "set")
    (root / "train.json").write_text(
        json.dumps([{"human_preference": [1], "prompt": "a cat", "file_path": ["0.jpg", "1.jpg"]}])
    )
    with pytest.raises(TgoError, match="'a cat' has 2 images and 1 ranks or preferences"):
        list(open_dataset(f"hpdv2:{root}/train").comparisons())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("file_name", "path", r"no column 'file_name'; its columns are: , path, caption, split"),
        ("exclusive_win", "winner", r"split is 'winner': it must be one of exclusive_win, intersections"),
        (",exclusive_win", "", "line 2: not as many values as columns"),
    ],
)
def test_a_changed_csv_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    root = write_diffusion_kto(tmp_path / "set")
    file = root / "train_processed_v3.csv"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(TgoError, match=message):
        list(open_dataset(f"diffusion-kto:{root}").ratings())


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train", {"file_path": "0.jpg"}, "'file_path' is '0.jpg': it must be a list of text"),
        (
            "train",
            {"file_path": [None, "1.jpg"]},
            r"'file_path' is \[None, '1.jpg'\]: it must be a list of text",
        ),
        ("train", {"human_preference": None}, "'human_preference' is None: it must be a list of numbers"),
        ("train", {"human_preference": ["1", "0"]}, "it must be a list of numbers"),
        ("test", {"rank": None, "raw_annotations": None}, "'rank' is None: it must be a list of numbers"),
        (
            "test",
            {"raw_annotations": {"rank": [1]}},
            "'raw_annotations' is {.*}: it must be a list of objects",
        ),
        (
            "test",
            {"raw_annotations": [{"rank": 1, "user_hash": "a"}]},
            "'rank' is 1: it must be a list of numbers",
        ),
    ],
)
def test_values_of_another_kind_are_named(
    tmp_path: Path, file: str, change: dict[str, object], message: str
) -> None:
    path = write_hpdv2(tmp_path / "set") / f"{file}.json"
    first, *others = json.loads(path.read_text())
    path.write_text(json.dumps([first | change, *others]))
    dataset = open_dataset(f"hpdv2:{path}")
    with pytest.raises(TgoError, match=message):
        rows(dataset.comparisons(), COMPARISONS)


@pytest.mark.parametrize("name", [None, 3])
def test_an_image_without_a_file_name_is_named(tmp_path: Path, name: object) -> None:
    path = write_hpdv3(tmp_path / "set") / "train.json"
    first, *others = json.loads(path.read_text())
    path.write_text(json.dumps([first | {"path1": name}, *others]))
    with pytest.raises(TgoError, match=f"{name} names no image file"):
        rows(open_dataset(f"hpdv3:{path}").images(), IMAGE_ROWS)


def test_a_folder_in_the_place_of_an_image_is_null(tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "set")
    (root / "images/0.jpg").unlink()
    (root / "images/0.jpg").mkdir()
    images = rows(open_dataset(f"hpdv3:{root}/train").images(), IMAGE_ROWS)
    assert [row["image"] is None for row in images] == [True, False, False, False, False]
