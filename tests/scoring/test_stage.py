"""The score folder through real Parquet shards: resume, per-column fingerprints, undecodable images, bad input."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.rewards import tiny
from tests.rewards.tiny import png, smooth_image
from tests.rewriting import rewrite, shown
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.scoring.score_shard import PARTIAL
from tgo_pipeline.scoring.stage import plan, score_folder
from tgo_pipeline.storage.shards import Status
from tgo_pipeline.storage.tables import GENERATIONS, read_folder, read_metadata, write_table

SHARDS, ROWS = 3, 4
BROKEN = "p01-0001"


@pytest.fixture
def generations(tmp_path: Path) -> Path:
    return write_generations(tmp_path / "generations")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewards")
    for name in ("hpsv2.1", "clip", "aesthetic"):
        tiny.write(name, folder / name)
    return folder


def write_generations(folder: Path, broken: tuple[str, ...] = ()) -> Path:
    """Three shards of four images; those named in `broken` are truncated."""
    folder.mkdir()
    for index in range(SHARDS):
        rows = []
        for row in range(ROWS):
            sample = f"p{index:02d}-{row:04d}"
            data = png(smooth_image(40 + 4 * index, 32 + row))
            rows.append(
                {
                    "sample_id": sample,
                    "prompt_id": f"p{index:02d}",
                    "prompt": ["a red cat", "blue cats"][row % 2],
                    "image": {"bytes": data[:300] if sample in broken else data, "path": f"{sample}.png"},
                    "model": "none",
                    "index": row,
                }
            )
        table = pa.Table.from_pylist(rows, schema=GENERATIONS)
        write_table(table, folder / shard(index), {"fingerprint": f"generation-{index}"})
    return folder


def shard(index: int) -> str:
    return f"train-{index:05d}-of-{SHARDS:05d}.parquet"


def sources(weights: Path, *names: str) -> dict[str, str]:
    return {name: str(weights / name) for name in names}


def score(
    generations: Path, rewards: Mapping[str, str], max_error_rate: float = 0.0, **runtime: float
) -> Status:
    settings = RuntimeParams(device="cpu", score_batch_size=3, **runtime)  # type: ignore[arg-type]
    scores = generations.parent / "scores"
    return score_folder(generations, scores, rewards, runtime=settings, max_error_rate=max_error_rate)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in shown(folder)}


def computed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The rewards that each written shard says it computed."""
    lines = [record.getMessage() for record in caplog.records if " samples, " in record.getMessage()]
    caplog.clear()
    return [line.split(" samples, ")[1].split(", kept")[0] for line in lines]


