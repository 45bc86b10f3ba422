"""Folders of shards in an object store: what is written there, taken from there, and refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.object_store import BUCKET, Harm, directly, harmful, objects
from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import execute, one_by_one
from tgo_pipeline.formats import object_stores
from tgo_pipeline.images import open as open_images
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.sharing.folders import link_files
from tgo_pipeline.storage import digests, tables
from tgo_pipeline.storage.shards import OwnPartDone, Shard, Stop, run_shards, status
from tgo_pipeline.storage.stores import cache, mirror, stubs
from tgo_pipeline.storage.stores.syncing import attach
from tgo_pipeline.storage.writing import atomic

URL = f"s3://{BUCKET}/project"
IMAGES = [bytes([number]) * 3000 for number in range(8)]


def images(shard: Shard) -> pa.Table:
    """Two rows of the generations."""
    rows = [
        {
            "sample_id": f"{shard.index}-{row}",
            "prompt": "a cat",
            "image": {"bytes": IMAGES[2 * shard.index + row]},
        }
        for row in range(2)
    ]
    return pa.Table.from_pylist(rows, schema=tables.GENERATIONS)


def plan(fingerprint: str = "one", count: int = 3) -> list[Shard]:
    return [Shard("train", index, count, fingerprint) for index in range(count)]


def generate(folder: Path, shards: Sequence[Shard]) -> list[str]:
    """Bring a folder to its plan; the names that were written."""
    written = []

    def work(waiting: Sequence[Shard], stop: Stop) -> None:
        for shard in waiting:
            with atomic(folder / shard.name) as temporary:
                tables.write_table(images(shard), temporary, shard.mark.entries())
            written.append(shard.name)

    run_shards(folder, shards, work)
    return written


def stored_images(folder: Path) -> list[bytes]:
    values = [value for path in sorted(folder.glob("*.parquet")) for value in tables.stream_images(path)]
    return [value if isinstance(value, bytes) else value.read() for value in values if value is not None]


def test_shards_lie_in_the_store_and_read_as_before(s3: str, tmp_path: Path) -> None:
    alone, folder = tmp_path / "alone" / "generations", tmp_path / "data" / "generations"
    generate(alone, plan())
    attach(tmp_path / "data", URL)
    assert len(generate(folder, plan())) == 3 and generate(folder, plan()) == []

    names = [f"{BUCKET}/project/generations/{name}" for name in sorted(digests_and_shards(3))]
    assert objects(s3) == names
    for path in sorted(alone.glob("*.parquet")):
        here = folder / path.name
        with directly(s3).open_input_file(f"{BUCKET}/project/generations/{path.name}") as stream:
            assert stream.read() == path.read_bytes()
        assert stubs.read_stub(here) == stubs.Stub(path.stat().st_size, digests.computed(path))
        assert digests.of(here) == digests.of(path)
        assert tables.read_metadata(here) == tables.read_metadata(path)
        assert tables.row_count(here) == 2
        assert tables.read_table(here).equals(tables.read_table(path))
    assert stored_images(folder) == IMAGES[:6]


def attached(project: Path) -> Path:
    """The generations of a project whose shards lie in the store."""
    attach(project / "data", URL)
    return project / "data" / "generations"


def digests_and_shards(count: int) -> list[str]:
    return [name for shard in plan(count=count) for name in (shard.name, f".{shard.name}.xxh3")]


def test_another_machine_takes_what_is_there_and_reads_columns_in_ranges(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = attached(tmp_path)
    generate(folder, plan())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(tmp_path / "data")
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "other"))
    attach(tmp_path / "data", URL)

    assert status(folder, plan()).done == 3
    assert generate(folder, plan()) == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    paths = sorted(folder.glob("*.parquet"))
    found = tables.read_columns(paths, ["sample_id", "prompt"], ["prompt"])
    assert found["sample_id"].to_pylist() == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    assert set(found["prompt"].to_pylist()) == {"a cat"}
    assert tables.read_table(paths[0], columns=["sample_id"])["sample_id"].to_pylist() == ["0-0", "0-1"]
    assert list(cache.place().iterdir()) == []  # no shard was fetched as a whole
    assert stored_images(folder) == IMAGES[:6]
    for check in (True, False):  # the same from the cache
        assert tables.read_columns(paths, ["sample_id", "prompt"], ["prompt"], check=check).equals(found)
        assert tables.read_table(paths[0], check=check)["sample_id"].to_pylist() == ["0-0", "0-1"]


def test_tables_of_numbers_stay_here_and_go_there_too(s3: str, tmp_path: Path) -> None:
    attach(tmp_path / "data", URL)
    path = tmp_path / "data" / "scores" / plan()[0].name
    with atomic(path) as temporary:
        tables.write_table(pa.table({"sample_id": ["a"], "clip": [1.0]}), temporary, {})
    with atomic(tmp_path / "data" / "thresholds.parquet") as temporary:
        tables.write_table(pa.table({"tau": [1.0]}), temporary, {})
    assert stubs.read_stub(path) is None
    assert objects(s3) == [f"{BUCKET}/project/scores/{name}" for name in (f".{path.name}.xxh3", path.name)]


def test_what_is_planned_anew_or_no_more_goes_from_the_store(s3: str, tmp_path: Path) -> None:
    folder = attached(tmp_path)
    generate(folder, plan())
    (tmp_path / "x").touch()
    object_stores.put(tmp_path / "x", f"{URL}/generations/of-others.txt")
    assert len(generate(folder, plan("two", count=2))) == 2
    names = sorted([*digests_and_shards(2), "of-others.txt"])
    assert objects(s3) == [f"{BUCKET}/project/generations/{name}" for name in names]


def test_a_project_moves_into_a_store(s3: str, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "generations"
    generate(folder, plan())
    attach(tmp_path / "data", URL)
    assert generate(folder, plan()) == []
    assert len(objects(s3)) == 6 and all(stubs.read_stub(path) for path in folder.glob("*.parquet"))
    assert stored_images(folder) == IMAGES[:6]


def test_a_shard_without_its_digest_is_not_whole(s3: str, tmp_path: Path) -> None:
    folder = attached(tmp_path)
    generate(folder, plan())
    directly(s3).delete_file(f"{BUCKET}/project/generations/.{plan()[1].name}.xxh3")
    assert generate(folder, plan()) == [plan()[1].name]
    assert len(objects(s3)) == 6


def test_other_bytes_than_those_of_the_stub_are_refused(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = attached(tmp_path)
    generate(folder, plan())
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "other"))
    path = sorted(folder.glob("*.parquet"))[0]
    key = f"{BUCKET}/project/generations/{path.name}"
    with directly(s3).open_input_file(key) as stream:
        content = bytearray(stream.read())
    content[20] ^= 1
    stream = directly(s3).open_output_stream(key)
    stream.write(bytes(content))
    stream.close()
    with pytest.raises(TgoError, match=r"is not what .* stands for"):
        tables.read_table(path)


def test_the_cache_keeps_to_its_bound_and_to_what_is_in_use(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = attached(tmp_path)
    monkeypatch.setattr(cache, "IN_USE", 1)
    generate(folder, plan(count=1))
    size = stubs.size_bytes(next(folder.glob("*.parquet")))
    monkeypatch.setenv(cache.VARIABLE, str(2.5 * size / 1e9))
    generate(folder, plan(count=4))
    paths = sorted(folder.glob("*.parquet"))
    for _ in range(2):
        for path in paths:
            tables.read_table(path)
            assert sum(file.stat().st_size for file in cache.place().iterdir()) <= 2.5 * size
    monkeypatch.setattr(cache, "IN_USE", 4)
    held = [mirror.here(path) for path in paths]
    assert all(path.exists() for path in held)  # more than the bound, since all are in use
    monkeypatch.setenv(cache.VARIABLE, "much")
    with pytest.raises(TgoError, match="TGO_STORE_CACHE_GB is 'much'"):
        cache.most_bytes()


@pytest.mark.parametrize("harm", [Harm(failures=3), Harm("GET", cuts=2), Harm(pause_s=0.2)])
def test_passing_failures_are_tried_again(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Harm
) -> None:
    with harmful(s3, harm) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        attach(tmp_path / "data", URL)
        folder = tmp_path / "data" / "generations"
        generate(folder, plan(count=2))
        monkeypatch.setenv("TGO_CACHE", str(tmp_path / "other"))
        assert stored_images(folder) == IMAGES[:4]
    assert harm.failures == harm.cuts == 0 and harm.seen
    assert len(objects(s3)) == 4


def test_a_store_that_fails_on_is_one_line_and_nothing_is_half_there(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_stores, "PAUSE_S", 0.01)
    with harmful(s3, Harm("PUT", failures=99)) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        attach(tmp_path / "data", URL)
        folder = tmp_path / "data" / "generations"
        with pytest.raises(TgoError, match="the store failed"):
            generate(folder, plan())
    assert objects(s3) == [] and not list(folder.glob("*"))


def test_refusals_say_what_to_do(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_stores, "PAUSE_S", 0.01)
    with pytest.raises(TgoError, match="there is no bucket nowhere: make it"):
        object_stores.listed("s3://nowhere/project")
    with pytest.raises(TgoError, match="there is no such file"):
        object_stores.read(f"{URL}/none")
    with pytest.raises(TgoError, match=r"s3://…@bucket/x has a user or a password") as refused:
        object_stores.require_address("s3://me:secret@bucket/x")
    assert "secret" not in str(refused.value)
    with pytest.raises(TgoError, match="is no address in an object store"):
        object_stores.require_address("hf://datasets/a/b@c", object_stores.WRITABLE)
    harm = Harm(failures=9, status=403)
    with harmful(s3, harm) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        for ask in (object_stores.listed, object_stores.find, object_stores.read):
            with pytest.raises(TgoError, match=r"the store refuses .* give credentials"):
                ask(URL)
    assert harm.failures == 6  # none was tried again
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(TgoError, match=r"out of reach .*AWS_ENDPOINT_URL \(http://127.0.0.1:1\)"):
        object_stores.listed(URL)


def test_shards_of_another_address_are_not_left_behind(s3: str, tmp_path: Path) -> None:
    attach(tmp_path / "data", URL)
    generate(tmp_path / "data" / "generations", plan())
    for other in (f"{URL}2", None):
        with pytest.raises(TgoError, match=rf"3 shards of .* lie at {URL}"):
            attach(tmp_path / "data", other)
    (tmp_path / "data" / mirror.MARKER).unlink()
    mirror.forget()
    cache.make_room(10**12)
    shutil.rmtree(cache.place())
    with pytest.raises(TgoError, match=r"set runtime\.data to where it lies"):
        mirror.here(sorted((tmp_path / "data" / "generations").glob("*.parquet"))[0])


def test_machines_that_share_the_store_alone_divide_shards_by_number(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 and rank 1 in folders of their own; whoever comes once more has nothing to do."""
    monkeypatch.setenv("TGO_DIVIDE", "index")
    monkeypatch.setenv("TGO_RANKS", "2")
    for rank, wrote in (("0", 2), ("1", 1)):
        monkeypatch.setenv("TGO_RANK", rank)
        attach(tmp_path / rank / "data", URL)
        folder = tmp_path / rank / "data" / "generations"
        written: list[Shard] = []

        def write(shard: Shard, folder: Path = folder, written: list[Shard] = written) -> None:
            with atomic(folder / shard.name) as temporary:
                tables.write_table(images(shard), temporary, shard.mark.entries())
            written.append(shard)

        def work(waiting: Sequence[Shard], stop: Stop, write: Callable[[Shard], None] = write) -> None:
            execute(waiting, stop, lambda _: one_by_one(write), RuntimeParams(executor="ranks"))

        if rank == "0":
            with pytest.raises(OwnPartDone, match="1 of 3 are with others"):
                run_shards(folder, plan(), work, together=True)
        else:
            run_shards(folder, plan(), work, together=True)
        assert len(written) == wrote
    assert generate(tmp_path / "0" / "data" / "generations", plan()) == []


