"""Every way to name images gives the same scores in the same order."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.scoring.command.conftest import Tgo, expected, random_image, scores, write_images
from tests.scoring.command.process import peak_bytes
from tgo_pipeline.devices import cores
from tgo_pipeline.rewards.engine.workers import CHUNK, MAX_WORKERS
from tgo_pipeline.scoring.command.run import ON_CPU

COUNT = 5
PROMPTS = [f"a red circle, {number}" for number in range(COUNT)]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return write_images(tmp_path / "photos", COUNT)


@pytest.fixture
def right() -> np.ndarray:
    return expected([random_image(number) for number in range(COUNT)], PROMPTS)


def write_csv(path: Path, rows: list[list[str]], header: tuple[str, str] = ("file_name", "prompt")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def rows() -> list[list[str]]:
    return [[f"{number:02d}.png", prompt] for number, prompt in enumerate(PROMPTS)]


def image_bytes(paths: list[Path]) -> list[dict[str, object]]:
    return [{"bytes": path.read_bytes(), "path": path.name} for path in paths]


def check(right: np.ndarray, images: list[str] | None = None) -> None:
    found = scores()
    assert found["prompt"].to_list() == PROMPTS
    np.testing.assert_allclose(found["clip"].to_numpy(), right, rtol=0, atol=1e-5)
    assert found["error"].null_count() == COUNT
    if images is not None:
        assert found["image"].to_list() == images


def test_a_folder_is_searched_in_depth_in_the_order_of_its_paths(
    tgo: Tgo, tmp_path: Path, photos: list[Path], right: np.ndarray
) -> None:
    (tmp_path / "photos/z").mkdir()
    photos[4].rename(tmp_path / "photos/z/0.PNG")
    table = write_csv(tmp_path / "p.csv", [*rows()[:4], ["z/0.PNG", PROMPTS[4]]])
    (tmp_path / "photos/notes.txt").write_text("no image")
    (tmp_path / "photos/.hidden.png").write_text("no image")
    done = tgo("photos", "--prompts", table)
    assert done.code == 0
    check(right, [f"photos/{name}" for name in ("00.png", "01.png", "02.png", "03.png", "z/0.PNG")])
    assert "left out 1 files that are not images by their extension: 1 .txt" in done.log


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_metadata_in_the_folder_gives_the_prompts(
    tgo: Tgo, tmp_path: Path, photos: list[Path], right: np.ndarray, name: str
) -> None:
    path = tmp_path / "photos" / name
    pairs = [{"file_name": name, "text": prompt} for name, prompt in [*rows(), ["gone.png", "a ghost"]]]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(pairs), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, pairs)))
    else:
        write_csv(path, [list(pair.values()) for pair in pairs], ("file_name", "text"))
    done = tgo("photos")
    check(right)
    assert "1 of 6 rows of metadata name no image in the folder, such as photos/gone.png" in done.log


def test_a_pattern_of_the_shell_or_of_tgo(
    tgo: Tgo, tmp_path: Path, photos: list[Path], right: np.ndarray
) -> None:
    write_csv(tmp_path / "photos/metadata.csv", rows())
    (tmp_path / "photos/readme.md").write_text("no image")
    done = tgo("photos/*")
    check(right, [f"photos/{path.name}" for path in photos])
    assert "left out 1 that are not images" in done.log
    files = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "photos").glob("*.[pc]*"))
    assert files[-1] == "photos/metadata.csv"
    assert tgo(*files, "--overwrite").code == 0
    check(right)
    assert tgo("phot*", "--overwrite").code == 0
    check(right)


def test_several_paths_of_several_kinds_keep_their_order(
    tgo: Tgo, tmp_path: Path, photos: list[Path], right: np.ndarray
) -> None:
    (tmp_path / "more").mkdir()
    photos[1].rename(tmp_path / "more/1.png")
    photos[2].rename(tmp_path / "more/2.png")
    write_csv(tmp_path / "list.csv", [["photos/03.png", "x"]], ("path", "caption"))
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    tgo("photos/00.png", "more", "list.csv", "photos/04.png", "--prompts", "prompts.txt")
    check(right, ["photos/00.png", "more/1.png", "more/2.png", "photos/03.png", "photos/04.png"])


def test_a_csv_of_paths_beside_it(tgo: Tgo, tmp_path: Path, photos: list[Path], right: np.ndarray) -> None:
    write_csv(tmp_path / "photos/list.csv", rows(), ("file", "words"))
    done = tgo("photos/list.csv", "--image-column", "file", "--prompt-column", "words")
    assert done.code == 0
    check(right, [f"photos/{path.name}" for path in photos])


def test_a_row_without_its_file_is_a_row_with_a_reason(tgo: Tgo, tmp_path: Path, photos: list[Path]) -> None:
    write_csv(tmp_path / "list.csv", [["photos/00.png", "a"], ["gone.png", "b"], ["", "c"], ["photos", "d"]])
    assert tgo("list.csv").code == 3
    found = scores()
    assert found["clip"].is_null().to_list() == [False, True, True, True]
    assert found["image"].to_list() == ["photos/00.png", "gone.png", "list.csv:2", "photos"]
    assert found["error"].is_null().to_list() == [True, False, False, False]


def test_jsonl_of_paths(tgo: Tgo, tmp_path: Path, photos: list[Path], right: np.ndarray) -> None:
    lines = [json.dumps({"image": str(tmp_path / "photos" / name), "caption": text}) for name, text in rows()]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    tgo("list.jsonl")
    check(right)


@pytest.mark.parametrize("kind", ["struct", "binary", "path", "struct of paths"])
def test_parquet(tgo: Tgo, tmp_path: Path, photos: list[Path], right: np.ndarray, kind: str) -> None:
    images: dict[str, list[object]] = {
        "struct": list(image_bytes(photos)),
        "binary": [path.read_bytes() for path in photos],
        "path": [f"photos/{path.name}" for path in photos],
        "struct of paths": [{"bytes": None, "path": f"photos/{path.name}"} for path in photos],
    }
    column = pa.array(images[kind])
    if kind == "struct of paths":
        column = column.cast(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": column, "prompt": PROMPTS}), tmp_path / "all.parquet", row_group_size=2)
    assert tgo("all.parquet").code == 0
    check(right, [f"all.parquet:{row}" for row in range(COUNT)])


def test_a_folder_of_parquet_names_rows_by_sample_id_and_is_not_read_from_its_own_output(
    tgo: Tgo, tmp_path: Path, photos: list[Path], right: np.ndarray
) -> None:
    (tmp_path / "data").mkdir()
    for part, places in enumerate((range(3), range(3, COUNT))):
        table = pa.table(
            {
                "sample_id": [f"s{place}" for place in places],
                "image": image_bytes([photos[place] for place in places]),
                "prompt": [PROMPTS[place] for place in places],
            }
        )
        pq.write_table(table, tmp_path / f"data/{part}.parquet")
    for _ in range(2):
        assert tgo("data", "--out", "data/scores.parquet").code == 0
    (tmp_path / "data/scores.parquet").rename(tmp_path / "scores.parquet")
    check(right, [f"s{place}" for place in range(COUNT)])


def test_a_data_set_saved_by_datasets(
    tgo: Tgo, tmp_path: Path, photos: list[Path], right: np.ndarray
) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    content = {"image": [str(path) for path in photos], "caption": PROMPTS}
    saved = datasets.Dataset.from_dict(content, features=features)
    saved.save_to_disk(tmp_path / "saved", num_shards=2)
    assert tgo("saved").code == 0
    check(right, [f"saved:{row}" for row in range(COUNT)])
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(tmp_path / "both")
    done = tgo("both", "--overwrite")
    assert done.code == 2
    assert "both holds the splits train, test: name one, as both/train" in done.line


def test_links_and_names_that_are_no_utf8(tgo: Tgo, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_images(folder, 1)
    random_image(1).save(tmp_path / "elsewhere.png")
    (folder / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (folder / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "round").symlink_to(folder)
    odd = os.fsencode(folder) + b"/caf\xe9.png"
    with open(odd, "wb") as stream:
        random_image(2).save(stream, "PNG")
    assert tgo("photos", "--prompt", "a fox").code == 3
    found = scores()
    names = ["00.png", "broken.png", "caf\\xe9.png", "link.png"]
    assert found["image"].to_list() == [f"photos/{name}" for name in names]
    assert found["clip"].is_null().to_list() == [False, True, False, False]
    np.testing.assert_allclose(found["clip"][2], expected([random_image(2)], ["a fox"])[0], atol=1e-5)


def test_a_folder_named_like_an_image_is_a_folder(tgo: Tgo, tmp_path: Path) -> None:
    write_images(tmp_path / "photos/x.png", 2)
    assert tgo("photos", "--prompt", "a fox").code == 0
    assert scores()["image"].to_list() == ["photos/x.png/00.png", "photos/x.png/01.png"]


def test_the_output_of_an_earlier_call_is_no_input(
    tgo: Tgo, tmp_path: Path, photos: list[Path], right: np.ndarray
) -> None:
    pq.write_table(pa.table({"image": image_bytes(photos), "prompt": PROMPTS}), tmp_path / "all.parquet")
    assert tgo("all.parquet").code == 0
    assert "nothing to do" in tgo("all.parquet", "scores.parquet").out
    tgo("*.parquet", "--overwrite")
    assert "nothing to do" in tgo("*.parquet").out
    check(right)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Three times as many images as may be under way at once take no more memory."""
    under_way = ON_CPU + 2 * CHUNK * min(MAX_WORKERS, cores())
    random_image(0, (450, 450)).save(tmp_path / "one.png", compress_level=0)
    (tmp_path / "own_width.py").write_text(
        "def width(images, prompts):\n    return [i.width for i in images]\n"
    )
    peaks = []
    for count in (under_way, 3 * under_way):
        table = pa.table({"image": [(tmp_path / "one.png").read_bytes()] * count})
        options = {"row_group_size": 10, "compression": "none", "use_dictionary": False}
        pq.write_table(table, tmp_path / f"{count}.parquet", **options)
        call = (f"{count}.parquet", "--prompt", "a fox", "--rewards", "own_width:width")
        peaks.append(peak_bytes(tmp_path, *call, "--out", f"{count}-scores.parquet"))
    assert peaks[1] < peaks[0] + under_way * (tmp_path / "one.png").stat().st_size / 2
