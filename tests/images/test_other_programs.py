"""Tables as other programs write them: every Arrow type of bytes, text and ids, absolute paths, other spellings."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.images.test_both_commands import PROMPTS, SUM, _reward, score, take, total
from tests.scoring.command.conftest import AESTHETIC, CLIP, Tgo, random_image, write_images
from tgo_pipeline.errors import TgoError
from tgo_pipeline.images.address import open as open_images
from tgo_pipeline.images.columns import Columns

__all__ = ["_reward"]
COUNT = 3
TEXTS = PROMPTS[:COUNT]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return write_images(tmp_path / "photos", COUNT)


def check(tgo: Tgo, address: str, photos: list[Path]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both commands read the images of an address with their prompts."""
    expected = [total(path.read_bytes()) for path in photos]
    taken, scored = take(address), score(tgo, address)
    assert [total(image["bytes"]) for image in taken["image"]] == scored["total"].to_list() == expected
    assert taken["prompt"].to_list() == scored["prompt"].to_list() == TEXTS
    return taken, scored


def _fixed(data: list[bytes]) -> pa.Array:
    size = max(map(len, data))  # zeros after the end of a PNG are no part of it
    return pa.array([one.ljust(size, b"\0") for one in data], pa.binary(size))


BYTES: dict[str, Callable[[list[bytes]], pa.Array]] = {
    "binary": lambda data: pa.array(data, pa.binary()),
    "large_binary": lambda data: pa.array(data, pa.large_binary()),
    "binary_view": lambda data: pa.array(data, pa.binary_view()),
    "fixed-size binary": _fixed,
    "dictionary": lambda data: pa.array(data, pa.binary()).dictionary_encode(),
}


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("within", [False, True])
def test_bytes_of_every_type(tgo: Tgo, photos: list[Path], kind: str, within: bool) -> None:
    images = BYTES[kind]([path.read_bytes() for path in photos])
    if within:
        images = pa.StructArray.from_arrays([images, pa.nulls(COUNT, pa.string())], ["bytes", "path"])
    pq.write_table(pa.table({"image": images, "prompt": TEXTS}), "t.parquet")
    check(tgo, "t.parquet", photos)


TEXT_TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string())]


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
def test_text_of_every_type(tgo: Tgo, photos: list[Path], kind: pa.DataType) -> None:
    paths = pa.array([f"photos/{path.name}" for path in photos]).cast(kind)
    pq.write_table(pa.table({"image": paths, "prompt": pa.array(TEXTS).cast(kind)}), "t.parquet")
    check(tgo, "t.parquet", photos)


@pytest.mark.parametrize("data", [pa.null(), pa.binary(), pa.large_binary(), None], ids=str)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_struct_of_paths(
    tgo: Tgo, tmp_path: Path, photos: list[Path], data: pa.DataType | None, absolute: bool
) -> None:
    """What `Dataset.to_parquet` writes of images in files: bytes are null, the path is as it was given."""
    paths = [str(path if absolute else path.relative_to(tmp_path)) for path in photos]
    fields: dict[str, Any] = {"path": pa.array(paths)}
    if data is not None:
        fields = {"bytes": pa.nulls(COUNT, data), **fields}
    images = pa.StructArray.from_arrays(list(fields.values()), list(fields))
    pq.write_table(pa.table({"image": images, "prompt": TEXTS}), "t.parquet")
    taken, _ = check(tgo, "t.parquet", photos)
    assert [image["path"] for image in taken["image"]] == [path.name for path in photos]
    assert not any(str(tmp_path) in str(value) for value in taken["image_uid"])
    photos[0].write_bytes(photos[1].read_bytes())
    os.utime(photos[0], ns=(1, 1))
    check(tgo, "t.parquet", photos)  # a changed file is read again


def test_what_datasets_writes(tgo: Tgo, tmp_path: Path, photos: list[Path]) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "elsewhere").mkdir()
    rows = datasets.Dataset.from_dict({"image": list(map(str, photos)), "prompt": TEXTS})
    rows = rows.cast_column("image", datasets.Image())
    rows.to_parquet("elsewhere/t.parquet")
    rows.save_to_disk("saved")
    check(tgo, "elsewhere/t.parquet", photos)
    taken = take("saved")
    assert [total(image["bytes"]) for image in taken["image"]] == [
        total(path.read_bytes()) for path in photos
    ]