def test_long_listings_come_in_pages(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    harm = Harm()
    names = [f"{URL}/{number:04d}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: object_stores.put_bytes(b"x", name), names))
    with harmful(s3, harm) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert [file.url for file in object_stores.listed(URL)] == names
    assert sum("list-type" in each for each in harm.seen) >= 2


def test_a_server_that_says_nothing_is_given_up(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_stores, "SILENT_S", 1)
    monkeypatch.setattr(object_stores, "WHOLE_S", 2)
    with harmful(s3, Harm(pause_s=20)) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(TgoError, match="out of reach"):
            object_stores.read(f"{URL}/x")


def test_secrets_of_the_environment_are_in_no_message(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://not-to-be-shown.invalid")
    monkeypatch.setattr(object_stores, "PAUSE_S", 0.01)
    with pytest.raises(TgoError) as refused:
        object_stores.read(f"{URL}/x")
    assert "not-to-be-shown" not in str(refused.value)
    assert object_stores.masked("http://me:pw@host:9/x, a@b") == "http://…@host:9/x, a@b"


def test_stubs_are_shared_and_rated_as_their_shards(s3: str, tmp_path: Path) -> None:
    folder = attached(tmp_path)
    generate(folder, plan())
    link_files(folder, tmp_path / "shared")
    files = sorted((tmp_path / "shared").glob("*.parquet"))
    assert (
        len(files) == 3
        and [pq.read_table(file)["image"][0]["bytes"].as_py() for file in files] == IMAGES[:6:2]
    )

    for fresh in (False, True):
        if fresh:
            shutil.rmtree(cache.place())
        sources = open_images([str(folder)], Columns())
        labels = [row.image for source in sources for row in source.labels(0, 9)]
        assert labels == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
        rows = [row.content for source in sources for row in source.rows(0, 9)]
        assert [content if isinstance(content, bytes) else content.read() for content in rows] == IMAGES[:6]  # type: ignore[union-attr]
