"""What cannot work is one line on standard error with exit code 2, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.project import ROOT, environment
from tests.scoring.command.conftest import CLIP, Tgo, write_images
from tests.scoring.command.test_inputs import write_csv


@pytest.fixture(autouse=True)
def _photos(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 2)
    (tmp_path / "empty").mkdir()
    write_csv(tmp_path / "list.csv", [["photos/00.png", "x"]], ("file", "words"))
    (tmp_path / "notes.txt").write_text("one\n")
    pq.write_table(pa.table({"image": [1, 2], "prompt": ["a", "b"]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"image": [b"1"], "prompt": [3]}), tmp_path / "numbered.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone"], "gone does not exist (looked in "),
        (["gone/*.png"], "gone/*.png matches no image, clip, table or folder"),
        (["*.txt"], "matches no image, clip, table or folder, only 1 other files"),
        (["empty"], "empty holds no image (.apng .avif"),
        (
            ["photos"],
            "2 of 2 images have no prompt, which clip needs: photos/00.png, photos/01.png; give --prompts",
        ),
        (["photos", "--prompt", "a", "--out", "empty"], "--out empty is a folder: name a file in it"),
        (["photos", "--prompt", "a", "--out", "no/s.parquet"], "the folder no does not exist"),
        (["photos", "--prompt", "a", "--out", "/proc/s.parquet"], "nothing can be written in /proc"),
        (
            ["photos", "--prompt", "a", "--out", "list.csv"],
            "list.csv exists and is not as `tgo score` writes it",
        ),
        (["photos", "--prompt", "a", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["photos", "--prompt", "a", "--dtype", "fp7"], "'fp7'"),
        (["photos", "--prompts", "gone.csv"], "gone.csv does not exist"),
        (["photos", "--prompts", "empty"], "empty"),
        (
            ["list.csv"],
            "or 'video' or 'video_path' or 'video_url': name the one that holds",
        ),
        (
            ["list.csv", "--image-column", "files"],
            "list.csv has no column 'files'; its columns are: file, words",
        ),
        (
            ["list.csv", "--image-column", "file", "--prompt-column", "word"],
            "no column 'word'; its columns are: file",
        ),
        (["numbers.parquet"], "column 'image' is int64, not images"),
        (["numbered.parquet"], "column 'prompt' is int64, not text"),
        (["broken.parquet"], "broken.parquet cannot be read as Parquet"),
        (
            ["hf:me/mine", "--prompt", "a"],
            "'hf:me/mine' names no data set: write hf:ORGANISATION/NAME@REVISION/SPLIT",
        ),
    ],
)
def test_one_line(tgo: Tgo, tmp_path: Path, arguments: list[str], said: str) -> None:
    before = sorted(tmp_path.iterdir())
    done = tgo(*arguments)
    assert done.code == 2
    assert said in done.line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ("klip", "'klip' is not a reward. Did you mean clip?"),
        ("hpsv2=demo", "'hpsv2' leaves open which reward is meant: write hpsv2.1 or hpsv2.0"),
        ("clip=demo,clip=demo", "--rewards has 'clip' twice"),
        (" , ", "--rewards names no reward"),
        ("clip=/gone", "/gone"),
        ("gone:reward", "there is no module 'gone'"),
    ],
)
def test_rewards(tgo: Tgo, tmp_path: Path, rewards: str, said: str) -> None:
    done = tgo("photos", "--prompt", "a", rewards=rewards)
    assert done.code == 2
    assert said in done.line
    assert not list(tmp_path.glob("*scores*"))


def test_a_reward_that_gives_no_number_for_an_image_costs_that_column_alone(tgo: Tgo, tmp_path: Path) -> None:
    (tmp_path / "own_odd.py").write_text(
        "def odd(images, prompts):\n    return [1.0, float('nan')][: len(images)]\n"
    )
    assert tgo("photos", "--prompt", "a", rewards=f"own_odd:odd,{CLIP}").code == 3
    found = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert [row["odd"] for row in found] == [1.0, None]
    assert all(row["clip"] is not None for row in found)
    assert found[1]["error"] == "odd gave nan"


def test_a_table_that_is_damaged_in_the_middle_keeps_what_was_scored(tgo: Tgo, tmp_path: Path) -> None:
    data = (tmp_path / "photos/00.png").read_bytes()
    table = pa.table({"image": [data] * 400})
    options = {"row_group_size": 10, "compression": "none", "use_dictionary": False}
    pq.write_table(table, tmp_path / "all.parquet", **options)
    content = bytearray((tmp_path / "all.parquet").read_bytes())
    begin = pq.read_metadata(tmp_path / "all.parquet").row_group(39).column(0).data_page_offset
    content[begin : begin + 40] = b"\xff" * 40
    (tmp_path / "all.parquet").write_bytes(content)
    done = tgo("all.parquet", "--prompt", "a")
    assert done.code == 2
    assert "it is damaged after row 0: " in done.line
    assert list(tmp_path.glob("scores.parquet.parts/*.parquet"))


def test_a_folder_in_the_way_of_the_parts(tgo: Tgo, tmp_path: Path) -> None:
    (tmp_path / "scores.parquet.parts").mkdir()
    (tmp_path / "scores.parquet.parts/mine.txt").write_text("mine")
    done = tgo("photos", "--prompt", "a", "--overwrite")
    assert done.code == 2
    assert "scores.parquet.parts is in the way" in done.line
    assert (tmp_path / "scores.parquet.parts/mine.txt").is_file()


def test_a_full_disk(tmp_path: Path) -> None:
    """A file-size limit of the kernel stands for the full disk: a write fails half way, as on one."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        f"sys.argv = ['tgo', 'score', 'photos', '--prompt', 'a', '--rewards', {CLIP!r}];"
        "from stages.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "disk is full while writing" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "scores.parquet").exists()
    assert not list(tmp_path.glob("scores.parquet.parts/*.parquet"))


def test_help_is_there_at_once_and_loads_nothing(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['tgo', 'score', '--help']\n"
        "from stages.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'PIL', 'transformers', 'datasets'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    started_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - started_s < 5
    for told in (
        "tgo score images/ --prompts prompts.csv --rewards",
        "finished, but some images",
        ".avif",
        "module:function",
    ):
        assert told in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
