"""The reward benchmarks: our side end to end on small networks, operations against closed forms, and the tables."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.parity.checkpoints import Checkpoints, write_checkpoints
from benchmarks.parity.networks import NETWORKS, Tower
from benchmarks.results import record
from benchmarks.rewards.flops import PUBLISHED, closed_form, count, matrix_rate
from benchmarks.rewards.inputs import captions, png, write_shards
from benchmarks.rewards.packages.task import REWARDS, Task, read_scores, read_shard, write_scores, write_shard
from benchmarks.rewards.setup import checkpoint_sources, load_five
from benchmarks.rewards.speed import Python, differences, run_side
from benchmarks.rewards.tables import floor_section, ratios, scaling_section, speed_section
from tgo_pipeline.rewards.base import Reward

LONG = "a very long prompt about a red square " * 20
HARDWARE = {
    "date": "2026-01-02",
    "processor": "some processor, 2 cores",
    "features": ["avx2"],
    "memory_bytes": 8 << 30,
    "accelerator": "none",
    "python": "3.11",
    "versions": {"torch": "2"},
    "commit": "abc",
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return write_checkpoints(tmp_path_factory.mktemp("weights"), "tiny", 0)


@pytest.fixture(scope="module")
def rewards(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reward]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TGO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_five(checkpoints, "cpu")


def test_our_side_scores_every_shard_as_a_user_would(
    checkpoints: Checkpoints, rewards: dict[str, Reward], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "cache"))
    shards = write_shards(tmp_path / "shards", images=6, per_prompt=2, shards=2, pixels=64)
    task = Task(
        out=str(tmp_path / "runs/ours-0"),
        shards=[str(shard) for shard in shards],
        checkpoints=str(checkpoints.folder),
        sources=checkpoint_sources(checkpoints),
        size="tiny",
    )
    result = run_side("ours", task, Python(Path(sys.executable)), checkpoints.hub)
    form = result["forms"]["together"]
    assert form["images"] == 6
    assert 0 < form["seconds"]["all"] < 60
    assert form["peak_bytes"] > 100 << 20
    for shard in shards:
        images, prompts = read_shard(shard)
        scores = read_scores(tmp_path / "runs/ours-0/together" / shard.name)
        assert tuple(scores) == REWARDS
        for name, reward in rewards.items():
            np.testing.assert_allclose(scores[name], reward.score(images, prompts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("ending", ["parquet", "npz"])
def test_shards_and_scores_are_read_as_written(tmp_path: Path, ending: str) -> None:
    images, prompts = [b"first", b"", b"third one"], ["a", "naïve 🐱", ""]
    write_shard(tmp_path / f"shard.{ending}", images, prompts)
    assert read_shard(tmp_path / f"shard.{ending}") == (images, prompts)
    columns = {"clip": np.array([0.5, np.nan], np.float32)}
    write_scores(tmp_path / f"scores.{ending}", columns)
    np.testing.assert_array_equal(read_scores(tmp_path / f"scores.{ending}")["clip"], columns["clip"])


def test_inputs_are_the_same_at_every_call_and_differ_from_each_other() -> None:
    assert png(3, 64) == png(3, 64) != png(4, 64)
    texts = captions(10, 4)
    assert texts == captions(10, 4)
    assert [texts.index(text) for text in texts] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_operations_of_the_official_sizes_are_those_published() -> None:
    for name, gigaflops in closed_form(NETWORKS["full"]).items():
        assert gigaflops == pytest.approx(PUBLISHED[name], abs=0.05), name


def _of_other_tokens(tower: Tower, tokens: int) -> float:
    """GFLOP of what the last block would do for tokens but the first, whose keys and values alone are wanted."""
    projections, attention = 2 * 2 * tower.width**2, 2 * 2 * tokens * tower.width
    return (tokens - 1) * (projections + attention + 2 * 2 * 4 * tower.width**2) / 1e9


def test_counted_operations_are_the_closed_form(rewards: dict[str, Reward]) -> None:
    networks = NETWORKS["tiny"]
    expected = list(closed_form(networks).values())
    expected[0] -= _of_other_tokens(networks.vit_h.vision, 257)
    expected[2] -= _of_other_tokens(networks.vit_l.vision, 257)
    pixels = torch.rand(2, 3, 224, 224)
    images = [
        count(lambda n=name: rewards[n].encode_images(pixels)) / 2e9
        for name in ("pickscore", "clip", "imagereward")
    ]
    texts = [count(lambda n=name: rewards[n].encode_prompts([LONG])) / 1e9 for name in ("pickscore", "clip")]
    assert [images[0], texts[0], images[1], texts[1], images[2]] == pytest.approx(expected[:5], rel=1e-9)
    hidden = rewards["imagereward"].encode_images(pixels)
    prompts = rewards["imagereward"].encode_prompts([LONG])[[0, 0]]
    head = 2 * (768 * 1024 + 1024 * 128 + 128 * 64 + 64 * 16 + 16)
    combined = count(lambda: rewards["imagereward"].combine(hidden, prompts)) / 2
    assert (combined - head) / 1e9 == pytest.approx(expected[5], rel=1e-9)


def test_the_matrix_rate_weighs_shapes_by_their_operations() -> None:
    rate = matrix_rate(NETWORKS["tiny"], 1, torch.device("cpu"), torch.float32)
    assert min(rate.shapes.values()) <= rate.total <= max(rate.shapes.values())


def _side(seconds: list[float], form: str = "together", images: int = 4) -> list[dict[str, Any]]:
    parts = dict.fromkeys(REWARDS, 1.0)
    return [
        {
            "load_s": 5.0,
            "versions": {"torch": "2"},
            "forms": {
                form: {
                    "images": images,
                    "seconds": {**parts, "all": value * images},
                    "peak_bytes": 3 << 30,
                    "peak_device_bytes": 0,
                }
            },
        }
        for value in seconds
    ]


SPEED = {
    "workload": {"size": "full", "images": 4, "per_prompt": 2, "shards": 1, "threads": 2, "batch_size": 32},
    "hardware": HARDWARE,
    "sides": {
        "ours": _side([1.0, 2.0]),
        "imscore": _side([1.5, 2.5], "batched"),
        "official": _side([8.0, 8.0], "per image", images=2),
    },
    "differences": {"imscore, batched": dict.fromkeys(REWARDS, 1e-3)},
}


def test_ratios_are_taken_within_a_round() -> None:
    assert ratios(SPEED, ("imscore", "batched")) == [1.5, 1.25]


def test_the_section_on_speed_shows_every_form_and_says_what_is_missing() -> None:
    section = speed_section({"cpu": SPEED})
    assert (
        "| imscore, batched as its README says | 2 (1.5 to 2.5) | 0.5 | 1.38× (1.25 to 1.50) | 3.0 | 5 |"
        in section
    )
    assert "one image in a call (first 2 images) | 8 (8 to 8) | 0.125 | 6.00× (4.00 to 8.00) |" in section
    assert "| official packages, a prompt's images in one call | not measured yet |" in section
    gpu = section.split("### GPU")[1]
    assert gpu.count("not measured yet") == 5
    assert "fp16 autocast" in gpu
    assert "1.0e-03" in section


def test_the_section_on_the_floor_gives_the_share_of_it() -> None:
    measured = {
        "workload": {
            "size": "full",
            "images": 4,
            "per_prompt": 2,
            "threads": 2,
            "rounds": 1,
            "batch_size": 4,
        },
        "hardware": HARDWARE,
        "whole_s": 4.0,
        "parts_s": {"decode, one thread": 0.01, "image tower: clip": 2.0, "combine: clip": 1e-3},
        "flops": {"image tower: clip": 200e9},
        "rate": 100e9,
        "rates": {"8 x 2 by 2 x 3": 100e9},
        "precision": "float32",
        "closed_form": {"ViT-L image tower": 162.02},
        "published": {"ViT-L image tower": 162.0},
    }
    section = floor_section({"cpu": measured})
    assert "200 GFLOP per image at 100 GFLOP/s are 2 s: **50% of the floor's throughput**" in section
    assert "| image tower: clip | 2,000 | 50.0% | 200 | 100 | 100% |" in section
    assert "| decode, one thread | 10 | 0.2% |  |  |  |" in section
    assert "combine" not in section
    assert "Not measured yet." in section


def test_the_section_on_scaling_compares_with_one_image_a_prompt() -> None:
    measured = {
        "workload": {"size": "full", "images": 8, "threads": 2},
        "hardware": HARDWARE,
        "per_prompt": [{"per_prompt": 1, "images_per_s": 2.0}, {"per_prompt": 8, "images_per_s": 2.5}],
        "workers": [{"workers": 0, "images_per_s": 20.0}],
        "memory": [{"images": 250, "peak_bytes": 900 << 20}],
    }
    section = scaling_section({"cuda": measured})
    assert "| 8 | 2.5 | 1.25× |" in section
    assert "| 250 | 900 |" in section
    assert "### CPU\n\nNot measured yet." in section


def test_numbers_of_one_device_stay_when_another_is_measured(tmp_path: Path) -> None:
    record(tmp_path / "x.json", "cpu", {"a": 1})
    assert record(tmp_path / "x.json", "cuda:0", {"b": 2}) == {"cpu": {"a": 1}, "cuda": {"b": 2}}
    assert json.loads((tmp_path / "x.json").read_text())["cpu"] == {"a": 1}


def test_differences_are_the_largest_over_all_shards(tmp_path: Path) -> None:
    for side, form, values in (
        ("ours", "together", [[1.0], [2.0]]),
        ("official", "per image", [[1.5], [2.25]]),
    ):
        (tmp_path / f"{side}-0" / form).mkdir(parents=True)
        for index, value in enumerate(values):
            path = tmp_path / f"{side}-0" / form / f"benchmark-{index}.npz"
            write_scores(path, {"clip": np.array(value, np.float32)})
    assert differences(tmp_path, ["ours", "official"])["official, per image"]["clip"] == 0.5
