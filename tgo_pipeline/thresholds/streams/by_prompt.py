"""Score shards, whatever the order of their rows, put by prompt on disk: partitions of whole prompts in order of ids.

Rows of one prompt mostly follow each other, so that texts are handled once for each run of equal ids. Partitions are
ranges of ids with about so many rows each that one of them fits into memory, whatever the number of all.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tgo_pipeline.executors.aside import ahead
from tgo_pipeline.thresholds.streams.blocks import blocks, count_rows
from tgo_pipeline.thresholds.streams.column import ColumnBlock, ScoreColumn, write_block
from tgo_pipeline.thresholds.streams.groups import ranges

PARTITION_ROWS = 4_000_000
"""Rows that are put in order together, in memory."""
PART_ROWS = 100_000
"""Rows of a part, which one thread works on: its temporary arrays stay in the processor's cache."""
SAMPLED = 1_000
"""Ids for each partition that its ends are estimated from: sizes are then right to some percent."""
R = TypeVar("R")
_RUNS = pa.schema([("prompt_id", pa.string()), ("rows", pa.int64())])
Keep = Callable[[pa.Table], Mapping[str, np.ndarray]]
"""What is kept of a block: named arrays, each with one number a row."""


class Rows(NamedTuple):
    """Some prompts of a partition, and their rows in its files."""

    partition: int
    prompts: slice
    rows: slice


class RowScores:
    """Numbers of every row, a file for each name and partition, in order of prompts."""

    def __init__(
        self, folder: Path, types: Mapping[str, np.dtype], sizes: Sequence[np.ndarray], threads: int
    ) -> None:
        """`sizes` are the rows of each prompt, partition by partition."""
        self._folder, self._types, self._sizes, self._threads = folder, types, sizes, threads
        self.count = sum(int(each.sum()) for each in sizes)

    @classmethod
    def read(
        cls,
        files: Sequence[Path],
        columns: Sequence[str],
        keep: Keep,
        folder: Path,
        threads: int,
        ends: pa.Array | None = None,
    ) -> RowScores:
        """Put what `keep` makes of blocks of `prompt_id` and other `columns` by prompt, into an empty folder.

        `ends` are those of the partitions, `ends_of(files)` by default. Raises `TgoError` as `blocks.blocks`.
        """
        limits = ends_of(files) if ends is None else ends
        types: dict[str, np.dtype] = {}
        with contextlib.ExitStack() as opened:
            outputs = [_Output(folder / f"{number}", opened) for number in range(len(limits) + 1)]
            for table in blocks(files, ["prompt_id", *columns]):
                kept = keep(table)
                types = {name: values.dtype for name, values in kept.items()}
                _distribute(table["prompt_id"].combine_chunks(), kept, limits, outputs)
        stems = [folder / f"{number}" for number in range(len(outputs))]
        sizes = ahead(lambda stem: _put_in_order(stem, types), stems, threads, threads)
        return cls(folder, types, list(sizes), threads)

    def ids(self, rows: Rows) -> pa.Array:
        """The ids of a part's prompts (P,)."""
        with pa.memory_map(str(self._folder / f"{rows.partition}.ids")) as stream:
            return pa.ipc.open_file(stream).read_all()["prompt_id"].combine_chunks()[rows.prompts]

    def sizes(self, rows: Rows) -> np.ndarray:
        """The rows of each prompt (P,) of a part."""
        return self._sizes[rows.partition][rows.prompts]

    def numbers(self, rows: Rows, name: str) -> np.ndarray:
        """What was kept as `name` of a part's rows (N,)."""
        kind = self._types[name]
        path = _file(self._folder / f"{rows.partition}", list(self._types).index(name))
        count = rows.rows.stop - rows.rows.start
        return np.fromfile(path, kind, count, offset=rows.rows.start * kind.itemsize)

    def partitions(self) -> list[Rows]:
        """All rows, each partition as a whole."""
        return [
            Rows(number, slice(0, sizes.size), slice(0, int(sizes.sum())))
            for number, sizes in enumerate(self._sizes)
        ]

    def parts(self) -> Iterator[Rows]:
        """All rows, part by part: whole prompts, of about so many rows that temporary arrays are small."""
        for number, sizes in enumerate(self._sizes):
            ends = np.cumsum(sizes)
            first, start = 0, 0
            while first < ends.size:
                last = max(first + 1, int(ends.searchsorted(start + PART_ROWS, side="right")))
                stop = int(ends[last - 1])
                yield Rows(number, slice(first, last), slice(start, stop))
                first, start = last, stop

    def each(self, measure: Callable[[Rows], R]) -> Iterator[R]:
        """What is measured of every part, in order, by threads."""
        return ahead(measure, self.parts(), self._threads, self._threads)

    def column(
        self, name: str, values: Callable[[Rows], np.ndarray], kind: np.dtype, path: Path, n_null: int
    ) -> ScoreColumn:
        """The column of what is finite of `values` (N,) of all rows, in a new file; `n_null` of them have none.

        They are kept as numbers of this `kind`.
        """
        starts = itertools.accumulate((rows.rows.stop - rows.rows.start for rows in self.parts()), initial=0)
        with path.open("wb") as file:

            def write(pair: tuple[int, Rows]) -> ColumnBlock:
                start, rows = pair
                return write_block(
                    file.fileno(), start, values(rows).astype(kind, copy=False), self.sizes(rows)
                )

            blocks = list(ahead(write, zip(starts, self.parts(), strict=False), self._threads, self._threads))
        column = ScoreColumn(name, path, blocks, kind, self._threads, n_null)
        column.n_nonfinite = self.count - column.n - n_null
        return column


