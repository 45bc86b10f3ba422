"""Shared memory for pixels: rooms never overlap, what lies side by side is one array, and nothing has to be there."""

from __future__ import annotations

import errno
import functools
import logging
import os
import random
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import torch

from tests.rewards.engine.test_workers import PREPARATIONS, chunks
from tgo_pipeline.rewards.engine.batching import BatchSize
from tgo_pipeline.rewards.engine.ring import PixelLayout, PixelRows, Ring, Room, joined, layouts
from tgo_pipeline.rewards.engine.workers import Chunk, Preparer, prepare_chunk
from tgo_pipeline.rewards.networks.preprocessing import ShortestSideCrop

SMALL = [PixelLayout((3, 4, 4), torch.uint8), None, PixelLayout((3, 4, 4), torch.float32)]
ROW_BYTES = 48 + 192


def test_rooms_never_overlap_and_every_row_is_used_again() -> None:
    ring, draw, rows = Ring(SMALL, 40, 1e9), random.Random(0), set()
    taken: list[Room] = []
    for _ in range(3000):
        room = ring.take(draw.randint(1, 16))
        if room is not None:
            assert 0 <= room.start < room.stop <= 40
            assert all(room.stop <= other.start or other.stop <= room.start for other in taken)
            rows |= set(range(room.start, room.stop))
            taken.append(room)
        if room is None or draw.random() < 0.4:  # mostly in their order, as batches come
            taken.pop(draw.choice((0, 0, 0, len(taken) // 2))).leave()
    assert len(rows) == 40
    for room in taken:
        room.leave()
    assert ring.take(40) is not None


def test_the_rooms_of_a_batch_lie_side_by_side() -> None:
    ring = Ring(SMALL, 3 * 40 + 5 * 16, 1e9)
    assert ring.pixels is not None
    batches: list[list[Room]] = []
    for size in (40, 40, 12, 40, 3, 40, 40, 25, *[40] * 40):
        batches.append([])
        for start, stop, end in BatchSize(40, []).cut(size, 16):
            room = ring.take(stop - start, end - stop)
            assert room is not None
            batches[-1].append(room)
        rooms = batches[-1]
        assert [room.start for room in rooms[1:]] == [room.stop for room in rooms[:-1]]
        if len(batches) == 3:
            for room in batches.pop(0):
                room.leave()


def test_memory_is_bounded_and_there_is_none_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tgo")
    ring = Ring(SMALL, 1000, 10 * ROW_BYTES)
    assert ring.pixels is not None
    assert ring.pixels.rows == 10
    assert ring.take(11) is None
    assert Ring([None, None], 1000, 1e9).pixels is None
    assert not caplog.records
    assert Ring(SMALL, 1000, ROW_BYTES - 1).take(1) is None
    assert "through pipes, which is slower: no shared memory (image_memory_gb leaves none)" in caplog.text


def test_closing_lets_go_of_everything() -> None:
    before = psutil.Process().num_fds()
    for _ in range(5):
        ring = Ring(SMALL, 100, 1e9)
        kept = ring.pixels and ring.pixels.read(PixelRows(0, 0, 3))
        ring.close()
        assert kept is not None
        assert kept.shape == (3, 3, 4, 4), "who looks at the memory still has it"
    del kept, ring
    assert psutil.Process().num_fds() == before


def test_arrays_that_follow_each_other_are_one_without_a_copy() -> None:
    memory = np.arange(60).reshape(20, 3)
    one = joined([memory[2:5], memory[5:6], memory[6:11]])
    np.testing.assert_array_equal(one, memory[2:11])
    assert np.shares_memory(one, memory)
    for parts in ([memory[2:5], memory[6:7]], [memory[5:7], memory[2:5]], [memory[:2].copy(), memory[2:4]]):
        apart = joined(parts)
        np.testing.assert_array_equal(apart, np.concatenate(parts))
        assert not np.shares_memory(apart, memory)


def shared(preparer: Preparer, chunk: Chunk) -> bool:
    """Whether the pixels of a chunk lie in shared memory; else they came through a pipe."""
    assert preparer._ring is not None
    found = {
        preparer._ring.pixels is not None and np.shares_memory(pixels, preparer._ring.pixels.memory)
        for pixels in chunk.pixels
        if isinstance(pixels, np.ndarray)
    }
    assert len(found) == 1
    return found.pop()


@functools.cache
def few() -> list[tuple[list[bytes | None], Chunk]]:
    """Some chunks of images, and what becomes of them."""
    return [(images, prepare_chunk(images, PREPARATIONS)) for _, images in chunks(3)]


def many(count: int) -> list[tuple[int, list[bytes | None]]]:
    """Those chunks again and again."""
    return [(number, few()[number % 3][0]) for number in range(count)]


def assert_prepared(chunk: Chunk, number: int) -> None:
    expected = few()[number % 3][1]
    assert chunk.errors == expected.errors
    for pixels, right in zip(chunk.pixels, expected.pixels, strict=True):
        np.testing.assert_allclose(pixels, right, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def preparer() -> Iterator[Preparer]:
    """One worker, with room for 131 images in its memory."""
    with Preparer(PREPARATIONS, 1, batch=17) as preparer:
        list(preparer.stream(many(1)))
        assert preparer._ring is not None
        assert preparer._ring.pixels is not None
        assert preparer._ring.pixels.rows == 131
        yield preparer


def test_pixels_are_read_where_a_worker_wrote_them(preparer: Preparer) -> None:
    for number, chunk in preparer.stream(many(60)):  # more than there is room for at a time
        assert shared(preparer, chunk)
        assert_prepared(chunk, number)


def test_chunks_that_are_kept_stay_as_they_are_and_others_come_through_the_pipe(preparer: Preparer) -> None:
    kept = dict(preparer.stream(many(55)))
    assert {shared(preparer, chunk) for chunk in kept.values()} == {True, False}
    for number, chunk in kept.items():
        assert_prepared(chunk, number)
    kept.clear()
    del chunk
    assert all(shared(preparer, chunk) for _, chunk in preparer.stream(many(3)))


def test_a_stream_that_is_left_early_gives_its_rooms_back(preparer: Preparer) -> None:
    for _ in range(20):
        number, chunk = next(preparer.stream(many(6)))
        assert_prepared(chunk, number)
        del chunk
    found = dict(preparer.stream(many(20)))
    assert sum(shared(preparer, chunk) for chunk in found.values()) >= 15
    for number, chunk in found.items():
        assert_prepared(chunk, number)


def test_the_memory_has_no_name(preparer: Preparer) -> None:
    (worker,) = map(psutil.Process, preparer._pool._processes)  # type: ignore[union-attr]
    mapped = [area.path for area in worker.memory_maps() if "tgo-pixels" in area.path]
    assert [path.removesuffix(" (deleted)") for path in mapped] == ["/memfd:tgo-pixels"]


def test_without_shared_memory_everything_comes_through_the_pipe(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(name: str) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with caplog.at_level(logging.INFO, "tgo"), Preparer(PREPARATIONS, 1) as preparer:
        for number, chunk in preparer.stream(many(3)):
            assert not shared(preparer, chunk)
            assert_prepared(chunk, number)
    (line,) = [record.getMessage() for record in caplog.records if "through pipes" in record.getMessage()]
    assert "Too many open files" in line


def test_a_preparation_that_states_no_layout_has_none() -> None:
    crop = ShortestSideCrop(8)
    assert layouts([crop, object()]) == [PixelLayout((3, 8, 8), torch.uint8), None]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes the memory")
def test_memory_that_a_gpu_does_not_take_is_copied_once_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tgo")
    ring = Ring(SMALL, 10, 1e9)
    ring.register([torch.device("cuda", 0)])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("pixels are copied once more on their way to the GPU, which is slower: ")
    ring.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to copy to")
def test_a_gpu_copies_from_the_memory_as_it_is() -> None:
    with Preparer(PREPARATIONS, 1, gpus=[torch.device("cuda", 0)]) as preparer:
        for number, chunk in preparer.stream(many(4)):
            assert_prepared(chunk, number)
            assert all(torch.from_numpy(pixels).is_pinned() for pixels in chunk.pixels)
