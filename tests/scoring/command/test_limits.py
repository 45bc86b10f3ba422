"""How much of images may be in memory, as a user states it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.params.test_params import write
from tests.scoring.command.conftest import AESTHETIC, Tgo, random_image, write_images
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.limits import IMAGES, MEGAPIXELS, MEMORY_GB
from tgo_pipeline.params import load_params
from tgo_pipeline.scoring.stage import plan


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IMAGES, "megapixels", MEGAPIXELS)
    monkeypatch.setattr(IMAGES, "memory_gb", MEMORY_GB)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_large_image_costs_its_row_and_a_larger_limit_reads_it(
    tgo: Tgo, tmp_path: Path, workers: str
) -> None:
    write_images(tmp_path / "photos", 1)
    random_image(1, (200, 100)).save(tmp_path / "photos/large.png")
    options = ("--workers", workers)
    assert tgo("photos", *options, "--max-image-megapixels", "0.01", rewards=AESTHETIC).code == 3
    found = pl.read_parquet("scores.parquet")
    limit = "the limit (runtime.max_image_megapixels, or --max-image-megapixels)"
    assert found["error"].to_list() == [None, f"200 x 100 pixels are more than 0.01 million, {limit}"]
    assert tgo("photos", *options, "--image-memory-gb", "0.0001", rewards=AESTHETIC).code == 0
    assert pl.read_parquet("scores.parquet")["aesthetic"].null_count() == 0
    done = tgo("photos", *options, "--max-image-megapixels", "0", rewards=AESTHETIC)
    assert done.code == 2
    assert "max_image_megapixels is 0" in done.line


def test_params_set_the_limits_of_every_decoder(tmp_path: Path) -> None:
    changed = {"runtime/max_image_megapixels": 12.5, "runtime/image_memory_gb": 2}
    load_params(write(tmp_path, changed))
    assert (IMAGES.megapixels, IMAGES.memory_gb) == (12.5, 2)
    load_params(write(tmp_path, {}))
    assert (IMAGES.megapixels, IMAGES.memory_gb) == (MEGAPIXELS, MEMORY_GB)
    with pytest.raises(TgoError, match=r"runtime\.max_image_megapixels is 0\.0: it must be above 0"):
        load_params(write(tmp_path, {"runtime/max_image_megapixels": 0}))


def test_scores_depend_on_a_limit_that_is_not_as_usual() -> None:
    generations = Path(__file__).parents[2] / "finished_demo/data/generations"
    usual = plan(generations, {"oracle": "demo"})
    IMAGES.set(10, 4)
    assert [shard.fingerprint for shard in plan(generations, {"oracle": "demo"})] != [
        shard.fingerprint for shard in usual
    ]
    IMAGES.set(MEGAPIXELS, 1)
    assert plan(generations, {"oracle": "demo"}) == usual
