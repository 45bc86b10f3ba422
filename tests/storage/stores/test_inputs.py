"""What parameters name in an object store is read as if it lay here, and called as it is there."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from stages.cli import app
from tests.hub_server import HubServer
from tests.object_store import BUCKET, Harm, harmful
from tgo_pipeline import demo
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import object_stores
from tgo_pipeline.generators.location import locate, model_fingerprint
from tgo_pipeline.images import open as open_images
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.prompts import sources
from tgo_pipeline.rewards import fingerprint
from tgo_pipeline.rewards.specs import parse
from tgo_pipeline.storage.stores import cache, inputs

ROOT = f"s3://{BUCKET}/inputs"


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process looks at an address once; each test here is one."""
    inputs._copied.cache_clear()
    monkeypatch.setattr(object_stores, "PAUSE_S", 0.01)


def send(folder: Path) -> str:
    """Put a folder of this machine into the store; its address."""
    for path in folder.rglob("*"):
        if path.is_file():
            object_stores.put(path, f"{ROOT}/{folder.name}/{path.relative_to(folder).as_posix()}")
    return f"{ROOT}/{folder.name}"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Images in two folders, with captions."""
    folder = tmp_path / "pictures"
    for number, name in enumerate(("a.png", "b.png", "more/c.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32 + number, 32), (40 * number, 9, 9)).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(f"a picture {number}")
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_tgo_score_takes_a_folder_of_a_store(s3: str, pictures: Path, tmp_path: Path) -> None:
    url = send(pictures)
    results = {}
    (pictures / "all.txt").write_text("one\ntwo\nthree\n")
    object_stores.put(pictures / "all.txt", f"{ROOT}/all.txt")
    lines = {"here": str(pictures / "all.txt"), "there": f"{ROOT}/all.txt"}
    for name, address in {"here": str(pictures), "there": f"{url}/"}.items():
        out = tmp_path / f"{name}.csv"
        call = ["score", address, "--rewards", "jpeg_kb", "--prompts", lines[name], "--out", str(out)]
        done = CliRunner().invoke(app, call, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        results[name] = table(out)
    assert [row["image"] for row in results["there"]] == [
        f"{url}/{n}" for n in ("a.png", "b.png", "more/c.png")
    ]
    scores = {name: [row | {"image": ""} for row in rows] for name, rows in results.items()}
    assert scores["there"] == scores["here"] and len(scores["here"][0]) > 1


def test_rows_keep_prompts_names_and_dates(s3: str, pictures: Path) -> None:
    url = send(pictures)
    (source,) = open_images([url], Columns(importing=True))
    rows = list(source.rows(0, 9))
    assert [(row.uid, row.prompt) for row in rows] == [
        ("a.png", "a picture 0"), ("b.png", "a picture 1"), ("more/c.png", "a picture 2")
    ]  # fmt: skip
    before = source.states(rows)
    object_stores.put_bytes((pictures / "b.png").read_bytes() + b"more", f"{url}/a.png")
    inputs._copied.cache_clear()
    (source,) = open_images([url], Columns(importing=True))
    after = source.states(list(source.rows(0, 9)))
    assert after[0] != before[0] and after[1:] == before[1:]


def test_prompts_are_read_from_a_store(s3: str, tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "train.csv").write_text("prompt\na cat\na dog\n")
    (tmp_path / "prompts" / "test.txt").write_text("a bird\n")
    url = send(tmp_path / "prompts")
    assert sources.read(f"{url}/train.csv", "prompt") == ["a cat", "a dog"]
    assert sources.read(f"{url}/test.txt", "prompt") == ["a bird"]
    assert [prompt.text for prompt in sources.prompts(f"{url}/train.csv", "prompt")] == ["a cat", "a dog"]
    assert sources.identity(f"{url}/train.csv") == sources.identity(str(tmp_path / "prompts" / "train.csv"))


def test_models_and_weights_of_a_store_are_those_of_here(s3: str, tmp_path: Path) -> None:
    url = send(demo.weights_path("diffusion"))
    assert model_fingerprint(url) == model_fingerprint("demo")
    assert str(locate(url).folder).startswith(os.environ["TGO_CACHE"])
    weights = send(demo.weights_path("rewards/clip"))
    assert fingerprint(parse(f"clip={weights}")) == fingerprint(
        parse(f"clip={demo.weights_path('rewards/clip')}")
    )


def test_copies_keep_to_the_bound(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.bin").write_bytes(bytes(3000))
        send(tmp_path / name)
    monkeypatch.setenv(cache.VARIABLE, "0.000004")
    one = inputs.local_path(f"{ROOT}/one")
    inputs.local_path(f"{ROOT}/two")
    assert one.exists()  # this process uses it
    while inputs._in_use:
        inputs._in_use.pop().close()
    inputs._copied.cache_clear()
    inputs.local_path(f"{ROOT}/two")
    assert not one.exists()
    monkeypatch.setenv(cache.VARIABLE, "0.000002")
    inputs._copied.cache_clear()
    with pytest.raises(TgoError, match=r"more than the .* GB that copies"):
        inputs.local_path(f"{ROOT}/two")


@pytest.mark.parametrize("harm", [Harm(failures=2), Harm("GET", cuts=2)])
def test_what_passes_is_tried_again(
    s3: str, pictures: Path, monkeypatch: pytest.MonkeyPatch, harm: Harm
) -> None:
    url = send(pictures)
    with harmful(s3, harm) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        copy = inputs.local_path(url)
    for path in pictures.rglob("*.png"):
        assert (copy / path.relative_to(pictures)).read_bytes() == path.read_bytes()
    assert not list(copy.rglob(".tmp-*"))


def test_refusals_are_one_line(s3: str) -> None:
    done = CliRunner().invoke(app, ["score", "s3://me:secret@bucket/x", "--rewards", "jpeg_kb"])
    assert done.exit_code == 2 and "secret" not in done.output and "secret" not in str(done.exception)
    with pytest.raises(TgoError, match=f"{ROOT}/none does not exist"):
        inputs.local_path(f"{ROOT}/none")
    with pytest.raises(TgoError, match="there is no bucket nowhere"):
        inputs.local_path("s3://nowhere/x")


def test_files_of_the_hub_are_read_as_those_of_a_store(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "cache"))
    commit = "0" * 40
    hub.files[f"org/name/{commit}/prompts/train.txt"] = b"a cat\na dog\n"
    assert sources.read(f"hf://datasets/org/name@{commit}/prompts/train.txt", "prompt") == ["a cat", "a dog"]
    with pytest.raises(TgoError, match="may change at any time: name a commit"):
        sources.read("hf://datasets/org/name/prompts/train.txt", "prompt")
