"""Diversity is the mean over pairs of images, of pixels and of embeddings."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from tgo_pipeline.evaluation.statistics.diversity import (
    clip_spec,
    diversity_folder,
    embedding_distance,
    pixel_distance,
    plan_diversity,
)
from tgo_pipeline.formats.video_files import lossless
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.specs import resolve_all
from tgo_pipeline.storage.shards import Shard
from tgo_pipeline.storage.tables import VIDEO_GENERATIONS, read_table, write_table


def test_pixels_are_compared_pair_by_pair() -> None:
    shades = (0, 51, 255)
    images = [Image.new("RGB", (4, 4), (shade,) * 3) for shade in shades]
    expected = np.mean([0.2, 1.0, 0.8])
    assert pixel_distance(images) == pytest.approx(expected, abs=1e-7)
    assert pixel_distance(images[:1] * 3) == 0


def test_embeddings_are_compared_by_direction() -> None:
    vectors = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).double()
    cosines = [float(a @ b) / float(a.norm() * b.norm()) for a, b in itertools.combinations(vectors, 2)]
    assert embedding_distance(vectors) == pytest.approx(1 - np.mean(cosines), abs=1e-12)
    assert embedding_distance(torch.stack([vectors[0], 3 * vectors[0]])) == pytest.approx(0, abs=1e-12)


def test_the_clip_score_is_found_under_any_column() -> None:
    assert clip_spec(list(resolve_all({"pickscore": "demo"}).values())) is None
    found = clip_spec(list(resolve_all({"pickscore": "demo", "mine": "clip=demo"}).values()))
    assert found is not None
    assert (found.column, found.source) == ("mine", "demo")


def test_clips_are_compared_frame_by_frame(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8) for _ in range(3)]
    rows = [
        {"prompt_id": "p", "sample_id": f"p-{i}", "video": {"bytes": lossless(clip, 8)[0]}}
        for i, clip in enumerate(clips)
    ]
    rows[2]["video"]["bytes"] = rows[2]["video"]["bytes"][:200]  # this one cannot be read
    folder, shard = tmp_path / "generations", Shard("test", 0, 1, "content")
    folder.mkdir()
    write_table(
        pa.Table.from_pylist(rows, schema=VIDEO_GENERATIONS), folder / shard.name, {"fingerprint": "content"}
    )
    (spec,) = resolve_all({"clip": "demo"}).values()
    runtime = RuntimeParams(device="cpu")
    diversity_folder(folder, tmp_path / "diversity", [shard], spec, runtime, frames=3)
    (row,) = read_table(next((tmp_path / "diversity").glob("*.parquet"))).to_pylist()
    one, other = (clip[[0, 4, 8]] / 255 for clip in clips[:2])
    assert row["n"] == 2
    assert row["pixel_distance"] == pytest.approx(np.sqrt(np.square(one - other).mean()), abs=1e-6)
    tower = load_reward("clip", "demo")
    apart = []
    for place in (0, 4, 8):
        a, b = tower.encode_images(
            torch.stack([tower.prepare(Image.fromarray(clip[place])) for clip in clips[:2]])
        )
        apart.append(1 - float(torch.nn.functional.cosine_similarity(a.double(), b.double(), 0)))
    assert row["clip_distance"] == pytest.approx(np.mean(apart), abs=1e-5)
    plans = [plan_diversity(folder, [shard], spec, frames)[0].fingerprint for frames in (3, 8)]
    assert plans[0] != plans[1]
