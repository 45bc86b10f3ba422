"""`tgo rate`, `tgo export images` and `tgo import ratings` as a user calls them, a kill included."""

from __future__ import annotations

import csv
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import polars as pl
import pytest
from PIL import Image

from stages.cli import main
from tests.project import ROOT, environment
from tests.scoring.test_stage import write_generations
from tgo_pipeline.feedback.ratings_file import read_records, standing
from tgo_pipeline.feedback.read import read
from tgo_pipeline.params.feedback import FeedbackParams


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with samples."""
    (tmp_path / "data").mkdir()
    write_generations(tmp_path / "data/generations")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tgo(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["tgo", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def start(folder: Path, *words: str) -> tuple[subprocess.Popen[str], str]:
    """`tgo rate` in a process of its own, and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.cli", "rate", *words],
        cwd=folder,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+/[\w-]{22}/", line):
            return process, found[0]
    raise AssertionError("".join(lines))


def post(address: str, **content: Any) -> dict[str, Any]:
    request = Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_a_kill_loses_nothing_and_the_next_call_goes_on(project: Path) -> None:
    process, address = start(project)
    state = post(address + "next", rater="ann")
    of, saved = state["of"], []
    try:
        for number in range(4):
            question = state["question"]["id"]
            state = post(
                address + "answer", rater="ann", question=question, value=3, id=f"{number:016d}", seconds=1
            )
            saved.append(f"{number:016d}")
        # answers are under way when it is killed: what was acknowledged is there
        hurry = threading.Thread(target=_answer_until_it_ends, args=(address, state, saved))
        hurry.start()
        while len(saved) < 6 and hurry.is_alive():
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    hurry.join(20)
    kept = [each.id for each in standing(read_records(project / "ratings.jsonl")[0])]
    assert kept[: len(saved)] == saved
    process, address = start(project)
    assert (post(address + "next", rater="ann")["done"], of) == (len(kept), 12)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    said = process.stdout.read()
    assert process.wait(20) == 0, said
    assert f"{len(kept)} stars on {len(kept)} images" in said
    assert not list(project.glob(".ratings*"))


def _answer_until_it_ends(address: str, state: dict[str, Any], saved: list[str]) -> None:
    try:
        while state["question"]:
            name = f"{len(saved):016d}"
            state = post(
                address + "answer", rater="ann", question=state["question"]["id"], value=4, id=name, seconds=1
            )
            saved.append(name)
    except OSError:
        pass


def test_a_sample_as_files_with_a_table_that_feedback_reads(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert tgo("export", "images", "-n", "5", "--to", "out", monkeypatch=monkeypatch) == 0
    assert "out: 5 of 12 images" in capsys.readouterr().out
    with (project / "out/ratings.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["sample_id", "prompt", "file", "rating"]
    generations = {
        row["sample_id"]: row["image"]["bytes"]
        for row in pl.read_parquet(project / "data/generations/*.parquet").iter_rows(named=True)
    }
    for row in rows:
        assert (project / "out" / row["file"]).read_bytes() == generations[row["sample_id"]]
        assert Path(row["file"]).stem == row["sample_id"]
    assert len(rows) == 5
    rows[0]["rating"], rows[3]["rating"] = "4", "2"
    with (project / "out/ratings.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    found, empty = read(
        FeedbackParams(source="out/ratings.csv", kind="rating", image="sample_id", low=1, high=5)
    )
    assert (found.rows(), empty) == ([(rows[0]["sample_id"], 4.0), (rows[3]["sample_id"], 2.0)], 3)
    assert tgo("export", "images", "--to", "out", monkeypatch=monkeypatch) == 2
    assert "out is there already: name another folder" in capsys.readouterr().err
    assert tgo("export", "images", "-n", "5", "--to", "again", monkeypatch=monkeypatch) == 0
    assert sorted(path.name for path in (project / "again/images").iterdir()) == sorted(
        Path(row["file"]).name for row in rows
    )


def test_ratings_of_another_tool_are_added_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    record = {
        "id": "p01-0002",
        "fields": {},
        "metadata": {},
        "responses": {"stars": [{"value": 4, "user_id": "ann"}, {"value": 3, "user_id": "bob"}]},
    }
    Path("export.json").write_text(json.dumps([record]))
    words = ("import", "ratings", "export.json", "--from", "argilla")
    for added in (2, 0):
        assert tgo(*words, monkeypatch=monkeypatch) == 0
        assert f"ratings.jsonl: {added} of 2 answers added (rating)" in capsys.readouterr().out
    rows, _ = read(FeedbackParams(source="ratings.jsonl", kind="rating"))
    assert rows.rows() == [("p01-0002", 4.0, "ann"), ("p01-0002", 3.0, "bob")]
    assert tgo("rate", "--summary", monkeypatch=monkeypatch) == 0
    assert "2 stars on 1 images" in capsys.readouterr().out
    Path("export.json").write_text(json.dumps([record | {"id": "gone"}]))
    assert tgo(*words, monkeypatch=monkeypatch) == 2
    assert "'gone' is not among the images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rate", "gone"), "gone does not exist (looked in "),
        (("rate", "--ask", "pairs", "one"), "no two of the 1 images have the same prompt"),
        (("rate", "--order", "tau"), "params.yaml does not exist"),
        (("rate", "--to", "ratings.csv"), "a name that ends in .jsonl"),
        (("rate", "--to", "table.jsonl"), "is there and no file of ratings of this program"),
        (("rate", "--summary"), "ratings.jsonl does not exist"),
        (("rate", "empty"), "empty holds no image"),
        (("export", "images", "gone"), "gone does not exist"),
        (("import", "ratings", "gone.json", "--from", "argilla"), "gone.json cannot be read"),
    ],
)
def test_a_wrong_call_is_one_line(
    project: Path,
    words: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    for folder in ("one", "empty"):
        (project / folder).mkdir()
    Image.new("RGB", (8, 8)).save(project / "one/a.png")
    (project / "one/a.txt").write_text("a cat")
    (project / "table.jsonl").write_text('{"file_name": "a.png", "rating": 1}\n')
    assert tgo(*words, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_port_that_is_taken_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert tgo("rate", "--port", str(port), monkeypatch=monkeypatch) == 2
    assert (
        f"port {port} of 127.0.0.1 cannot be listened on (Address already in use)" in capsys.readouterr().err
    )


def test_without_samples_the_stage_that_makes_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tgo("rate", monkeypatch=monkeypatch) == 2
    assert "run the generate stage first" in capsys.readouterr().err
