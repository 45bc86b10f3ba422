"""Progress: a bar on a terminal, silence elsewhere (where every finished shard or step group logs its line)."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from tgo_pipeline.rendering.terminal import console, prepare_streams, safe


def configure_logging() -> None:
    """Log this project's progress, and other libraries' warnings, to standard error with the time."""
    prepare_streams()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("tgo").setLevel(logging.INFO)


class _Line(logging.Formatter):
    """A message in one line, on which nothing from outside acts."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # the name is that of logging
        return safe(super().formatMessage(record))


class Bar:
    """A progress bar over `total` items (None if not known), shown on a terminal only."""

    def __init__(self, description: str, total: int | None) -> None:
        self._bar = None
        if sys.stderr.isatty():
            from rich.progress import Progress

            self._bar = Progress(console=console(stderr=True), transient=True)
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
