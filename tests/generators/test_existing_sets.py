"""Images of preference sets and of tables of file names: each once, keyed as its source names it, resumed exactly."""

import csv
import hashlib
import multiprocessing
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.datasets.public import PICKAPIC, jpeg, pickapic, uid, write_hpdv3, write_parti, write_pickapic
from tests.hub_server import HubServer
from tgo_pipeline.errors import TgoError
from tgo_pipeline.images import import_folder as existing
from tgo_pipeline.params import GenerateParams
from tgo_pipeline.prompts import prompt_id
from tgo_pipeline.storage.tables import GENERATIONS, read_folder, read_table

EXCLUDED = {prompt_id("a fox")}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _params(images: Path | str, **more) -> GenerateParams:
    return GenerateParams(source="images", images=str(images), shard_size=2, **more)


def _import(images: Path | str, output: Path, **more):
    return existing.import_folder(output, params=_params(images, **more), split="train", excluded=EXCLUDED)


def _rows(output: Path) -> list[dict]:
    for file in output.glob("*.parquet"):
        read_table(file, GENERATIONS)
    return read_folder(output).to_dicts()


def _hashes(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("train-*.parquet")
    }


def test_pickapic_becomes_shards(tmp_path: Path) -> None:
    root = write_pickapic(tmp_path / "set")
    status = _import(f"pickapic:{root}/train", tmp_path / "out")
    assert (status.done, status.failed) == (4, 0)
    rows = _rows(tmp_path / "out")
    assert [row["image_uid"] for row in rows] == [uid(n) for n in range(6)]
    assert [row["image"]["bytes"] for row in rows] == [jpeg(n) for n in range(6)]
    assert [row["sample_id"] for row in rows] == [
        f"{prompt_id(text)}-{index:04d}" for text in ("a cat", "a dog") for index in range(3)
    ]
    assert [(row["width"], row["height"]) for row in rows] == [(20, 10 + n) for n in range(6)]
    assert {row["model"] for row in rows} == {"CompVis/stable-diffusion-v1-4", "dreamlike-art/diffusion-2.0"}


def test_the_limit_takes_the_first_images_and_reads_no_further(tmp_path: Path) -> None:
    root = write_pickapic(tmp_path / "set")
    next((root / "data").glob("train-00001*")).write_bytes(b"never read")
    _import(f"pickapic:{root}/train", tmp_path / "out", limit=3)
    assert [row["image_uid"] for row in _rows(tmp_path / "out")] == [uid(n) for n in range(3)]


def test_only_missing_shards_are_read_and_are_the_same_bytes(tmp_path: Path) -> None:
    address = f"pickapic:{write_pickapic(tmp_path / 'set')}/train"
    _import(address, tmp_path / "out")
    whole = _hashes(tmp_path / "out")
    dates = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.parquet")}
    for index in (0, 2):
        (tmp_path / "out" / f"train-{index:05d}-of-00004.parquet").unlink()
    _import(address, tmp_path / "out")
    assert _hashes(tmp_path / "out") == whole
    kept = [f"train-{index:05d}-of-00004.parquet" for index in (1, 3)]
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == dates[name] for name in kept)


def test_a_killed_import_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    big = [
        row
        | {
            "image_0_uid": f"{n}-a",
            "image_1_uid": f"{n}-b",
            "caption": f"prompt {n}",
            "jpg_1": jpeg(n) + bytes(10**5),
        }
        for n, row in enumerate(pickapic().to_pylist() * 4)
    ]
    address = f"pickapic:{write_pickapic(tmp_path / 'set', pa.Table.from_pylist(big, PICKAPIC))}/train"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_import, args=(address, tmp_path / "out"))
    process.start()
    while process.is_alive() and len(_hashes(tmp_path / "out")) < 3:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -9
    kept = _hashes(tmp_path / "out")
    assert 3 <= len(kept) < 20
    _import(address, tmp_path / "out")
    _import(address, tmp_path / "unbroken")
    assert _hashes(tmp_path / "out") == _hashes(tmp_path / "unbroken")
    assert _hashes(tmp_path / "out").items() >= kept.items()


def test_a_lost_connection_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_pickapic(tmp_path / "set")
    with HubServer() as hub:
        hub.stand_in(monkeypatch)
        for path in (root / "data").iterdir():
            hub.files[f"org/name/{COMMIT}/data/{path.name}"] = path.read_bytes()
        address = f"pickapic:hf:org/name@{COMMIT}/train"
        plan = existing.plan(params=_params(address), split="train", excluded=EXCLUDED)
        hub.fail_after = hub.sent * 2 + 1500
        with pytest.raises(TgoError, match="run again to continue"):
            _import(address, tmp_path / "out")
        kept = _hashes(tmp_path / "out")
        hub.fail_after = None
        _import(address, tmp_path / "out")
    assert {shard.name for shard in plan} == set(_hashes(tmp_path / "out"))
    assert _hashes(tmp_path / "out").items() >= kept.items()
    _import(f"pickapic:{root}/train", tmp_path / "local")
    assert read_folder(tmp_path / "out").equals(read_folder(tmp_path / "local"))