def test_every_image_gets_a_row_of_scores(generations: Path, weights: Path) -> None:
    status = score(generations, sources(weights, "hpsv2.1", "clip", "aesthetic"))
    assert status == Status(done=3, stale=0, to_do=0, failed=0)
    frame = read_folder(generations.parent / "scores")
    assert frame.columns == ["sample_id", "prompt_id", "hpsv2.1", "clip", "aesthetic", "error"]
    assert frame["sample_id"].to_list() == read_folder(generations)["sample_id"].to_list()
    images = [smooth_image(40 + 4 * index, 32 + row) for index in range(SHARDS) for row in range(ROWS)]
    prompts = ["a red cat", "blue cats"] * (SHARDS * ROWS // 2)
    for name in ("hpsv2.1", "clip", "aesthetic"):
        expected = tiny.build(name).score(images, prompts)
        np.testing.assert_allclose(frame[name].to_numpy(), expected, rtol=0, atol=1e-5)


def test_the_shards_open_in_datasets(generations: Path, weights: Path, tmp_path: Path) -> None:
    score(generations, sources(weights, "clip"))
    files = str(generations.parent / "scores/*.parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=files, cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert isinstance(loaded, datasets.Dataset)
    assert loaded.features["clip"] == datasets.Value("float32")
    assert loaded[0]["sample_id"] == "p00-0000"


def test_a_second_run_does_nothing(
    generations: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tgo")
    rewards = sources(weights, "clip", "aesthetic")
    score(generations, rewards)
    assert computed(caplog) == ["computed clip, aesthetic"] * SHARDS
    before = {path.name: path.stat().st_mtime_ns for path in (generations.parent / "scores").iterdir()}
    score(generations, rewards)
    assert computed(caplog) == []
    assert {
        path.name: path.stat().st_mtime_ns for path in (generations.parent / "scores").iterdir()
    } == before


def mark(folder: Path, name: str, value: float) -> None:
    """Overwrite one column with a value that no network gives, leaving fingerprints as they are."""
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        metadata = read_metadata(path)
        column = pa.array(np.full(table.num_rows, value, dtype=np.float32))
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
        rewrite(table, path, metadata)


def test_adding_a_reward_computes_that_reward_alone(
    generations: Path, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tgo")
    scores = generations.parent / "scores"
    copy = shutil.copytree(weights, tmp_path / "copy")
    score(generations, sources(copy, "clip"))
    mark(scores, "clip", 123.0)  # if it were computed again, the mark would be gone
    computed(caplog)
    score(generations, sources(copy, "aesthetic", "clip"))
    assert computed(caplog) == ["computed aesthetic"] * SHARDS
    frame = read_folder(scores)
    assert frame.columns == ["sample_id", "prompt_id", "aesthetic", "clip", "error"]
    assert set(frame["clip"]) == {123.0}
    alone = tmp_path / "alone"
    settings = RuntimeParams(device="cpu", score_batch_size=3)
    score_folder(generations, alone, sources(copy, "aesthetic"), runtime=settings, max_error_rate=0)
    assert frame["aesthetic"].to_list() == read_folder(alone)["aesthetic"].to_list()


def test_a_shard_says_what_its_scores_are(generations: Path, weights: Path) -> None:
    score(generations, sources(weights, "clip"))
    score(generations, sources(weights, "clip", "aesthetic"))
    rewards = read_metadata(generations.parent / "scores" / shard(0))["rewards"]
    assert list(rewards) == ["clip", "aesthetic"]
    assert rewards["clip"]["reward"] == "clip/openai-l14"
    assert rewards["clip"]["dtype"] == "fp32"
    assert "raw cosine" in rewards["clip"]["scale"]
    assert len(rewards["aesthetic"]["sha256"]) == 64


def test_dropping_a_reward_computes_nothing(
    generations: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tgo")
    score(generations, sources(weights, "clip", "hpsv2.1"))
    before = read_folder(generations.parent / "scores")
    computed(caplog)
    score(generations, sources(weights, "clip"))
    assert computed(caplog) == ["computed nothing"] * SHARDS
    assert read_folder(generations.parent / "scores").equals(before.drop("hpsv2.1"))


def test_changed_weights_compute_their_column_again(
    generations: Path, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tgo")
    copy = shutil.copytree(weights, tmp_path / "copy")
    rewards = sources(copy, "hpsv2.1", "clip")
    score(generations, rewards)
    before = read_folder(generations.parent / "scores")
    computed(caplog)
    tiny.write("clip", copy / "clip", seed=7)
    assert all(shard.fingerprint for shard in plan(generations, rewards))
    score(generations, rewards)
    assert computed(caplog) == ["computed clip"] * SHARDS
    after = read_folder(generations.parent / "scores")
    assert after["hpsv2.1"].to_list() == before["hpsv2.1"].to_list()
    assert (after["clip"] != before["clip"]).all()


def test_a_changed_generations_shard_is_scored_again_alone(
    generations: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tgo")
    score(generations, sources(weights, "clip"))
    path = generations / shard(1)
    write_table(pq.read_table(path), path, {"fingerprint": "another"})
    computed(caplog)
    score(generations, sources(weights, "clip"))
    assert computed(caplog) == ["computed clip"]


def test_a_lost_or_damaged_score_shard_is_written_again_the_same(generations: Path, weights: Path) -> None:
    scores = generations.parent / "scores"
    rewards = sources(weights, "clip", "aesthetic")
    score(generations, rewards)
    before = contents(scores)
    (scores / shard(0)).unlink()
    (scores / shard(1)).write_bytes(before[shard(1)][:400])
    (scores / ".tmp-1-left-over.parquet").write_bytes(b"half")
    score(generations, rewards)
    assert contents(scores) == before


def test_shards_outside_the_plan_are_removed(generations: Path, weights: Path) -> None:
    scores = generations.parent / "scores"
    score(generations, sources(weights, "clip"))
    shutil.copy(scores / shard(0), scores / "train-00000-of-00009.parquet")
    score(generations, sources(weights, "clip"))
    assert sorted(contents(scores)) == [shard(index) for index in range(SHARDS)]


def test_two_processes_give_the_same_bytes_as_one(
    generations: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rewards = sources(weights, "clip", "aesthetic")
    score(generations, rewards, threads=1)
    one = contents(generations.parent / "scores")
    shutil.rmtree(generations.parent / "scores")
    score(generations, rewards, processes=2, threads=1)
    assert contents(generations.parent / "scores") == one


def test_a_truncated_image_keeps_its_row_with_the_reason(tmp_path: Path, weights: Path) -> None:
    good = write_generations(tmp_path / "generations")
    score(good, sources(weights, "clip", "hpsv2.1"))
    expected = read_folder(tmp_path / "scores")
    (tmp_path / "bad").mkdir()
    bad = write_generations(tmp_path / "bad/generations", broken=(BROKEN,))
    status = score(bad, sources(weights, "clip", "hpsv2.1"), max_error_rate=0.1)
    assert status.failed == 1
    frame = read_folder(tmp_path / "bad/scores")
    failed = frame.filter(frame["sample_id"] == BROKEN)
    assert failed["clip"].to_list() == failed["hpsv2.1"].to_list() == [None]
    assert "truncated" in failed["error"][0]
    others = frame.filter(frame["sample_id"] != BROKEN)
    assert others["error"].null_count() == SHARDS * ROWS - 1
    np.testing.assert_allclose(
        others["clip"], expected.filter(expected["sample_id"] != BROKEN)["clip"], rtol=0, atol=1e-5
    )


def test_a_kept_error_survives_dropping_a_reward(tmp_path: Path, weights: Path) -> None:
    generations = write_generations(tmp_path / "generations", broken=(BROKEN,))
    score(generations, sources(weights, "clip", "hpsv2.1"), max_error_rate=1.0)
    before = read_folder(tmp_path / "scores")
    assert score(generations, sources(weights, "clip"), max_error_rate=1.0).failed == 1
    assert read_folder(tmp_path / "scores")["error"].to_list() == before["error"].to_list()


def test_a_score_that_is_not_finite_is_missing_with_its_reason(
    generations: Path, weights: Path, tmp_path: Path
) -> None:
    reward = tiny.build("aesthetic")
    with torch.no_grad():
        reward.get_parameter("head.layers.7.bias").fill_(torch.inf)
    reward.save(tmp_path / "infinite")
    spoilt = {"aesthetic": str(tmp_path / "infinite"), **sources(weights, "clip")}
    assert score(generations, spoilt, max_error_rate=1.0).failed == SHARDS * ROWS
    found = read_folder(generations.parent / "scores")
    assert found["aesthetic"].null_count() == SHARDS * ROWS
    assert set(found["error"]) == {"aesthetic gave inf"}
    assert found["clip"].null_count() == 0
    assert score(generations, sources(weights, "aesthetic", "clip")).failed == 0
    assert read_folder(generations.parent / "scores")["error"].null_count() == SHARDS * ROWS


def test_rewards_that_do_not_fit_together_come_in_turn_with_the_same_scores(
    generations: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewards = sources(weights, "hpsv2.1", "clip", "aesthetic")
    score(generations, rewards)
    together = read_folder(generations.parent / "scores")
    shutil.rmtree(generations.parent / "scores")
    caplog.set_level(logging.INFO, "tgo")
    score(generations, rewards, score_memory_gb=1e-6)
    assert [message for message in caplog.messages if "computed hpsv2.1, kept 0 columns" in message]
    assert [message for message in caplog.messages if "computed aesthetic, kept 2 columns" in message]
    in_turn = read_folder(generations.parent / "scores")
    assert in_turn.columns == together.columns
    for name in rewards:
        np.testing.assert_allclose(in_turn[name], together[name], rtol=0, atol=1e-5)


def test_a_run_in_turn_that_ends_early_goes_on_with_what_is_left(
    generations: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewards = sources(weights, "hpsv2.1", "clip")
    scores = generations.parent / "scores"
    score(generations, sources(weights, "hpsv2.1"))
    kept = read_folder(scores)["hpsv2.1"].to_list()
    file = scores / shard(0)
    metadata = read_metadata(file)
    rewrite(pq.read_table(file), file, {**metadata, "fingerprint": PARTIAL})
    caplog.clear()  # a stage that ran before in this process leaves its level behind
    caplog.set_level(logging.INFO, "tgo")
    score(generations, rewards, score_memory_gb=1e-6)
    assert not [message for message in caplog.messages if "computed hpsv2.1" in message]
    assert read_folder(scores)["hpsv2.1"].to_list() == kept
    assert score(generations, rewards).done == SHARDS


def test_too_many_errors_fail_after_everything_is_written(tmp_path: Path, weights: Path) -> None:
    generations = write_generations(tmp_path / "generations", broken=(BROKEN, "p02-0000"))
    for _ in range(2):  # a run that finds everything done fails alike
        with pytest.raises(
            TgoError, match=rf"2 of 12 images could not be scored \(16.7%\).*first: {BROKEN} in {shard(1)}"
        ):
            score(generations, sources(weights, "clip"), max_error_rate=0.1)
        assert len(shown(tmp_path / "scores")) == SHARDS
    assert score(generations, sources(weights, "clip"), max_error_rate=0.2).failed == 2


def test_a_parquet_file_of_another_schema_is_refused_before_anything_is_written(
    generations: Path, weights: Path
) -> None:
    write_table(pa.table({"prompt": ["a"], "photo": ["b"]}), generations / shard(2), {})
    with pytest.raises(
        TgoError, match=rf"{shard(2)} has no column 'sample_id'; its columns are prompt, photo"
    ):
        score(generations, sources(weights, "clip"))
    assert not (generations.parent / "scores").exists()


def test_a_column_of_another_type_is_refused(generations: Path, weights: Path) -> None:
    table = pq.read_table(generations / shard(0))
    images = pa.array([row["bytes"] for row in table["image"].to_pylist()])
    write_table(table.set_column(3, "image", images), generations / shard(0), {})
    with pytest.raises(TgoError, match=r"column 'image' is binary, expected struct"):
        score(generations, sources(weights, "clip"))


def test_a_file_that_is_no_parquet_is_refused(generations: Path, weights: Path) -> None:
    (generations / shard(0)).write_text("sample_id,prompt\n")
    with pytest.raises(TgoError, match="cannot be read as Parquet"):
        score(generations, sources(weights, "clip"))


def test_an_unfinished_folder_of_generations_is_refused(generations: Path, weights: Path) -> None:
    (generations / shard(1)).unlink()
    with pytest.raises(TgoError, match="holds 2 of 3 shards of 'train': finish the generate stage"):
        score(generations, sources(weights, "clip"))


def test_a_stray_file_and_an_empty_folder_are_named(generations: Path, weights: Path, tmp_path: Path) -> None:
    shutil.copy(generations / shard(0), generations / "mine.parquet")
    with pytest.raises(TgoError, match=r"mine.parquet is not a shard"):
        plan(generations, sources(weights, "clip"))
    with pytest.raises(TgoError, match="holds no Parquet shard: run the generate stage first"):
        plan(tmp_path / "nothing", sources(weights, "clip"))


def test_shards_of_other_tools_are_fingerprinted_by_content(generations: Path, weights: Path) -> None:
    rewards = sources(weights, "clip")
    path = generations / shard(0)
    table = pq.read_table(path)
    write_table(table, path, {})
    first = plan(generations, rewards)[0].fingerprint
    write_table(table.set_column(2, "prompt", pa.array(["another"] * ROWS)), path, {})
    assert plan(generations, rewards)[0].fingerprint != first


def test_images_that_another_tool_compressed_score_the_same(
    generations: Path, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tgo")
    score(generations, sources(weights, "clip"))
    assert "compressed within their tables" not in caplog.text
    other = shutil.copytree(generations, tmp_path / "other" / "generations")
    for path in other.glob("*.parquet"):
        pq.write_table(pq.read_table(path), path)
    score(other, sources(weights, "clip"))
    assert caplog.text.count(f"{other}: images are compressed within their tables") == 1
    folders = [folder.parent / "scores" for folder in (generations, other)]
    assert read_folder(folders[0]).equals(read_folder(folders[1]))


def test_a_sample_without_prompt_is_named(generations: Path, weights: Path) -> None:
    table = pq.read_table(generations / shard(0))
    prompts = pa.array(["a", None, "b", "c"])
    write_table(table.set_column(2, "prompt", prompts), generations / shard(0), {})
    with pytest.raises(TgoError, match="sample p00-0001 has no prompt"):
        score(generations, sources(weights, "clip"))


def test_a_missing_reward_stops_before_anything_is_written(generations: Path, weights: Path) -> None:
    with pytest.raises(TgoError, match=r"reward hpsv2\.0: nowhere does not exist"):
        score(generations, {**sources(weights, "clip"), "hpsv2.0": "nowhere"})
    assert not (generations.parent / "scores").exists()
