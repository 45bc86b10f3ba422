"""Clips that exist already: folders, tables and data sets of them, imported, scored by `tgo score`, and rated."""

from __future__ import annotations

import http.client
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from stages.cli import app
from tests.rounding import SCORE, assert_same_numbers
from tgo_pipeline import images
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.video_files import lossless, read_frames
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.images.import_folder import import_folder
from tgo_pipeline.params import GenerateParams
from tgo_pipeline.rating import gallery, store
from tgo_pipeline.rating.server import RatingServer
from tgo_pipeline.rating.session import RatingSession
from tgo_pipeline.rewards import load_reward, score_all
from tgo_pipeline.storage.tables import VIDEO_GENERATIONS, read_table

PROMPTS = ["a red fox", "a blue owl", "rain"]


def clip(seed: int, frames: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8)


def encoded(seed: int) -> bytes:
    return lossless(clip(seed), 8)[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips with their prompts beside them."""
    made = tmp_path / "clips"
    made.mkdir()
    for number, prompt in enumerate(PROMPTS):
        (made / f"{number}.mp4").write_bytes(encoded(number))
        (made / f"{number}.txt").write_text(prompt)
    return made


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The same as a table of `datasets`, without this project's names."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": encoded(n), "path": f"{n}.mp4"} for n in range(3)], kind)
    features = {"film": {"_type": "Video"}, "prompt": {"dtype": "string", "_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(
        pa.table({"film": rows, "prompt": PROMPTS}).replace_schema_metadata(metadata), tmp_path / "t.parquet"
    )
    return tmp_path / "t.parquet"


def imported(to: Path, source: Path, column: str = "image") -> list[dict[str, Any]]:
    params = GenerateParams(source="images", images=str(source), image_column=column)
    import_folder(to, params=params, split="train", excluded=[])
    return [
        row
        for file in sorted(to.glob("*.parquet"))
        for row in read_table(file, VIDEO_GENERATIONS).to_pylist()
    ]


def test_a_folder_becomes_a_table_of_clips(folder: Path, tmp_path: Path) -> None:
    (folder / "2.mp4").write_bytes(encoded(2)[:300])
    rows = imported(tmp_path / "generations", folder)
    assert [row["prompt"] for row in rows] == PROMPTS
    for number, row in enumerate(rows[:2]):
        assert row["video"] == {"bytes": encoded(number), "path": f"{number}.mp4"}  # the file as it is
        assert (row["frames"], row["fps"], row["width"], row["height"]) == (5, 8, 48, 32)
        assert read_frames(row["preview"]["bytes"])[0].shape == (5, 32, 48, 3)
    assert rows[2]["video"]["bytes"] == encoded(2)[:300]  # a damaged one keeps its row
    assert rows[2]["preview"] is rows[2]["frames"] is rows[2]["width"] is None


def test_tables_of_others_and_our_own_are_read(table: Path, tmp_path: Path) -> None:
    rows = imported(tmp_path / "first", table, "film")
    assert [row["video"]["bytes"] for row in rows] == [encoded(number) for number in range(3)]
    (file,) = (tmp_path / "first").glob("*.parquet")
    again = imported(tmp_path / "second", file)
    assert [row["video"]["bytes"] for row in again] == [row["video"]["bytes"] for row in rows]
    (listed,) = images.open([str(file)], Columns())
    assert listed.clips and [row.prompt for row in listed.rows(0, 3)] == PROMPTS


def test_a_list_of_files_is_one_of_clips(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,prompt\n0.mp4,one\n1.mp4,two\n")
    for address in (folder / "metadata.csv", folder / "*.mp4"):
        (source,) = images.open([str(address)], Columns())
        assert source.clips
    (folder / "metadata.csv").write_text("file_name,prompt\n0.mp4,one\n1.png,two\n")
    with pytest.raises(
        TgoError, match=r"0\.mp4 is a clip by its extension and .*1\.png is not: name one kind"
    ):
        images.open([str(folder / "metadata.csv")], Columns())


def test_clips_among_images_are_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (source,) = images.open([str(folder)], Columns())
    assert (source.count, source.clips) == (1, False)
    assert "left out 6 files that are not images by their extension: 3 .txt, 3 .mp4" in caplog.text


def scored(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["score", *arguments, "--device", "cpu"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_scores_frames_and_whole_clips(folder: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "scores.parquet", tmp_path / "scores.html"
    given = (str(folder), "--rewards", "pickscore=demo,motion", "--out", str(out), "--frames")
    scored(*given, "2", "--report", str(page))
    found = read_table(out).to_pylist()
    assert [row["prompt"] for row in found] == PROMPTS
    frames = [Image.fromarray(clip(number)[place]) for number in range(3) for place in (0, 4)]
    texts = [prompt for prompt in PROMPTS for _ in range(2)]
    alone = score_all({"p": load_reward("pickscore", "demo")}, frames, texts).columns["p"].reshape(3, 2)
    assert_same_numbers(np.array([row["pickscore"] for row in found], np.float32), alone.mean(1), SCORE)
    assert all(row["motion"] > 0 for row in found)
    text = page.read_text()
    assert "Scores of 3 clips" in text and text.count("<video ") >= 3
    scored(*given, "3", "--overwrite")
    other = [row["pickscore"] for row in read_table(out).to_pylist()]
    assert not np.allclose(other, [row["pickscore"] for row in found], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rewards", "motion"], "motion scores clips, and images are scored here"),
        (
            ["--rewards", "aesthetic=demo", "--frames", "4"],
            "--frames is 4, which is for clips, and images are named",
        ),
    ],
)
def test_what_is_of_clips_is_refused_for_images(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    from stages.cli import main

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(
        "sys.argv", ["tgo", "score", str(tmp_path), *arguments, "--out", str(tmp_path / "s.parquet")]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_rater_is_sent_clips_that_browsers_play(folder: Path, tmp_path: Path) -> None:
    found = gallery.listed([str(folder)], Columns(), None, tmp_path)
    assert [image.name for image in found] == ["0.mp4", "1.mp4", "2.mp4"]
    with store.opened(tmp_path / "ratings.jsonl") as answers:
        session = RatingSession(found, answers, "stars", False, 0)
        asked = session.next("ann")["question"]["images"]
        with RatingServer(session, 0) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            whole, part = (get(server, asked[0], bounds) for bounds in ("", "bytes=10-29"))
            server.shutdown()
            thread.join()
    assert asked[0].startswith("clip/")
    assert whole[:2] == (200, "video/mp4") and read_frames(whole[3])[0].shape == (5, 32, 48, 3)
    assert part[0] == 206 and part[2] == f"bytes 10-29/{len(whole[3])}" and part[3] == whole[3][10:30]
    (folder / "1.mp4").write_bytes(encoded(1)[:300])
    with pytest.raises(TgoError, match=r"1\.mp4 cannot be shown: "):
        gallery.shown(found[1])


def get(server: RatingServer, path: str, bounds: str) -> tuple[int, str | None, str | None, bytes]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    connection.request("GET", f"/{server.token}/{path}", headers={"Range": bounds} if bounds else {})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, answer.headers["Content-Type"], answer.headers["Content-Range"], data
