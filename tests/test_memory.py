"""Where memory runs out, work begins again with half as many rows, and holds on to nothing."""

from __future__ import annotations

import weakref

import pytest
import torch

from tgo_pipeline.errors import TgoError
from tgo_pipeline.memory import Halving, OutOfMemory, attempt


def test_what_was_computed_when_memory_ran_out_is_given_up() -> None:
    made = []

    def work() -> None:
        tensor = torch.zeros(4)
        made.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has 1.")

    try:
        attempt(work)
    except OutOfMemory as error:
        assert str(error) == "CUDA out of memory. Tried to allocate 2 GiB"
        assert made[0]() is None, "the error still holds the functions that it went through"
    else:
        pytest.fail("it is to be said")


def test_batches_halve_until_they_fit_and_hold_every_item_once() -> None:
    done = []

    def work(items: list[int]) -> int:
        if len(items) > 2:
            raise MemoryError
        done.extend(items)
        return len(items)

    halving = Halving(8, "runtime.size", "item", "buy more")
    assert list(halving.batches(iter(range(7)), work)) == [2, 2, 2, 1]
    assert halving.size == 2
    assert done == list(range(7))
    with pytest.raises(TgoError, match=r"not even one item fits into memory \(MemoryError\): buy more"):
        list(Halving(7, "runtime.size", "item", "buy more").batches([[1, 2, 3]], lambda _: work([1, 2, 3])))
