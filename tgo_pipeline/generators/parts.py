"""The finished batches of a shard that is being drawn, so that little is lost when the run ends before the shard.

They lie in a hidden folder beside the shard, whole batches in each file, and go when the shard is there. What is drawn
next starts where the last of them ends: the batches, and so the images, are those of a run that was never broken off.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.shards import Mark, parts_folder
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("tgo")
EVERY_S = 20.0
"""How often finished images are stored: that much work and a batch is what a kill costs. Quick shards store none."""
_NAME = re.compile(r"(?P<start>\d{5})-(?P<end>\d{5})\.parquet")


class Parts:
    """The rows of one shard that are finished, from its first on."""

    def __init__(self, shard: Path, mark: Mark, schema: pa.Schema) -> None:
        """Takes what an earlier run kept of the same shard, and removes what it kept of another one."""
        self._folder, self._mark, self._schema = parts_folder(shard), mark, schema
        self.records: list[dict[str, Any]] = []
        self._stored, self._stored_s = 0, time.monotonic()
        for path in sorted(self._folder.glob("[!.]*.parquet")):
            self.records += self._adopted(path)
        self._stored = len(self.records)
        if self._stored:
            log.info("%s: going on after %d images", shard.name, self._stored)

    def _adopted(self, path: Path) -> list[dict[str, Any]]:
        """The rows of a part that continues those before it; any other part is removed."""
        from tgo_pipeline.storage.tables import read_metadata, read_table

        name = _NAME.fullmatch(path.name)
        try:
            if name and int(name["start"]) == len(self.records) and self._mark.fits(read_metadata(path)):
                rows = read_table(path, self._schema).to_pylist()
                if len(rows) == int(name["end"]) - len(self.records):
                    return rows
        except TgoError as error:
            log.warning("%s; drawing its images again", error)
        path.unlink()
        return []

    def add(self, records: list[dict[str, Any]]) -> None:
        """Add a batch, and store what is not stored where some time has passed."""
        self.records += records
        if time.monotonic() - self._stored_s >= EVERY_S:
            self.store()

    def store(self) -> None:
        """Store what is not stored yet."""
        import pyarrow as pa

        from tgo_pipeline.storage.tables import write_table

        fresh = self.records[self._stored :]
        if fresh:
            path = self._folder / f"{self._stored:05d}-{len(self.records):05d}.parquet"
            with atomic(path) as temporary:
                write_table(pa.Table.from_pylist(fresh, self._schema), temporary, self._mark.entries())
        self._stored, self._stored_s = len(self.records), time.monotonic()

    def clear(self) -> None:
        """Remove all of it; the shard is there."""
        shutil.rmtree(self._folder, ignore_errors=True)
