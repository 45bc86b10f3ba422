"""One shard of scores in work: which columns are kept, which are computed, and how the whole is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.scoring.columns import ColumnTask, score_table
from tgo_pipeline.storage.shards import Shard
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tgo_pipeline.formats.parquet_values import StoredValue
    from tgo_pipeline.rewards.engine.images import StoredClip

log = logging.getLogger("tgo")
COLUMNS = ("sample_id", "prompt_id", "prompt")
PARTIAL = "partial"
"""The fingerprint of a shard that lacks columns still: rewards that do not fit into memory together come in turn."""
READ_ROWS = 1024
"""Rows in memory at a time, of texts and of places of images: images themselves are read one by one."""


@dataclass(frozen=True)
class ScoreShards:
    """The score shards of a folder of generations, each with the fingerprints of its columns: rewards, then feedback.

    `feedback` names the columns that people gave: a null there is no failure.
    """

    generations: Path
    scores: Path
    columns: Mapping[Shard, Mapping[str, str]]
    feedback: Collection[str]

    def open(self, shard: Shard, names: Sequence[str]) -> ShardTask:
        """What is there of a shard, and which of `names` it lacks. Raises `TgoError` if a sample has no prompt."""
        from tgo_pipeline.storage.tables import GENERATIONS, read_table

        samples = read_table(self.generations / shard.name, GENERATIONS, COLUMNS)
        prompts = samples["prompt"]
        if prompts.null_count:
            sample = samples["sample_id"][prompts.is_null().to_pylist().index(True)]
            raise TgoError(f"sample {sample} has no prompt: give every image of {self.generations} one.")
        kept, described = _still_valid(self.scores / shard.name, self.columns[shard], shard)
        missing = [name for name in names if name not in kept]
        labels = {name: samples[name] for name in COLUMNS[:2]}
        return ShardTask(missing, shard, self.generations / shard.name, labels, kept, described)

    def write(
        self,
        task: ShardTask,
        described: Mapping[str, Mapping[str, Any]],
        given: Mapping[str, np.ndarray] | None = None,
    ) -> Shard:
        """Write what is there of a shard, unless nothing came to it; it is done when no wanted column is missing.

        `given` are columns of feedback, `described` says what new columns are of.
        """
        from tgo_pipeline.storage.tables import write_table

        wanted = self.columns[task.shard]
        have = [name for name in wanted if name in task.kept or name in task.missing]
        if not task.missing and len(have) < len(wanted):
            return task.shard  # another group of rewards, or the feedback, has what it lacks
        table = self._table(task, have, given or {})
        failed = table.num_rows - table["error"].null_count
        mark = task.shard.mark.entries() | ({} if len(have) == len(wanted) else {"fingerprint": PARTIAL})
        metadata = {
            **mark,
            "failed": failed,
            "columns": {name: wanted[name] for name in have},
            "rewards": {name: (described if name in task.missing else task.described)[name] for name in have},
        }
        with atomic(self.scores / task.shard.name) as temporary:
            write_table(table, temporary, metadata)
        log.info(
            "%s: %d samples, computed %s, kept %d columns, %d failed, %.1f s",
            *(task.shard.name, table.num_rows, ", ".join(task.missing) or "nothing"),
            *(len(have) - len(task.missing), failed, time.monotonic() - task.started_s),
        )
        return task.shard

    def _table(self, task: ShardTask, names: Sequence[str], given: Mapping[str, np.ndarray]) -> pa.Table:
        def column(name: str) -> Any:
            if name in task.kept:
                return task.kept[name]
            return given[name] if name in given else task.scores(name)

        before = task.kept["error"].to_pylist() if task.kept else [None] * len(task.labels["sample_id"])
        now = task.errors() or before
        errors = (new or old for new, old in zip(now, before, strict=True))
        return score_table(task.labels, {name: column(name) for name in names}, errors, self.feedback)


class ShardTask(ColumnTask):
    """A shard in work: what names its samples, and the columns that are kept, with what they are of."""

    def __init__(
        self,
        missing: Sequence[str],
        shard: Shard,
        generations: Path,
        labels: Mapping[str, pa.ChunkedArray],
        kept: Mapping[str, pa.ChunkedArray],
        described: Mapping[str, Mapping[str, Any]],
    ) -> None:
        super().__init__(missing)
        self.shard, self.labels, self.kept, self.described = shard, labels, kept, described
        self.started_s = time.monotonic()
        self._generations = generations

    def rows(self) -> Iterator[tuple[StoredValue | bytes | StoredClip | None, str]]:
        """Every image or clip, or where it lies, with its prompt."""
        from tgo_pipeline.rewards.engine.images import StoredClip
        from tgo_pipeline.storage.tables import sample_column, stream_images, stream_rows

        prompts = (row["prompt"] for row in stream_rows(self._generations, ["prompt"], READ_ROWS))
        column = sample_column(self._generations)
        contents = stream_images(self._generations, column)
        return zip(map(StoredClip, contents) if column == "video" else contents, prompts, strict=True)


def _still_valid(
    path: Path, wanted: Mapping[str, str], shard: Shard
) -> tuple[dict[str, pa.ChunkedArray], dict[str, dict[str, Any]]]:
    """The columns of an existing score shard whose fingerprints are the wanted ones, with its errors; and what
    rewards they are of. A shard that cannot be read counts as none: it is written again.
    """
    from tgo_pipeline.storage.tables import read_metadata, read_table

    if not path.is_file():
        return {}, {}
    try:
        metadata = read_metadata(path)
        if metadata.get("inputs") not in (
            None,
            shard.inputs,
        ):  # the images are others than those that were scored
            return {}, {}
        stored, described = metadata.get("columns", {}), metadata.get("rewards", {})
        valid = [
            name for name, content in wanted.items() if stored.get(name) == content and name in described
        ]
        table = read_table(path, columns=[*valid, "error"]) if valid else None
    except TgoError as error:
        log.warning("scoring all of %s again: %s", path.name, error)
        return {}, {}
    return {} if table is None else dict(zip(table.column_names, table.columns, strict=True)), described
