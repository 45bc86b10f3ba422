"""Every address of images is read by `tgo score` and by `generate.images`: the same rows, prompts and names."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.datasets.public import write_hpdv3, write_imagerewarddb, write_parti, write_pickapic
from tests.hub_server import HubServer
from tests.images.conftest import publish
from tests.scoring.command.conftest import Tgo, random_image, write_images
from tests.scoring.command.test_inputs import write_csv
from tgo_pipeline.errors import TgoError
from tgo_pipeline.images import import_folder as existing
from tgo_pipeline.params import GenerateParams
from tgo_pipeline.reading.hub_rows import HubRows
from tgo_pipeline.storage.shards import status
from tgo_pipeline.storage.tables import read_folder

COUNT = 5
PROMPTS = [f"a red circle, {number}" for number in range(COUNT)]
NAMES = [f"{number:02d}.png" for number in range(COUNT)]
SUM = "pixels:total"
Make = Callable[[Path], str]


@pytest.fixture(autouse=True)
def _reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward that tells images apart, and the images as the working folder names them."""
    (tmp_path / "pixels.py").write_text(
        "import numpy as np\n"
        "def total(images, prompts):\n"
        "    return [float(np.asarray(i.convert('RGB')).astype(int).sum()) for i in images]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def total(data: bytes) -> float:
    with Image.open(io.BytesIO(data)) as image:
        return float(np.asarray(image.convert("RGB")).astype(int).sum())


def take(address: str, **more) -> pl.DataFrame:
    """What `generate.images` makes of an address."""
    params = GenerateParams(source="images", images=address, shard_size=2, **more)
    existing.import_folder(Path("taken"), params=params, split="train", excluded=set())
    assert [shard.name for shard in existing.plan(params=params, split="train", excluded=set())] == sorted(
        file.name for file in Path("taken").glob("train-*")
    )
    return read_folder(Path("taken"))


def score(tgo: Tgo, address: str, *options: str) -> pl.DataFrame:
    """What `tgo score` makes of it."""
    done = tgo(address, *options, rewards=SUM)
    assert done.code == 0, done.err + done.log
    return pl.read_parquet("scores.parquet")


def _captioned_folder(root: Path) -> str:
    for path, prompt in zip(write_images(root / "photos", COUNT), PROMPTS, strict=True):
        path.with_suffix(".txt").write_bytes(b"\xef\xbb\xbf" + f" {prompt}\n".encode())
    return "photos"


def _captioned_pattern(root: Path) -> str:
    _captioned_folder(root)
    return "photos/*.png"


def _metadata(root: Path) -> str:
    write_images(root / "photos", COUNT)
    write_csv(root / "photos/metadata.csv", [list(row) for row in zip(NAMES, PROMPTS, strict=True)])
    return "photos"


def _metadata_pattern(root: Path) -> str:
    _metadata(root)
    return "photos/*"


def _metadata_without_prompts(root: Path) -> str:
    _captioned_folder(root)
    (root / "photos/metadata.csv").write_text("\n".join(["file_name", *NAMES]))
    return "photos"


def _csv(root: Path) -> str:
    write_images(root / "photos", COUNT)
    rows = [[f"photos/{name}", prompt] for name, prompt in zip(NAMES, PROMPTS, strict=True)]
    return str(write_csv(root / "list.csv", rows, ("path", "caption")).name)


def _jsonl(root: Path) -> str:
    write_images(root / "photos", COUNT)
    rows = [{"image": f"photos/{name}", "text": text} for name, text in zip(NAMES, PROMPTS, strict=True)]
    (root / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "list.jsonl"


def _json(root: Path) -> str:
    Path(_jsonl(root)).rename("lines.jsonl")
    rows = [json.loads(line) for line in Path("lines.jsonl").read_text().splitlines()]
    (root / "list.json").write_text(json.dumps(rows, indent=1))
    return "list.json"


def _tsv(root: Path) -> str:
    write_images(root / "photos", COUNT)
    rows = [f"photos/{name}\t{text}" for name, text in zip(NAMES, PROMPTS, strict=True)]
    (root / "list.tsv").write_text("\n".join(["image\ttext", *rows]))
    return "list.tsv"


def _metadata_json(root: Path) -> str:
    write_images(root / "photos", COUNT)
    rows = [{"file_name": name, "prompt": text} for name, text in zip(NAMES, PROMPTS, strict=True)]
    (root / "photos/metadata.json").write_text(json.dumps(rows))
    return "photos"


def _sidecars(root: Path) -> str:
    """Beside each image what a program notes of it, which is no table."""
    for path in root.glob(_captioned_pattern(root)):
        path.with_suffix(".json").write_text('{"seed": 3}')
    return "photos/*"


def _table(root: Path, images: list) -> Path:
    write_images(root / "photos", COUNT)
    pq.write_table(pa.table({"image": images, "caption": PROMPTS}), root / "all.parquet", row_group_size=2)
    return root / "all.parquet"


def _parquet_of_paths(root: Path) -> str:
    return _table(root, [f"photos/{name}" for name in NAMES]).name


def _parquet(root: Path) -> str:
    paths = write_images(root / "photos", COUNT)
    return _table(root, [{"bytes": path.read_bytes(), "path": path.name} for path in paths]).name


def _saved(root: Path) -> str:
    datasets = pytest.importorskip("datasets")
    paths = write_images(root / "photos", COUNT)
    content = {"image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths], "text": PROMPTS}
    datasets.Dataset.from_dict(content).save_to_disk(str(root / "saved"))
    return "saved"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (_captioned_folder, "photos/{uid}"),
        (_captioned_pattern, "{uid}"),
        (_metadata, "photos/{uid}"),
        (_metadata_pattern, "{uid}"),
        (_metadata_without_prompts, "photos/{uid}"),
        (_csv, "{uid}"),
        (_jsonl, "{uid}"),
        (_json, "{uid}"),
        (_tsv, "{uid}"),
        (_metadata_json, "photos/{uid}"),
        (_sidecars, "{uid}"),
        (_parquet_of_paths, None),
        (_parquet, None),
        (_saved, None),
    ],
)
def test_local_addresses(tgo: Tgo, tmp_path: Path, make: Make, named: str | None) -> None:
    """`named`: what `tgo score` calls an image that `generate.images` calls `uid`."""
    address = make(tmp_path)
    taken, scored = take(address), score(tgo, address)
    assert taken["prompt"].to_list() == scored["prompt"].to_list() == PROMPTS
    expected = [float(np.asarray(random_image(number)).astype(int).sum()) for number in range(COUNT)]
    assert [total(image["bytes"]) for image in taken["image"]] == scored["total"].to_list() == expected
    if named:
        assert [named.format(uid=uid) for uid in taken["image_uid"]] == scored["image"].to_list()
    else:
        assert scored["image"].to_list() == [f"{address}:{row}" for row in range(COUNT)]


@pytest.mark.parametrize(
    ("name", "write"),
    [("pickapic", write_pickapic), ("hpdv3", write_hpdv3), ("imagerewarddb", write_imagerewarddb)],
)
def test_public_data_sets(tgo: Tgo, tmp_path: Path, name: str, write: Callable[[Path], Path]) -> None:
    address = f"{name}:{write(tmp_path / 'set')}/train"
    taken = take(address)
    scored = score(tgo, address, "--out", "scores.parquet")
    ours = sorted(zip(taken["image_uid"], taken["prompt"], map(_total, taken["image"]), strict=True))
    theirs = sorted(zip(scored["image"], scored["prompt"], scored["total"], strict=True))
    assert ours == theirs
    assert "nothing to do" in tgo(address, rewards=SUM).out


def _total(image: dict) -> float:
    return total(image["bytes"])


def test_a_changed_data_set_is_scored_again_where_it_changed(tgo: Tgo, tmp_path: Path) -> None:
    root = write_hpdv3(tmp_path / "set")
    address = f"hpdv3:{root}/train"
    before = score(tgo, address)
    (root / "images/1.jpg").write_bytes((root / "images/2.jpg").read_bytes())
    after = score(tgo, address)
    assert (before["total"] != after["total"]).sum() == 1


@pytest.mark.parametrize("kind", ["parquet", "files"])
def test_any_data_set_of_the_hub(tgo: Tgo, tmp_path: Path, hub: HubServer, kind: str) -> None:
    (tmp_path / "repository").mkdir()
    if kind == "parquet":
        _parquet(tmp_path)
        (tmp_path / "repository/data").mkdir()
        (tmp_path / "all.parquet").rename(tmp_path / "repository/data/train-00000-of-00001.parquet")
    else:
        _metadata(tmp_path / "repository")
        (tmp_path / "repository/photos").rename(tmp_path / "repository/train")
    address = f"{publish(hub, 'org/name', tmp_path / 'repository')}/train"
    taken, scored = take(address), score(tgo, address)
    names = [f"{address}:{row}" for row in range(COUNT)]
    ours = sorted(zip(taken["image_uid"], taken["prompt"], map(_total, taken["image"]), strict=True))
    assert ours == sorted(zip(scored["image"], scored["prompt"], scored["total"], strict=True))
    assert sorted(taken["image_uid"]) == names and sorted(taken["prompt"]) == PROMPTS
    before = {file.name: file.read_bytes() for file in Path("taken").iterdir()}
    Path("taken/train-00001-of-00003.parquet").unlink()
    take(address)
    assert {file.name: file.read_bytes() for file in Path("taken").iterdir()} == before
    assert take(address, limit=2).height == 2


def test_only_what_is_needed_is_read_of_parquet_on_the_hub(tmp_path: Path, hub: HubServer) -> None:
    images = [{"bytes": os.urandom(3 * 10**5), "path": None} for _ in range(40)]
    table = pa.table({"image": images, "prompt": [str(row) for row in range(40)]})
    (tmp_path / "repository/data").mkdir(parents=True)
    for part in range(2):
        path = tmp_path / f"repository/data/train-0000{part}-of-00002.parquet"
        pq.write_table(table, path, row_group_size=5, compression="none", use_dictionary=False)
    rows = HubRows(f"{publish(hub, 'org/name', tmp_path / 'repository')}/train")
    hub.sent = 0
    assert [row["prompt"] for row in rows.records(0, ["prompt"])] == 2 * table["prompt"].to_pylist()
    assert hub.sent < 2.4e6  # of 24 MB
    hub.sent = 0
    assert [row["image"] for row in rows.records(75, ["image"])] == images[35:]
    assert hub.sent < 2.4e6


def test_rows_of_the_hub_name_no_file_of_this_machine(tmp_path: Path, hub: HubServer) -> None:
    (secret,) = write_images(tmp_path / "home", 1)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": None, "path": str(secret)}], kind)
    (tmp_path / "repository").mkdir()
    pq.write_table(pa.table({"image": images, "prompt": ["a"]}), tmp_path / "repository/train.parquet")
    taken = take(f"{publish(hub, 'org/name', tmp_path / 'repository')}/train")
    assert taken["image"].to_list() == [None]


WRONG: list[tuple[str, str]] = [
    ("gone", "gone does not exist (looked in "),
    (
        "gone",
        "hf:ORGANISATION/NAME@REVISION/SPLIT, or a public data set NAME:WHERE, NAME being one of pickapic",
    ),
    ("pickapick:/data", "pickapick:/data does not exist"),
    ("ftp://bucket/images", "ftp://bucket/images does not exist"),
    ("gone/*.png", "gone/*.png matches no image, clip, table or folder"),
    ("empty", "empty holds no image (.apng .avif"),
    ("numbers.parquet", "column 'image' is int64, not images"),
    ("numbered.parquet", "column 'prompt' is int64, not text"),
    ("broken.parquet", "broken.parquet cannot be read as Parquet"),
    ("list.csv", "list.csv has no column 'image' or 'file_name' or 'path' or 'image_path'"),
    ("elsewhere.csv", "elsewhere.csv: none of its files is there (looked for nowhere.png and others)"),
    ("both", "both holds the splits train, test: name one, as both/train"),
    ("pickapic:gone/set", "pickapic:gone/set: gone/set does not exist"),
    ("parti:parti", "parti:parti has no images: PartiPrompts does not come with them"),
    ("pickapic:pickapic/dev", "there is no split 'dev'"),
    ("hf:me/mine", "'hf:me/mine' names no data set: write hf:ORGANISATION/NAME@REVISION/SPLIT"),
    ("hf:me/mine@main/train", "may change at any time: pin a commit, hf:me/mine@COMMIT"),
]


@pytest.mark.parametrize(("address", "said"), WRONG)
def test_wrong_addresses_are_refused_alike(tgo: Tgo, tmp_path: Path, address: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").write_text("file,words\na.png,x\n")
    (tmp_path / "elsewhere.csv").write_text("file_name,prompt\nnowhere.png,x\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    pq.write_table(pa.table({"image": [1], "prompt": ["a"]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"image": [b"1"], "prompt": [3]}), tmp_path / "numbered.parquet")
    (tmp_path / "both").mkdir()
    (tmp_path / "both/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    write_parti(tmp_path / "parti")
    write_pickapic(tmp_path / "pickapic")
    check_alike(tgo, address, said)


def check_alike(tgo: Tgo, address: str, said: str) -> None:
    with pytest.raises(TgoError) as refused:
        take(address)
    assert said in str(refused.value)
    done = tgo(address, rewards=SUM)
    assert done.code == 2
    assert done.line == f"tgo: {refused.value}"
    assert not Path("taken").exists() and not Path("scores.parquet").exists()


def test_what_the_hub_does_not_give_is_refused_alike(tgo: Tgo, tmp_path: Path, hub: HubServer) -> None:
    _parquet(tmp_path)
    (tmp_path / "repository").mkdir()
    (tmp_path / "all.parquet").rename(tmp_path / "repository/train.parquet")
    address = publish(hub, "org/name", tmp_path / "repository")
    check_alike(tgo, f"{address}/test", "Available splits: ['train']")
    check_alike(
        tgo, "hf:org/other@abc/train", "hf:org/other@abc/train is not on the hub, or you may not read it"
    )
    hub.gated = {"org/name"}
    check_alike(tgo, f"{address}/train", "is a gated dataset on the Hub")


def test_images_without_prompts(tgo: Tgo, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", COUNT)
    advice = "a .txt file beside each image"
    with pytest.raises(TgoError, match=f"no image to take; 5 left out, they have no prompt: .*{advice}"):
        take("photos")
    done = tgo("photos")
    assert done.code == 2
    assert "5 of 5 images have no prompt" in done.line and advice in done.line


def test_metadata_goes_before_captions_and_captions_are_not_left_out(tgo: Tgo, tmp_path: Path) -> None:
    _captioned_folder(tmp_path)
    write_csv(tmp_path / "photos/metadata.csv", [[NAMES[1], "from metadata"]])
    done = tgo("photos", rewards=SUM)
    assert "left out" not in done.log
    assert pl.read_parquet("scores.parquet")["prompt"].to_list() == [
        PROMPTS[0],
        "from metadata",
        *PROMPTS[2:],
    ]


def test_a_changed_caption_costs_its_image(tgo: Tgo, tmp_path: Path) -> None:
    address = _captioned_folder(tmp_path)
    score(tgo, address), take(address)
    (tmp_path / "photos/03.txt").write_text("another fox")
    assert "5 images, 1 of them now" in tgo(address, rewards=SUM).out
    plan = existing.plan(
        params=GenerateParams(source="images", images=address, shard_size=2), split="train", excluded=set()
    )
    assert status(Path("taken"), plan).stale == 1
