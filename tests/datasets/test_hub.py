"""The same readers over the hub's protocol: ranges, nothing on disk, nothing that is not needed."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
from huggingface_hub import constants

from tests.datasets.public import (
    PICKAPIC,
    pickapic,
    write_hpdv2_prompts,
    write_hpdv3,
    write_imagerewarddb,
    write_parti,
    write_pickapic,
)
from tests.datasets.streams import rows
from tests.hub_server import HubServer
from tgo_pipeline.datasets import open_dataset
from tgo_pipeline.datasets.schemas import COMPARISONS, IMAGE_ROWS, LISTING, PROMPT_ROWS
from tgo_pipeline.errors import TgoError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _publish(hub: HubServer, repository: str, root: Path) -> str:
    for path in root.rglob("*"):
        if path.is_file():
            hub.files[f"{repository}/{COMMIT}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return f"hf:{repository}@{COMMIT}"


def test_pickapic_is_the_same_as_the_local_copy(hub: HubServer, tmp_path: Path) -> None:
    root = write_pickapic(tmp_path / "set")
    local = open_dataset(f"pickapic:{root}/train")
    remote = open_dataset(f"pickapic:{_publish(hub, 'yuvalkirstain/pickapic_v2', root)}/train")
    assert rows(remote.listing(), LISTING) == rows(local.listing(), LISTING)
    assert rows(remote.images(), IMAGE_ROWS) == rows(local.images(), IMAGE_ROWS)
    assert rows(remote.images(3), IMAGE_ROWS) == rows(local.images(3), IMAGE_ROWS)
    assert rows(remote.comparisons(), COMPARISONS) == rows(local.comparisons(), COMPARISONS)
    assert remote.identity() != local.identity()
    assert remote.dates(["any"]) is None


def test_listing_and_comparisons_read_no_images(hub: HubServer, tmp_path: Path) -> None:
    heavy = [row | {"jpg_0": os.urandom(10**6), "jpg_1": os.urandom(10**6)} for row in pickapic().to_pylist()]
    root = write_pickapic(tmp_path / "set", pa.Table.from_pylist(heavy, PICKAPIC), parts=1)
    dataset = open_dataset(f"pickapic:{_publish(hub, 'org/name', root)}/train")
    total = sum(len(content) for name, content in hub.files.items() if "/train-" in name)
    assert len(rows(dataset.listing(), LISTING)) == 8
    assert hub.sent < total / 3
    hub.sent = 0
    assert len(rows(dataset.comparisons(), COMPARISONS)) == 4
    assert hub.sent < total / 2
    hub.sent = 0
    assert len(rows(dataset.images(7), IMAGE_ROWS)) == 1
    assert hub.sent < total * 0.6  # one row group of three, and the small columns of the others


def test_json_prompts_and_archives(hub: HubServer, tmp_path: Path) -> None:
    hpdv3 = _publish(hub, "MizzenAI/HPDv3", write_hpdv3(tmp_path / "hpdv3"))
    assert len(rows(open_dataset(f"hpdv3:{hpdv3}/train").comparisons(), COMPARISONS)) == 3
    assert len(rows(open_dataset(f"hpdv3:{hpdv3}/benchmark").prompts(), PROMPT_ROWS)) == 2
    with pytest.raises(
        TgoError, match=r"images in archives, which cannot be streamed\. Download images\.tar\.gz"
    ):
        next(open_dataset(f"hpdv3:{hpdv3}/train").images())
    parti = _publish(hub, "nateraw/parti-prompts", write_parti(tmp_path / "parti"))
    assert len(rows(open_dataset(f"parti:{parti}/train").prompts(), PROMPT_ROWS)) == 3
    styles = _publish(hub, "zhwang/HPDv2", write_hpdv2_prompts(tmp_path / "styles"))
    assert len(rows(open_dataset(f"hpdv2-prompts:{styles}/anime").prompts(), PROMPT_ROWS)) == 2
    assert len(rows(open_dataset(f"hpdv2-prompts:{styles}/benchmark/photo.json").prompts(), PROMPT_ROWS)) == 2


def test_zip_archives_are_read_in_ranges(hub: HubServer, tmp_path: Path) -> None:
    root = write_imagerewarddb(tmp_path / "set")
    local = open_dataset(f"imagerewarddb:{root}/train")
    remote = open_dataset(f"imagerewarddb:{_publish(hub, 'THUDM/ImageRewardDB', root)}/train")
    assert rows(remote.images(), IMAGE_ROWS) == rows(local.images(), IMAGE_ROWS)


def test_what_the_hub_does_not_have_is_named(hub: HubServer, tmp_path: Path) -> None:
    _publish(hub, "org/name", write_pickapic(tmp_path / "set"))
    for where, reason in (
        ("hf:org/other@1", "the hub has no repository org/other, or you may not read it"),
        ("hf:org/name@1", "org/name has no revision 1"),
        (f"hf:org/name@{COMMIT}/other.parquet", "org/name has no such file"),
    ):
        with pytest.raises(TgoError, match=reason):
            list(open_dataset(f"pickapic:{where}").listing())
    with pytest.raises(TgoError, match="no split 'validation'"):
        list(open_dataset(f"pickapic:hf:org/name@{COMMIT}/validation").listing())


def test_a_refusal_in_the_middle_says_to_go_on(hub: HubServer, tmp_path: Path) -> None:
    address = _publish(hub, "org/name", write_pickapic(tmp_path / "set"))
    dataset = open_dataset(f"pickapic:{address}/train")
    stream = dataset.images()
    next(stream)
    hub.fail_after = hub.sent
    with pytest.raises(TgoError, match=r"403.*What was written is kept; run again to continue"):
        list(stream)


def test_without_a_hub_it_says_so_at_once(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stop()
    with pytest.raises(TgoError, match=r"out of reach: Connection refused"):
        list(open_dataset(f"pickapic:hf:org/name@{COMMIT}/train").listing())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TgoError, match="HF_HUB_OFFLINE forbids downloads"):
        list(open_dataset(f"pickapic:hf:org/name@{COMMIT}/train").listing())
