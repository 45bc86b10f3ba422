"""Progress: a bar on a terminal, silence elsewhere (where every finished shard or step group logs its line)."""

from __future__ import annotations

import logging
import sys
from types import TracebackType


def configure_logging() -> None:
    """Log this project's progress, and other libraries' warnings, to standard error with the time."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    logging.getLogger("tgo").setLevel(logging.INFO)


class Bar:
    """A progress bar over `total` items (None if not known), shown on a terminal only."""

    def __init__(self, description: str, total: int | None) -> None:
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(description, total=total)

    def __enter__(self) -> Bar:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def shown(self) -> bool:
        """Whether there is a terminal that shows it."""
        return self._bar is not None

    def advance(self, items: int = 1) -> None:
        """Count finished items."""
        if self._bar:
            self._bar.advance(self._task, items)
