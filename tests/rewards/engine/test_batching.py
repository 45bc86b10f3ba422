"""Memory that runs out: batches are halved until they fit, and the scores are those of an unlimited run."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.rewards import tiny
from tests.rewards.tiny import smooth_image
from tgo_pipeline.devices import is_out_of_memory
from tgo_pipeline.rewards.aesthetic import Aesthetic
from tgo_pipeline.rewards.engine.batching import FIRST_ON_GPU, ON_CPU, BatchSize, in_tiles
from tgo_pipeline.rewards.engine.scorer import Scorer

EACH_BYTES = 64 * 2**20
CPU = torch.device("cpu")


class Hungry(Aesthetic):
    """A network that takes 64 MiB for every image of a batch."""

    batches: list[int]

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        taken = torch.ones(len(pixels), EACH_BYTES // 4)
        self.batches.append(len(pixels))
        return super().encode_images(pixels) * taken[:, :1]


def score_in_little_memory() -> None:
    """What the test below runs in a process of its own: prints the batches that fit."""
    from tests.rewards import tiny

    reward = tiny.build("aesthetic")
    reward.__class__ = Hungry
    reward.batches = []  # type: ignore[assignment]
    images = [smooth_image(32 + step % 5, 32) for step in range(40)]
    torch.set_num_threads(1)
    expected = Scorer({"aesthetic": reward}, batch_size=4).score(images, [""] * 40).columns["aesthetic"]
    reward.batches.clear()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 12 * EACH_BYTES, resource.RLIM_INFINITY))
    scorer = Scorer({"aesthetic": reward}, batch_size=32)
    found = scorer.score(images, [""] * 40).columns["aesthetic"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    print(*reward.batches, "then", scorer.batch_size.current)


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads the size of a process from Linux's /proc"
)
def test_batches_are_halved_when_memory_runs_out() -> None:
    code = "from tests.rewards.engine.test_batching import score_in_little_memory; score_in_little_memory()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    batches, current = done.stdout.strip().split(" then ")
    assert int(current) == 8
    assert set(batches.split()) == {"8"}
    assert "memory ran out with 32 images at once: going on with 16" in done.stderr


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_only_memory_errors_halve_the_batch(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_another_error_of_a_network_is_not_swallowed() -> None:
    from tests.rewards import tiny

    reward = tiny.build("aesthetic")
    reward.head.layers[0] = torch.nn.Linear(3, 3)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Scorer({"aesthetic": reward}).score([smooth_image(32, 32)] * 2, ["", ""])


def test_a_given_size_stays_and_shrinks_only() -> None:
    assert BatchSize(None, {CPU}).current == ON_CPU
    size = BatchSize(5, {CPU})
    size.shrink(7)
    assert size.current == 5
    size.shrink(2)
    assert size.current == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to measure on")
def test_on_a_gpu_the_batch_grows_to_what_fits() -> None:
    from tests.rewards import tiny

    reward = tiny.build("aesthetic").to("cuda")
    scorer = Scorer({"aesthetic": reward})
    scorer.score([smooth_image(32, 32)] * 64, [""] * 64)
    assert scorer.batch_size.current > 8


class Measured(BatchSize):
    """A size that is measured with the first batch, as on a GPU; 40 images fit."""

    def __init__(self) -> None:
        super().__init__(None, [CPU])
        self.known, self.current = False, FIRST_ON_GPU

    @contextlib.contextmanager
    def measure(self, count: int) -> Iterator[None]:
        yield
        self.known, self.current = True, 40


def test_the_measured_size_is_that_of_the_second_batch() -> None:
    reward = tiny.build("aesthetic")
    sizes: list[int] = []
    reward.encode_images = lambda pixels: sizes.append(len(pixels)) or pixels[:, 0, 0, :1]  # type: ignore[method-assign]
    reward.combine = lambda images, prompts: images[:, 0]  # type: ignore[method-assign]
    image = smooth_image(32, 32)
    with Scorer({"aesthetic": reward}, threads=2) as scorer:
        scorer.batch_size = Measured()
        scores = scorer.score([image] * 600, [""] * 600).columns["aesthetic"]
    assert np.unique(scores).size == 1
    assert sum(sizes) == 600
    assert sizes[0] == FIRST_ON_GPU
    assert set(sizes[1:6]) == {32}, "chunks of 16 that were cut before the measure"
    assert sizes.count(40) >= 8
    assert len(sizes) <= 20


def test_batches_are_cut_as_they_are_stated() -> None:
    assert list(BatchSize(40, []).cut(100, 16)) == [
        *((0, 16, 40), (16, 32, 40), (32, 40, 40)),
        *((40, 56, 80), (56, 72, 80), (72, 80, 80)),
        *((80, 96, 100), (96, 100, 100)),
    ]
    assert list(Measured().cut(30, 16)) == [(0, 8, 8), (8, 24, 30), (24, 30, 30)]
    assert BatchSize(40, []).block(256) == 240
    assert BatchSize(1000, []).block(256) == 1000


def test_batches_are_whole_tiles() -> None:
    found = {size: in_tiles(size) for size in (1, 2, 3, 7, 8, 100, 127, 128, 200, 256)}
    assert found == {1: 1, 2: 2, 3: 2, 7: 4, 8: 8, 100: 64, 127: 64, 128: 128, 200: 128, 256: 256}
