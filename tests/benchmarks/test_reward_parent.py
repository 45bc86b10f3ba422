"""The benchmark of the scoring process: both ways score every image, and the section says what was measured."""

import argparse
from pathlib import Path

import pytest

from benchmarks.rewards import parent
from benchmarks.rewards.null import light_png
from tests.benchmarks.test_reward_speed import HARDWARE
from tgo_pipeline.rewards.engine.decode import decode

WAY = {"images_per_s": 10.0, "parent_ms": 0.5, "decoders_ms": 50.0}


def test_a_light_image_has_the_size_that_was_asked_for() -> None:
    data = light_png(5000)
    assert len(data) == 5000
    assert decode(data).size == (8, 8)


def test_a_core_is_worth_what_both_measurements_say() -> None:
    rates = {1: {parent.SHARED: WAY}, 2: {parent.SHARED: {**WAY, "decoders_ms": 100.0}}}
    each, model = parent._model(rates, 100)
    assert each == pytest.approx((20 + 10) / 2)
    assert model[4] == pytest.approx(60)
    assert model[64] == 100


def test_the_section_has_a_line_for_every_way() -> None:
    ways = {parent.PIPES: WAY, parent.SHARED: WAY}
    found = {
        "hardware": HARDWARE,
        "parent": {size: {"file_bytes": 4e5, **ways} for size in parent.SIZES},
        "decoding": {size: {1: ways, 2: ways} for size in parent.SIZES},
    }
    text = parent.section(found, argparse.Namespace(images=8, rounds=1, batch_size=8))
    assert "| 512 px (400 kB), shared memory | 10 | 0.500 | 2,000 |" in text
    assert "| 1024 px, 2 | 10.0 | 10.0 | 50.0 | 50.0 |" in text


def test_both_ways_score_every_image(tmp_path: Path) -> None:
    shard = parent.write_shard(tmp_path / "a.parquet", [light_png(1000)], 20)
    for way in parent.ways(parent.null_rewards(), 1, 8).values():
        with way.scorer:
            assert way.run(shard).count == 20
