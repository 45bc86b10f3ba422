"""What a disk refuses is said in one line, and nothing half-written is left."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from tests.project import ROOT
from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.disk import explain_disk, explanation
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.storage.sink import Sink
from tgo_pipeline.storage.writing import atomic, sweep


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full while writing out"),
        (errno.EDQUOT, "the disk is full while writing out"),
        (errno.EACCES, "out cannot be opened (Permission denied)"),
        (errno.EROFS, "out cannot be written, its file system is read-only"),
        (errno.EIO, "out: the disk fails"),
    ],
)
def test_every_refusal_has_its_line(number: int, said: str) -> None:
    for error in (
        OSError(number, os.strerror(number)),
        OSError(number, os.strerror(number), ".tmp-1-out"),
        RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})"),
    ):
        with pytest.raises(TgoError) as caught, explain_disk(Path("out")):
            raise error
        assert str(caught.value).startswith(said)


def test_other_errors_are_not_explained_away() -> None:
    assert explanation(ValueError("Permission denied by a server")) is None
    assert explanation(OSError("no number")) is None
    said = explanation(OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "x" * 300))
    assert said is not None and "File name too long" in str(said)


def test_a_full_disk_between_two_chunks_of_images_ends_no_process(tmp_path: Path) -> None:
    """Arrow alone would abort the process here (SIGABRT), and leave a file that looks like a shard."""
    script = f"""
from pathlib import Path
import numpy as np, pyarrow as pa
from tgo_pipeline.storage.tables import GENERATIONS, write_table
from tgo_pipeline.storage.writing import atomic, sweep
numbers = np.random.default_rng(0)
rows = [{{"sample_id": str(i), "image": {{"bytes": numbers.bytes(120_000), "path": None}}}} for i in range(30)]
with atomic(Path({str(tmp_path / "train-00000-of-00001.parquet")!r})) as temporary:
    write_table(pa.Table.from_pylist(rows, GENERATIONS), temporary, {{}})
"""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "TgoError: the disk is full while writing" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_sink_raises_its_first_error_at_its_end() -> None:
    with pytest.raises(OSError, match="No space left"), Sink(Path("/dev/full")) as sink:
        assert sink.write(b"abc") == 3
        assert sink.write(pa.py_buffer(b"de")) == 2
        assert sink.tell() == 5


def test_what_a_kill_left_is_no_shard(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", ".tmp-7-c.parquet", ".a.parquet.xxh3", "d.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in parquet_files(tmp_path)] == ["a.parquet", "b.parquet"]


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with atomic(tmp_path / "b.json") as own:
        own.touch()
    name = own.name.replace(str(os.getpid()), "{}")
    left, alive = tmp_path / name.format(ended.pid), tmp_path / name.format(os.getppid())
    left.touch()
    alive.touch()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["b.json", alive.name])
