"""Work in a thread beside the caller's: one piece at a time, in order, with its errors; items prepared ahead."""

from __future__ import annotations

import threading

import pytest

from tgo_pipeline.executors.aside import Aside, ahead


def test_pieces_are_done_in_order_one_behind_the_caller() -> None:
    done: list[int] = []
    go = threading.Event()

    def piece(number: int) -> None:
        assert go.wait(10)
        done.append(number)

    with Aside() as aside:
        aside.do(lambda: piece(0))
        assert done == []
        go.set()
        aside.do(lambda: piece(1))
        assert done[0] == 0
        aside.do(lambda: piece(2))
        assert done[:2] == [0, 1]
    assert done == [0, 1, 2]


def fail() -> None:
    raise OSError("the disk is full")


@pytest.mark.parametrize("then", [lambda aside: aside.do(lambda: None), Aside.wait, lambda _: None])
def test_an_error_is_raised_by_the_next_call_or_at_the_end(then) -> None:
    with pytest.raises(OSError, match="disk is full"), Aside() as aside:
        aside.do(fail)
        then(aside)


def test_the_callers_own_error_comes_first_and_waits_for_the_work() -> None:
    done = threading.Event()
    with pytest.raises(KeyError), Aside() as aside:
        aside.do(lambda: done.wait(0.05) or done.set() or fail())
        raise KeyError
    assert done.is_set()


def test_items_are_prepared_ahead_in_order_and_no_more_than_asked() -> None:
    taken: list[int] = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    found = ahead(lambda number: -number, items(), threads=3, most=4)
    assert next(found) == 0
    assert len(taken) == 5
    assert list(found) == [-number for number in range(1, 20)]


def test_an_error_comes_in_its_items_place() -> None:
    found = ahead(lambda number: 1 // (2 - number), range(9), threads=2, most=3)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)