def test_files_of_a_set_are_read_again_when_they_change(tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "set")
    (root / "images/1.jpg").unlink()
    address = f"hpdv3:{root}/train"
    assert _import(address, tmp_path / "out").failed == 1
    assert [row["model"] for row in _rows(tmp_path / "out")] == ["sdxl", "flux", "real_images", "sd3", "sdxl"]
    dates = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.parquet")}
    (root / "images/1.jpg").write_bytes(jpeg(1))
    assert _import(address, tmp_path / "out").failed == 0
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.parquet")}
    assert [name for name in sorted(after) if after[name] != dates[name]] == ["train-00000-of-00003.parquet"]


def test_a_set_of_prompts_has_no_images(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="has no images: PartiPrompts does not come with them"):
        _import(f"parti:{write_parti(tmp_path / 'set')}", tmp_path / "out")


RATINGS = [
    ("a/0.jpg", "a cat", "ann", 5),
    ("a/0.jpg", " a  cat", "bob", 4),
    ("1.jpg", "a cat", "ann", 1),
    ("2.jpg", "a fox", "ann", 2),
    ("1.jpg", "a cat", "bob", 2),
    ("1.jpg", "a dog", "bob", 2),
]
"""Two raters; one image under two prompts."""


def _table(folder: Path, kind: str) -> Path:
    (folder / "a").mkdir(parents=True)
    for number, name in enumerate(("a/0.jpg", "1.jpg", "2.jpg")):
        (folder / name).write_bytes(jpeg(number))
    file = folder / f"ratings.{kind}"
    if kind == "csv":
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows([("file_name", "prompt", "rater", "rating"), *RATINGS])
    elif kind == "jsonl":
        names = ("file_name", "prompt", "rater", "rating")
        lines = [pa.scalar(dict(zip(names, row, strict=True))).as_py() for row in RATINGS]
        file.write_text("\n".join(str(line).replace("'", '"') for line in lines))
    else:
        columns = zip(("file_name", "prompt", "rater", "rating"), zip(*RATINGS, strict=True), strict=True)
        pq.write_table(pa.table({name: list(values) for name, values in columns}), file)
    return file


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_of_ratings_gives_each_image_once(tmp_path: Path, kind: str) -> None:
    _import(_table(tmp_path / "source", kind), tmp_path / "out")
    rows = _rows(tmp_path / "out")
    assert [(row["image_uid"], row["prompt"]) for row in rows] == [
        ("a/0.jpg", "a cat"),
        ("1.jpg", "a cat"),
        ("1.jpg", "a dog"),
    ]
    assert [row["image"]["bytes"] for row in rows] == [jpeg(0), jpeg(1), jpeg(1)]
    assert {row["model"] for row in rows} == {"images"}


def test_what_is_left_out_is_counted_in_images_whatever_the_raters(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = GenerateParams(source="images", images=str(_table(tmp_path / "source", "csv")))
    with caplog.at_level("WARNING", logger="tgo"):
        existing.import_folder(tmp_path / "out", params=params, split="train", excluded={prompt_id("a cat")})
    assert "2 images are left out: their prompt is a test prompt" in caplog.text


def test_metadata_of_a_folder_folds_repeats_too_and_says_the_model(tmp_path: Path) -> None:
    table = _table(tmp_path / "source", "csv")
    lines = table.read_text().splitlines()
    models = ["model", *["sdxl"] * 2, *["flux"] * 4]
    (table.parent / "metadata.csv").write_text(
        "\n".join(",".join(pair) for pair in zip(lines, models, strict=True))
    )
    _import(table.parent, tmp_path / "out")
    assert [(row["image_uid"], row["model"]) for row in _rows(tmp_path / "out")] == [
        ("a/0.jpg", "sdxl"),
        ("1.jpg", "flux"),
        ("1.jpg", "flux"),
    ]


def test_parquet_with_images_may_say_what_they_are_called(tmp_path: Path) -> None:
    columns = {"image": [jpeg(0), jpeg(0), jpeg(1)], "prompt": ["a cat"] * 3}
    pq.write_table(pa.table(columns), tmp_path / "plain.parquet")
    _import(tmp_path / "plain.parquet", tmp_path / "plain")
    rows = _rows(tmp_path / "plain")
    assert [row["image_uid"] for row in rows] == [row["sample_id"] for row in rows]
    assert len(rows) == 3
    pq.write_table(pa.table({**columns, "image_uid": ["x", "x", "y"]}), tmp_path / "named.parquet")
    _import(tmp_path / "named.parquet", tmp_path / "named")
    assert [row["image_uid"] for row in _rows(tmp_path / "named")] == ["x", "y"]
    _import(tmp_path / "named", tmp_path / "again")
    assert [(r["image_uid"], r["image"]) for r in _rows(tmp_path / "again")] == [
        (r["image_uid"], r["image"]) for r in _rows(tmp_path / "named")
    ]
