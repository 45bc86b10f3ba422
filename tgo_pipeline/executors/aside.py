"""What threads do beside the network: finish what it has made, and prepare what it takes next.

They pay where the work gives up Python's lock, as Pillow's coders, safetensors and the disk do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Aside:
    """Does one piece of work at a time in a thread, in the order given. Use it in a `with`, which waits at its end.

    A piece that fails raises its error from the next call, or at the end. The thread is no daemon: what is begun is
    ended, also where an interrupt ends the caller.
    """

    def __init__(self) -> None:
        self._begun: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        elif self._begun is not None:  # the error that is on its way comes first
            wait([self._begun])

    @property
    def failed(self) -> bool:
        """Whether what was begun has ended with an error already."""
        return self._begun is not None and self._begun.done() and self._begun.exception() is not None

    def do(self, work: Callable[[], None]) -> None:
        """Begin a piece of work when the one before it is done."""
        self.wait()
        self._begun = Future()
        threading.Thread(target=_run, args=(work, self._begun)).start()

    def wait(self) -> None:
        """Wait for what was begun. Raises what it raised."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.result()


def _run(work: Callable[[], None], done: Future[None]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001  # it is raised where the work was given
        done.set_exception(error)
    else:
        done.set_result(None)


def ahead(work: Callable[[T], R], items: Iterable[T], threads: int, most: int) -> Iterator[R]:
    """`work` of each item, in order; threads do it for the next `most` items before they are asked for."""
    pool, begun = ThreadPoolExecutor(threads), deque[Future[R]]()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > most:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