def test_only_images_are_taken_from_absolute_paths(tmp_path: Path, photos: list[Path]) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    for path in (str(tmp_path / "secret.txt"), "../secret.png", "..\\secret.png"):
        images = pa.array(
            [{"bytes": None, "path": path}], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        )
        pq.write_table(pa.table({"image": images, "prompt": ["a"]}), "t.parquet")
        with pytest.raises(TgoError, match="is not a file inside"):
            take("t.parquet")
    for path in (str(photos[0]), "..\\secret.png"):
        (tmp_path / "list.csv").write_text(f"file_name,prompt\n{path},a\n")
        with pytest.raises(TgoError, match="is not a file inside"):
            take("list.csv")


@pytest.mark.parametrize("ids", [[0, 1, 2], ["0", "", "2"], [None, 0, 5]])
@pytest.mark.parametrize("column", ["sample_id", "image_uid"])
def test_nought_is_a_name(tgo: Tgo, photos: list[Path], ids: list, column: str) -> None:
    images = [path.read_bytes() for path in photos]
    pq.write_table(pa.table({"image": images, "prompt": TEXTS, column: ids}), "t.parquet")
    taken, scored = check(tgo, "t.parquet", photos)
    if column == "sample_id":
        names = [str(name) if name not in (None, "") else f"t.parquet:{row}" for row, name in enumerate(ids)]
        assert scored["image"].to_list() == names
    else:
        names = [
            str(uid) if uid not in (None, "") else sample
            for uid, sample in zip(ids, taken["sample_id"], strict=True)
        ]
        assert taken["image_uid"].to_list() == names


@pytest.mark.parametrize("column", ["sample_id", "image_uid", "file_name", "model"])
@pytest.mark.parametrize(
    "values", [[0.0, 1.0, 2.0], [True, False, True], [[1], [2], [3]]], ids=["float", "bool", "list"]
)
def test_names_are_text_or_whole_numbers(tgo: Tgo, photos: list[Path], column: str, values: list) -> None:
    images = [path.read_bytes() for path in photos]
    pq.write_table(pa.table({"image": images, "prompt": TEXTS, column: values}), "t.parquet")
    message = f"column {column!r} is .*, which names nothing"
    with pytest.raises(TgoError, match=message):
        take("t.parquet")
    done = tgo("t.parquet", rewards=SUM)
    assert done.code == 2
    assert "which names nothing" in done.line


def test_columns_that_are_there_twice_are_refused(tgo: Tgo, photos: list[Path]) -> None:
    images = pa.array([path.read_bytes() for path in photos])
    for names in (["image", "prompt", "prompt"], ["image", "image", "prompt"]):
        arrays = [images if name == "image" else pa.array(TEXTS) for name in names]
        pq.write_table(pa.Table.from_arrays(arrays, names=names), "t.parquet")
        done = tgo("t.parquet", rewards=SUM)
        assert done.code == 2
        assert "twice" in done.line
        with pytest.raises(TgoError, match="twice"):
            take("t.parquet")


ACCENTED = "photos/\u00e9t\u00e9.png"


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
@pytest.mark.parametrize("kind", ["csv", "parquet", "metadata", "prompts"])
def test_letters_with_marks_in_either_form(
    tgo: Tgo, tmp_path: Path, on_disk: str, in_table: str, kind: str
) -> None:
    (tmp_path / "photos").mkdir()
    random_image(0).save(tmp_path / unicodedata.normalize(on_disk, ACCENTED))
    name = unicodedata.normalize(in_table, ACCENTED)
    if kind == "parquet":
        pq.write_table(pa.table({"image": [name], "prompt": ["a"]}), "t.parquet")
    elif kind == "csv":
        Path("t.csv").write_text(f"file_name,prompt\n{name},a\n", encoding="utf-8")
    else:
        file = Path("photos/metadata.csv" if kind == "metadata" else "p.csv")
        file.write_text(f"file_name,prompt\n{Path(name).name},a\n", encoding="utf-8")
    address = {"parquet": "t.parquet", "csv": "t.csv"}.get(kind, "photos")
    scored = score(tgo, address, *(("--prompts", "p.csv") if kind == "prompts" else ()))
    assert scored.select("prompt", "total").rows() == [
        ("a", total((tmp_path / unicodedata.normalize(on_disk, ACCENTED)).read_bytes()))
    ]
    if kind != "prompts":
        assert take(address)["width"].to_list() == [40]


