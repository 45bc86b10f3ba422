"""What earlier calls have scored: finished parts in `OUT.parts`, and the rows of a finished OUT.

Parts are found by their fingerprint, columns by that of their reward, and single rows by their key: what is found is
not scored again.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.json_text import read_object
from tgo_pipeline.scoring.columns import score_table
from tgo_pipeline.scoring.command.kept import UNKNOWN, Found, Keys, ScoredRows, as_keys, pack, unpack
from tgo_pipeline.scoring.command.parts import Part
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.storage.locks import lock
from tgo_pipeline.storage.tables import (
    read_footer,
    read_metadata,
    read_table,
    row_count,
    scores_schema,
    write_table,
)
from tgo_pipeline.storage.writing import atomic, remove_folder, sweep

log = logging.getLogger("tgo")
KIND = "tgo score"
CALL = "call.json"
KEYS = "tgo_row_keys"
"""In a table's footer: the keys of its rows in their order."""
LABELS = "labels"
"""In a table's metadata: what names and prompts it was written with."""
Inputs = dict[str, Any]
"""What a call reads, under the names of its options: two calls share an OUT only if these are equal, or paths added."""


def parts_folder(out: Path) -> Path:
    """Where the finished parts of an unfinished call are."""
    return out.with_name(f"{out.name}.parts")


