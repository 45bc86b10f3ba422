"""A writer that is killed while it sends a shard: nothing of it is seen, and the next one writes it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.object_store import Harm, harmful, objects
from tests.project import environment
from tests.storage.stores.test_mirror import URL
from tgo_pipeline.storage.shards import Shard, run_shards, status
from tgo_pipeline.storage.stores.syncing import attach

SHARD = Shard("train", 0, 1, "one")
WRITER = """
import sys
from pathlib import Path
from tests.storage.stores.test_killed_writers import write
write(Path(sys.argv[1]))
"""


def write(folder: Path) -> None:
    """One shard of 40 MB: five parts of an upload."""
    import pyarrow as pa

    from tgo_pipeline.storage import tables
    from tgo_pipeline.storage.writing import atomic

    noise = np.random.default_rng(0).integers(0, 256, (20, 2_000_000), dtype=np.uint8)
    rows = [{"sample_id": str(row), "image": {"bytes": each.tobytes()}} for row, each in enumerate(noise)]

    def work(waiting: object, stop: object) -> None:
        with atomic(folder / SHARD.name) as temporary:
            table = pa.Table.from_pylist(rows, schema=tables.GENERATIONS)
            tables.write_table(table, temporary, SHARD.mark.entries())

    run_shards(folder, [SHARD], work)


def test_a_kill_while_parts_are_sent_leaves_nothing_to_be_seen(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(tmp_path / "data", URL)
    folder = tmp_path / "data" / "generations"
    harm = Harm("PUT", pause_s=0.3)
    with harmful(s3, harm) as address:
        variables = {**environment(), "AWS_ENDPOINT_URL": address}
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], env=variables)
        end = time.monotonic() + 60
        while not any("partNumber" in each for each in harm.seen) and time.monotonic() < end:
            time.sleep(0.02)
        writer.kill()
        writer.wait()
    assert any("partNumber" in each for each in harm.seen)
    assert objects(s3) == [] and not list(folder.glob("train-*"))
    assert status(folder, [SHARD]).to_do == 1
    write(folder)
    assert len(objects(s3)) == 2 and status(folder, [SHARD]).done == 1
    assert not list(folder.glob(".tmp-*"))