@pytest.mark.parametrize("kind", ["csv", "metadata", "parquet"])
def test_backslashes_part_folders(tgo: Tgo, photos: list[Path], kind: str) -> None:
    names = [f"photos\\{path.name}" for path in photos]
    rows = "".join(f'{name},"{text}"\n' for name, text in zip(names, TEXTS, strict=True))
    if kind == "parquet":
        pq.write_table(pa.table({"image": names, "prompt": TEXTS}), "t.parquet")
        check(tgo, "t.parquet", photos)
    else:
        Path("t.csv" if kind == "csv" else "metadata.csv").write_text("file_name,prompt\n" + rows)
        if kind == "csv":
            check(tgo, "t.csv", photos)
        else:
            Path("pixels.py").rename("../pixels.py")
            scored = tgo(".", rewards=CLIP)
            assert scored.code == 0, scored.err
            assert pl.read_parquet("scores.parquet")["prompt"].to_list() == TEXTS


def test_metadata_that_contradicts_itself_is_refused(tgo: Tgo, photos: list[Path]) -> None:
    Path("photos/metadata.csv").write_text("file_name,prompt\n00.png,a\n01.png,b\n00.png,c\n02.png,d\n")
    done = tgo("photos")
    assert done.code == 2
    assert "metadata.csv, row 3: '00.png' has another prompt in an earlier row" in done.line


@pytest.mark.parametrize(
    "kind", ["parquet", "jsonl", "metadata", "prompts", "csv", "csv metadata", "csv prompts"]
)
def test_an_empty_caption_costs_its_row(tgo: Tgo, photos: list[Path], kind: str) -> None:
    texts = [TEXTS[0], None, TEXTS[2]]
    data = [path.read_bytes() for path in photos]
    lines = "".join(
        f'{{"file_name": "{path.name}", "prompt": {"null" if text is None else chr(34) + text + chr(34)}}}\n'
        for path, text in zip(photos, texts, strict=True)
    )
    table = "file_name,prompt\n" + "".join(
        f'{path.name},"{text or ""}"\n' for path, text in zip(photos, texts, strict=True)
    )
    address, more = "photos", []
    if kind == "parquet":
        pq.write_table(pa.table({"image": data, "prompt": texts}), "t.parquet")
        address = "t.parquet"
    elif kind.startswith("csv"):  # which has no other word for null
        address = {"csv": "photos/list.csv"}.get(kind, "photos")
        named = {"csv": address, "csv metadata": "photos/metadata.csv", "csv prompts": "p.csv"}[kind]
        Path(named).write_text(table)
        more = ["--prompts", named] if kind == "csv prompts" else []
    elif kind == "prompts":
        Path("p.jsonl").write_text(lines)
        more = ["--prompts", "p.jsonl"]
    else:
        Path("photos/metadata.jsonl" if kind == "metadata" else "photos/list.jsonl").write_text(lines)
        address = "photos" if kind == "metadata" else "photos/list.jsonl"
    done = tgo(address, *more, rewards=f"{CLIP},{AESTHETIC}")
    assert done.code == 3, done.err
    found = pl.read_parquet("scores.parquet")
    assert found["error"].to_list() == [None, "it has no prompt", None]
    assert [score is None for score in found["clip"]] == [False, True, False]
    assert found["aesthetic"].null_count() == 0
    assert tgo(address, *more, rewards=f"{CLIP},{AESTHETIC}").code == 3
    assert pl.read_parquet("scores.parquet").equals(found)
    done = tgo(address, *more, "--out", "other.parquet", rewards=AESTHETIC)
    assert done.code == 0, done.err
    done = tgo(address, *more, "--out", "other.parquet", rewards=f"{AESTHETIC},{CLIP}")
    assert done.code == 3
    assert pl.read_parquet("other.parquet").select(found.columns).equals(found)


def test_two_tables_of_metadata_are_refused(tgo: Tgo, photos: list[Path]) -> None:
    Path("photos/metadata.csv").write_text("file_name,prompt\n00.png,a\n")
    Path("photos/metadata.jsonl").write_text('{"file_name": "00.png", "prompt": "b"}\n')
    for address in ("photos", "photos/00.png"):
        done = tgo(address)
        assert done.code == 2
        assert "photos/metadata.csv and photos/metadata.jsonl both say what the images beside" in done.line
    with pytest.raises(TgoError, match="both say what"):
        open_images(["photos"], Columns(importing=True))


def test_a_table_without_any_caption_is_refused(tgo: Tgo, photos: list[Path]) -> None:
    data = [path.read_bytes() for path in photos]
    for kind in (pa.string(), pa.null()):
        pq.write_table(pa.table({"image": data, "prompt": pa.nulls(COUNT, kind)}), "t.parquet")
        done = tgo("t.parquet")
        assert done.code == 2
        assert "3 of 3 images have no prompt, which clip needs" in done.line