@contextlib.contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold OUT and its parts for this process. Raises `TgoError` at once if another one holds them."""
    folder = parts_folder(out)
    if (folder.is_dir() and any(folder.glob("[!.]*")) and not (folder / CALL).is_file()) or folder.is_file():
        raise TgoError(f"{folder} is in the way, and not from `{KIND}`: move it, or name another --out.")
    with lock(folder, leave_file=False):
        sweep(folder.parent)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it holds parts to continue from
                folder.rmdir()


class PartPlace(NamedTuple):
    """Where a part is in OUT."""

    first: int
    rows: int
    last: bool


class Results:
    """The finished parts of a call and of the calls before it; use it while `held` holds OUT.

    Raises `TgoError` if OUT, or what an unfinished call left beside it, belongs to another input.
    """

    def __init__(self, out: Path, inputs: Inputs, part_rows: int, *, overwrite: bool) -> None:
        self._out, self._folder, self._inputs = out, parts_folder(out), inputs
        begun = {} if overwrite else _begun(self._folder)
        self._replaces = overwrite or begun.get("replaces", False)
        self._finished = {} if self._replaces else _finished(out)
        for earlier, where in ((begun, self._folder), (self._finished, out)):
            _check_same(earlier.get("inputs", inputs), inputs, where, out)
        self.part_rows: int = {"part_rows": part_rows, **self._finished, **begun}["part_rows"]
        self._places = _places(self._finished.get("parts", []))
        self._keys = _stored_keys(out) if self._finished else None
        self._table: pa.Table | None = None
        self._current: Collection[str] = ()
        self._rows: ScoredRows | None = None
        if overwrite:
            remove_folder(self._folder)
            self._folder.mkdir()

    def check_columns(self, wanted: Collection[str]) -> None:
        """Raise `TgoError` if OUT has a reward that is not wanted any more: it would be lost."""
        lost = [name for name in self._finished.get("rewards", {}) if name not in wanted]
        if lost:
            raise TgoError(
                f"{self._out} also holds the scores of {', '.join(lost)}, which this call would drop: add them to "
                "--rewards (what is scored already is kept, not scored again), name another --out, or start over "
                "with --overwrite."
            )

    def has(self, fingerprint: str) -> bool:
        """Whether a part was scored with any reward."""
        return fingerprint in self._places or self._path(fingerprint).is_file()

    def expect(self, fingerprints: Collection[str]) -> None:
        """Say which parts the call has, of a stream those that are scored; to be called before anything is found."""
        self._current = fingerprints

    def find(self, part: Part, wanted: Mapping[str, str]) -> Found | None:
        """What is known of a part: the columns whose reward has the wanted fingerprint; None if nothing is."""
        return (
            self._in_parts(self._path(part.fingerprint), wanted)
            or self._in_out(part.fingerprint, wanted)
            or self._in_rows(part, wanted)
        )

    def _in_parts(self, path: Path, wanted: Mapping[str, str]) -> Found | None:
        if not path.is_file():
            return None
        try:
            metadata = read_metadata(path)
            rewards = _valid(metadata.get("rewards", {}), wanted)
            if not rewards or "last" not in metadata:
                return None
            table, keys = _with_rewards(read_table(path), rewards), _stored_keys(path)
        except TgoError as error:
            log.warning("scoring a part again: %s", error)
            return None
        return Found(table, rewards, metadata["last"], keys)

    def _in_out(self, fingerprint: str, wanted: Mapping[str, str]) -> Found | None:
        place = self._places.get(fingerprint)
        rewards = _valid(self._finished.get("rewards", {}), wanted)
        if place is None or not rewards:
            return None
        table = self._out_table().slice(place.first, place.rows)
        keys = None if self._keys is None else self._keys[place.first : place.first + place.rows]
        return Found(_with_rewards(table, rewards), rewards, place.last, keys)

    def _in_rows(self, part: Part, wanted: Mapping[str, str]) -> Found | None:
        """A part whose rows were all scored, but not as this part: images before them came or went."""
        rows = self.rows(wanted)
        if not len(rows) or part.keys is None:
            return None
        rewards = {name: about for name, about in rows.rewards.items() if rows.know(part.keys, [name]).all()}
        if not rewards:
            return None
        columns = {name: rows.scores(part.keys, name) for name in rewards}
        table = score_table(part.labels(), columns, rows.errors(part.keys))
        return Found(table, rewards, part.source.at_end(part.stop), part.keys)

    def rows(self, wanted: Mapping[str, str]) -> ScoredRows:
        """Every row that was scored before this call: those of OUT, and those of parts that the call has no more.

        Parts of the call itself are left out. A call that continues after a kill then finds the same rows as one that
        was never killed, scores the same rest in the same batches, and so comes to the same bits.
        """
        if self._rows is None:
            self._rows = ScoredRows([*self._finished_rows(wanted), *self._abandoned(wanted)])
        return self._rows

    def _finished_rows(self, wanted: Mapping[str, str]) -> Iterator[Found]:
        rewards = _valid(self._finished.get("rewards", {}), wanted)
        if rewards and self._keys is not None:
            yield Found(_with_rewards(self._out_table(), rewards), rewards, last=True, keys=self._keys)

    def _abandoned(self, wanted: Mapping[str, str]) -> Iterator[Found]:
        for path in sorted(self._folder.glob("[!.]*.parquet")):
            found = None if path.stem in self._current else self._in_parts(path, wanted)
            if found is not None:
                yield found

    def lacking(self, part: Part, names: Sequence[str], wanted: Mapping[str, str]) -> int:
        """How many images of a part have to be scored with these rewards; at most, if they would have to be read."""
        rows = self.rows(wanted)
        if not len(rows) or part.keys is None:
            return part.stop - part.start
        return int(np.count_nonzero(~rows.know(part.keys, names)))

    def _out_table(self) -> pa.Table:
        if self._table is None:
            try:
                table, written = read_table(self._out), self._finished.get(LABELS)
            except TgoError as error:
                raise self.changed() from error
            if written is not None and written != _labels_of(table):
                raise self.changed()
            self._table = table
        return self._table

    def changed(self) -> TgoError:
        """The error that OUT has other rows than were written."""
        return TgoError(
            f"the rows of {self._out} were changed by something else, or are damaged: start over with --overwrite."
        )

    def write(
        self, fingerprint: str, table: pa.Table, rewards: Mapping[str, Any], *, keys: Keys, last: bool
    ) -> None:
        """Keep a finished part. Raises `TgoError` if the disk is full."""
        self.begin()
        with atomic(self._path(fingerprint)) as temporary:
            metadata = {"fingerprint": fingerprint, "rewards": dict(rewards), "last": last}
            write_table(table, temporary, metadata, {KEYS: pack(keys)})

    def begin(self) -> None:
        """Note beside the parts whose they are; other processes of the call read it there."""
        call = self._folder / CALL
        if not call.is_file():
            begun = {"inputs": self._inputs, "part_rows": self.part_rows, "replaces": self._replaces}
            with atomic(call) as temporary:
                temporary.write_text(json.dumps(begun), encoding="utf-8")

    def finish(self, parts: Sequence[Part], wanted: Mapping[str, str]) -> bool:
        """Write OUT from the parts in this order, and remove them; False if OUT is that already."""
        same = [part[0] for part in self._finished.get("parts", [])] == [part.fingerprint for part in parts]
        stored = {name: reward["fingerprint"] for name, reward in self._finished.get("rewards", {}).items()}
        changed = not same or list(stored.items()) != list(wanted.items())
        if changed:
            self._merge(parts, wanted)
        remove_folder(self._folder)
        return changed

    def _merge(self, parts: Sequence[Part], wanted: Mapping[str, str]) -> None:
        found = [part for part in (self.find(part, wanted) for part in parts) if part is not None]
        names = scores_schema(list(wanted), ("image", "prompt"))
        table = pa.concat_tables([part.table.select(names.names) for part in found]).cast(names)
        lengths = [part.table.num_rows for part in found]
        metadata = {
            "kind": KIND,
            "inputs": self._inputs,
            "part_rows": self.part_rows,
            "rewards": {name: found[0].rewards[name] for name in wanted},
            "parts": [
                (part.fingerprint, rows, one.last)
                for part, rows, one in zip(parts, lengths, found, strict=True)
            ],
            "failed": table.num_rows - table["error"].null_count,
            LABELS: _labels_of(table),
        }
        keys = np.concatenate([_keys_of(part, one) for part, one in zip(parts, found, strict=True)])
        with atomic(self._out) as temporary:
            write_table(table, temporary, metadata, {KEYS: pack(keys)})

    def _path(self, fingerprint: str) -> Path:
        return self._folder / f"{fingerprint}.parquet"


def _stored_keys(path: Path) -> Keys | None:
    """The keys of the rows of a table; None where an older version wrote it. Raises `TgoError` if they are damaged."""
    try:
        keys = unpack(read_footer(path, KEYS))
    except ValueError as error:
        raise TgoError(f"{path}: its {KEYS} are damaged ({error}): start over with --overwrite.") from error
    if keys is not None and len(keys) != row_count(path):
        raise TgoError(f"{path} has {len(keys)} {KEYS} for other rows: start over with --overwrite.")
    return keys


def _keys_of(part: Part, found: Found) -> Keys:
    """The keys of a part's rows, as far as they can be known without reading images."""
    if found.keys is not None:
        return found.keys
    return as_keys([UNKNOWN] * found.table.num_rows) if part.keys is None else part.keys