class _Output:
    """The files of one partition while blocks come in."""

    def __init__(self, stem: Path, opened: contextlib.ExitStack) -> None:
        self._stem, self._opened = stem, opened
        self._numbers: list[BinaryIO] = []
        runs = opened.enter_context(pa.OSFile(str(stem.with_suffix(".runs")), "wb"))
        self._runs = opened.enter_context(pa.ipc.new_file(runs, _RUNS))

    def add(self, ids: pa.Array, lengths: np.ndarray, numbers: Mapping[str, np.ndarray]) -> None:
        """Runs of equal ids with their lengths, and the numbers of all their rows."""
        self._runs.write(pa.record_batch([ids, pa.array(lengths)], schema=_RUNS))
        for number, values in enumerate(numbers.values()):
            if number == len(self._numbers):
                self._numbers.append(self._opened.enter_context(_file(self._stem, number).open("wb")))
            self._numbers[number].write(values.data)  # numpy does not say why it cannot write


def _file(stem: Path, number: int) -> Path:
    """Where the numbers of a partition lie: names of rewards may be too long for a file's."""
    return stem.with_name(f"{stem.name}.{number}")


def ends_of(files: Sequence[Path]) -> pa.Array:
    """Ids at which partitions of about equally many rows end, from ids spread over all files."""
    count = count_rows(files)
    partitions = -(-count // PARTITION_ROWS)
    if partitions <= 1:
        return pa.array([], pa.string())
    step = max(1, count // (SAMPLED * partitions))
    parts = [table["prompt_id"].combine_chunks()[::step] for table in blocks(files, ["prompt_id"])]
    ordered = pa.concat_arrays(parts).sort()
    return ordered.take(pa.array(np.arange(1, partitions) * len(ordered) // partitions)).unique()


def _runs(ids: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The ids of runs of equal ones, and the runs' lengths."""
    differs = pc.call_function("not_equal", [ids[1:], ids[:-1]]).to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.flatnonzero(differs) + 1])
    return ids.take(starts), np.diff(starts, append=len(ids))


def _distribute(
    ids: pa.Array, numbers: Mapping[str, np.ndarray], ends: pa.Array, outputs: Sequence[_Output]
) -> None:
    run_ids, lengths = _runs(ids)
    owner = np.zeros(lengths.size, np.int64)
    for end in ends:
        owner += pc.call_function("greater_equal", [run_ids, end]).to_numpy(zero_copy_only=False)
    for number, output in enumerate(outputs):
        runs = np.flatnonzero(owner == number)
        chosen = _rows_of(lengths, runs)
        output.add(
            run_ids.take(runs), lengths[runs], {name: chosen(values) for name, values in numbers.items()}
        )


def _rows_of(lengths: np.ndarray, runs: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Takes the values of some `runs` (R,) from those of all rows (N,), whose runs are of these `lengths`."""
    if (
        lengths.size and lengths.min() == lengths.max()
    ):  # whole runs are copied several times faster than numbers
        return lambda values: values.reshape(lengths.size, -1)[runs].ravel()
    rows = ranges((np.cumsum(lengths) - lengths)[runs], lengths[runs])
    return lambda values: values[rows]


def _put_in_order(stem: Path, types: Mapping[str, np.dtype]) -> np.ndarray:
    """Put a partition's rows by prompt, in order of ids; the sizes of its prompts."""
    import polars as pl

    with pa.memory_map(str(stem.with_suffix(".runs"))) as stream:
        runs = pl.DataFrame(pa.ipc.open_file(stream).read_all())
    lengths, order = runs["rows"].to_numpy(), runs["prompt_id"].arg_sort()
    chosen = _rows_of(lengths, order.to_numpy())
    ids = runs["prompt_id"].gather(order)
    first = np.flatnonzero((ids != ids.shift()).fill_null(True).to_numpy())
    lengths = lengths[order.to_numpy()]
    for number, kind in enumerate(types.values()):
        path = _file(stem, number)
        path.write_bytes(chosen(np.fromfile(path, kind)).data)
    table = pa.table([ids.gather(first).to_arrow().cast(pa.string())], ["prompt_id"])
    with (
        pa.OSFile(str(stem.with_suffix(".ids")), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    return np.add.reduceat(lengths, first) if first.size else np.empty(0, np.int64)
