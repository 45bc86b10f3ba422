"""What `tgo score` writes besides its Parquet table, and images that it fetches from the web."""

from __future__ import annotations

import csv
import functools
import html
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.scoring.command.conftest import Tgo, scores, write_images

TWO = "clip=demo,aesthetic=demo"


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Six images, the fourth of which is none, and a prompt that a spreadsheet would run."""
    paths = write_images(tmp_path / "photos", 6)
    paths[3].write_bytes(b"no image")
    return paths


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_scores_are_text_by_the_name_of_the_file(tgo: Tgo, photos: list[Path], kind: str) -> None:
    out = Path(f"scores.{kind}")
    assert tgo("photos", "--prompt", "=1+1", "--out", out, rewards=TWO).code == 3
    text = out.read_text()
    rows = list(csv.DictReader(text.splitlines())) if kind == "csv" else [*map(json.loads, text.splitlines())]
    assert list(rows[0]) == ["image", "prompt", "clip (demo)", "aesthetic (demo)", "error"]
    stored = scores()  # the Parquet table beside it
    for name in ("clip", "aesthetic"):
        values = [row[f"{name} (demo)"] for row in rows]
        assert [value in (None, "") for value in values] == stored[name].is_null().to_list()
        there = [np.float32(value) for value in values if value not in (None, "")]
        assert there == stored[name].drop_nulls().to_list()  # float32 to the bit
    assert {row["prompt"] for row in rows} == {"'=1+1" if kind == "csv" else "=1+1"}
    assert rows[3]["error"] == "not a known image format"


def test_the_same_call_again_keeps_scores_and_a_table_of_ones_own(tgo: Tgo, photos: list[Path]) -> None:
    assert tgo("photos", "--prompt", "a", "--out", "scores.csv").code == 3
    before = Path("scores.csv").read_bytes()
    again = tgo("photos", "--prompt", "a", "--out", "scores.csv")
    assert "nothing to do: scores.csv has the scores" in again.out
    assert Path("scores.csv").read_bytes() == before
    Path("own.csv").write_text("my,table\n1,2\n")
    refused = tgo("photos", "--prompt", "a", "--out", "own.csv")
    assert refused.code == 2 and "own.csv exists and is not as `tgo score` writes it" in refused.line
    assert Path("own.csv").read_text() == "my,table\n1,2\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--out", "scores.xlsx"),
            "--out scores.xlsx: name a file that ends in .parquet, .csv, .jsonl, .pq.",
        ),
        (("--report", "page.pdf"), "--report page.pdf: name a file that ends in .html or .htm."),
        (("--report", "nowhere/page.html"), "--report nowhere/page.html: the folder nowhere does not exist"),
    ],
)
def test_a_file_of_another_kind_is_refused_before_anything_is_scored(
    tgo: Tgo, photos: list[Path], options: tuple[str, ...], message: str
) -> None:
    refused = tgo("photos", "--prompt", "a", *options)
    assert refused.code == 2 and message in refused.line
    assert not Path("scores.parquet").exists()


def test_the_page_shows_every_image_and_what_could_not_be_scored(tgo: Tgo, photos: list[Path]) -> None:
    arguments = ("photos", "--prompt", "<b>fox</b>", "--report", "scores.html")
    assert tgo(*arguments, rewards=TWO).code == 3
    page = Path("scores.html").read_text()
    assert "Content-Security-Policy" in page and "default-src 'none'" in html.unescape(page)
    assert not re.search(r"(?:src|href)=[\"']https?:", page)
    assert "<b>fox</b>" not in page
    for said in ("Scores of 6 images", "Best and worst", "Where rewards disagree", "Gallery", "Not scored"):
        assert said in page
    assert "clip (demo)" in page and "toys" in page
    assert "photos/03.png" in page and "not a known image format" in page
    assert len(set(re.findall(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]{200,}", page))) >= 5
    assert tgo(*arguments, rewards=TWO).code == 3
    assert Path("scores.html").read_text() == page  # the same inputs, the same bytes


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, photos: list[Path]) -> Iterator[str]:
    """The address of a server of this machine that has the images."""
    handler = functools.partial(_Quiet, directory=str(tmp_path / "photos"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_images_behind_addresses_score_as_files_do(tgo: Tgo, server: str) -> None:
    Path("urls.txt").write_text("".join(f"{server}/{place:02}.png\n" for place in (0, 1, 3, 9)))
    assert tgo("urls.txt", "--prompt", "a fox").code == 3
    fetched = scores()
    assert fetched["image"].to_list()[0] == f"{server}/00.png"
    errors = fetched["error"].to_list()
    assert errors[:2] == [None, None] and errors[2] == "not a known image format"
    assert "404" in errors[3]
    assert tgo("photos", "--prompt", "a fox", "--out", "files.parquet").code == 3
    assert fetched["clip"].to_list()[:2] == pytest.approx(
        scores("files.parquet")["clip"].to_list()[:2], abs=1e-6
    )


def test_a_column_of_addresses_is_read(tgo: Tgo, server: str) -> None:
    Path("table.csv").write_text(f"url,prompt\n{server}/00.png,a\n{server}/01.png,b\n")
    assert tgo("table.csv").code == 0
    assert scores()["prompt"].to_list() == ["a", "b"]


def test_a_line_that_is_no_address_is_named(tgo: Tgo) -> None:
    Path("urls.txt").write_text("https://example.org/a.png\nb.png\n")
    refused = tgo("urls.txt", "--prompt", "a")
    assert refused.code == 2 and "urls.txt, line 2: 'b.png' is no http(s) address" in refused.line
