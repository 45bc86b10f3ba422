"""Which images are rated, under which names, and what a browser is sent of them."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.hub_server import HubServer
from tests.images.conftest import publish
from tests.scoring.test_stage import write_generations
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.parquet_values import StoredValue
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.rating import gallery


def png(shade: int = 7, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, shade, shade)).save(stream, "PNG", **options)
    return stream.getvalue()


def test_samples_go_by_their_id_and_stay_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write_generations(Path("data/generations"))
    found = gallery.listed(["data/generations"], Columns(), None, tmp_path)
    assert [image.name for image in found] == pl.read_parquet("data/generations/*.parquet")[
        "sample_id"
    ].to_list()
    assert {image.prompt for image in found} == {"a red cat", "blue cats"}
    assert all(isinstance(image.content, StoredValue) for image in found)
    assert gallery.shown(found[0])[0].startswith(b"\x89PNG")
    assert len(gallery.listed(["data/generations"], Columns(), 5, tmp_path)) == 5


def test_files_go_by_their_names_and_what_is_missing_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "list.csv").write_text("file_name,prompt\na.png,one\ngone.png,two\na.png,three\n")
    with caplog.at_level(logging.WARNING):
        found = gallery.listed([str(tmp_path / "list.csv")], Columns(), None, tmp_path)
    assert [(image.name, image.prompt) for image in found] == [("a.png", "one")]
    assert "2 rows are left out" in caplog.text


def test_compressed_images_are_copied_and_no_more_than_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = pa.table({"file_name": [f"{n}.png" for n in range(9)], "image": [png(n) for n in range(9)]})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd")
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr(gallery, "COPIED", 4)
    with caplog.at_level(logging.WARNING):
        found = gallery.listed([str(tmp_path / "t.parquet")], Columns(), None, copies)
    assert [image.name for image in found] == ["0.png", "1.png", "2.png", "3.png"]
    assert "its first 4 images are copied" in caplog.text
    assert [gallery.read(image) for image in found] == [png(n) for n in range(4)]
    assert len(gallery.listed([str(tmp_path / "t.parquet")], Columns(), 7, copies)) == 7


def test_images_of_the_hub_are_copied_to_be_shown(tmp_path: Path, hub: HubServer) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png(n), "path": None} for n in range(5)], kind)
    (tmp_path / "repository").mkdir()
    table = pa.table({"image": images, "prompt": [f"prompt {n}" for n in range(5)]})
    pq.write_table(table, tmp_path / "repository/train.parquet")
    address = f"{publish(hub, 'org/name', tmp_path / 'repository')}/train"
    found = gallery.listed([address], Columns(), 3, tmp_path)
    assert [(image.name, image.prompt) for image in found] == [
        (f"{address}:{n}", f"prompt {n}") for n in range(3)
    ]
    assert [gallery.shown(image)[0] for image in found] == [png(n) for n in range(3)]


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/png"), ("BMP", "image/png")],
)
def test_a_browser_is_sent_what_it_can_show(tmp_path: Path, kind: str, sent: str) -> None:
    path = tmp_path / "a.img"
    Image.new("RGB", (6, 4), (9, 90, 200)).save(path, kind)
    data, said = gallery.shown(gallery.RatableImage("a", None, path))
    assert said == sent
    assert Image.open(io.BytesIO(data)).format == sent.removeprefix("image/").upper()
    assert (data == path.read_bytes()) is (kind in ("PNG", "JPEG"))


@pytest.mark.parametrize("data", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>", b"GIF89a"])
def test_what_is_no_image_is_not_sent(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(TgoError, match="a cannot be shown"):
        gallery.shown(gallery.RatableImage("a", None, path))
    path.unlink()
    with pytest.raises(TgoError, match=r"a\.png cannot be read"):
        gallery.shown(gallery.RatableImage("a", None, path))