def _valid(stored: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, Any]:
    """Those stored rewards whose fingerprint is the wanted one."""
    return {name: reward for name, reward in stored.items() if reward.get("fingerprint") == wanted.get(name)}


def _with_rewards(table: pa.Table, rewards: Collection[str]) -> pa.Table:
    """The table with these of its rewards alone."""
    return table.select(
        ["image", "prompt", *(name for name in table.column_names if name in rewards), "error"]
    )


def _labels_of(table: pa.Table) -> str:
    """What names and prompts a table has, row by row: whether its rows are where they were written."""
    return fingerprint_of(images=table["image"].to_pylist(), prompts=table["prompt"].to_pylist())


def _begun(folder: Path) -> dict[str, Any]:
    """The unfinished call that left its parts; empty if there is none."""
    call = folder / CALL
    return read_object(call, f"remove {folder}") if call.is_file() else {}


def _finished(out: Path) -> dict[str, Any]:
    """What a finished OUT says of itself; empty if there is none. Raises `TgoError` if it is something else."""
    if not out.exists():
        return {}
    with contextlib.suppress(TgoError, TypeError, ValueError):
        metadata = read_metadata(out)
        rows = sum(rows for _, rows, _ in metadata.get("parts", []))
        if metadata.get("kind") == KIND and rows == row_count(out):
            return metadata
    raise TgoError(
        f"{out} exists and is not as `{KIND}` writes it: name another --out, or replace it with --overwrite."
    )


def _check_same(earlier: Inputs, now: Inputs, where: Path, out: Path) -> None:
    changed = [
        f"{name} was {_shown(earlier.get(name))} and is now {_shown(now.get(name))}"
        for name in {**now, **earlier}
        if earlier.get(name) != now.get(name) and not _grown(earlier.get(name), now.get(name))
    ]
    if changed:
        raise TgoError(
            f"{where} holds scores of another input: {'; '.join(changed)}. Name another --out than {out}, or start "
            "over with --overwrite."
        )


def _grown(earlier: Any, now: Any) -> bool:
    """Whether paths were only added, as by a pattern of the shell that matches new images: nothing is lost."""
    return isinstance(earlier, list) and isinstance(now, list) and set(earlier) <= set(now)


def _shown(value: Any) -> str:
    """An option's value for a message, cut where it is long."""
    text = "not given" if value is None else " ".join(value) if isinstance(value, list) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _places(parts: Sequence[Sequence[Any]]) -> dict[str, PartPlace]:
    places, first = {}, 0
    for fingerprint, rows, last in parts:
        places[fingerprint] = PartPlace(first, rows, last)
        first += rows
    return places
