"""How much memory it takes to read a Pick-a-Pic-like set of any size, and to import its images.

python -m benchmarks.dataset_memory                     # 2 GB of images, generated, read and deleted; writes the json
python -m benchmarks.dataset_memory --megabytes 20      # the same in seconds

The sets have the columns of Pick-a-Pic v2 that are read, images of 350 kB, and row groups of 100 rows (70 MB; each
column of images in them is one page, as pyarrow writes it by default), a fifth of the size and the whole, then of
1000. Each task runs in a process of its own;
what is measured is its highest resident memory above what it had after the imports. Afterwards an import is killed
after some shards and started again: the shards must be the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.results import hardware
from tgo_pipeline.datasets import open_dataset
from tgo_pipeline.images import import_folder as existing
from tgo_pipeline.params import GenerateParams

RESULT = Path(__file__).with_suffix(".json")
IMAGE_BYTES = 350_000
SETS = ((0.2, 100), (1, 100), (1, 1000))
"""Share of the size, and rows of a row group."""
FILE_ROWS = 2000
MIB = 2**20


def generate(root: Path, images: int, group_rows: int) -> int:
    """Write `images` / 2 comparisons in files of `FILE_ROWS` rows below `root`; returns the bytes of the files."""
    folder = root / "set" / "data"
    folder.mkdir(parents=True)
    rows = images // 2
    files = -(-rows // FILE_ROWS)
    for file in range(files):
        path = folder / f"train-{file:05d}-of-{files:05d}-0123456789abcdef.parquet"
        first, last = file * FILE_ROWS, min(rows, (file + 1) * FILE_ROWS)
        _write(path, range(first, last), group_rows)
    return sum(path.stat().st_size for path in folder.iterdir())


def _write(path: Path, rows: range, group_rows: int) -> None:
    writer = None
    for start in range(rows.start, rows.stop, group_rows):
        table = _rows(range(start, min(start + group_rows, rows.stop)))
        writer = writer or pq.ParquetWriter(path, table.schema, compression="NONE")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _rows(rows: range) -> pa.Table:
    generator = np.random.default_rng(rows.start)
    columns: dict[str, Any] = {
        "caption": [f"prompt {row // 4}" for row in rows],
        "has_label": [True] * len(rows),
        "image_0_uid": [f"{2 * row:08d}" for row in rows],
        "image_1_uid": [f"{2 * row + 1:08d}" for row in rows],
        "jpg_0": _images(generator, len(rows)),
        "jpg_1": _images(generator, len(rows)),
        "label_0": [1.0] * len(rows),
        "label_1": [0.0] * len(rows),
        "model_0": ["a"] * len(rows),
        "model_1": ["b"] * len(rows),
        "user_id": list(rows),
    }
    return pa.table(columns)


def _images(generator: np.random.Generator, count: int) -> pa.Array:
    """Images that open, blown up to the size of Pick-a-Pic's."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG")
    padding = IMAGE_BYTES - stream.tell()
    return pa.array([stream.getvalue() + generator.bytes(padding) for _ in range(count)], pa.binary())


def _address(root: Path) -> str:
    return f"pickapic:{root}/set/train"


def list_images(root: Path) -> int:
    """Every image without its bytes."""
    return sum(batch.num_rows for batch in open_dataset(_address(root)).listing())


def compare(root: Path) -> int:
    """Every comparison."""
    return sum(batch.num_rows for batch in open_dataset(_address(root)).comparisons())


def read_images(root: Path) -> int:
    """Every image with its bytes, once."""
    return sum(batch.num_rows for batch in open_dataset(_address(root)).images())


def import_images(root: Path, folder: str = "shards") -> int:
    """Every image into generation shards of 256."""
    params = GenerateParams(source="images", images=_address(root))
    return existing.import_folder(root / folder, params=params, split="train", excluded=set()).done


TASKS: dict[str, Callable[[Path], int]] = {
    "listing": list_images,
    "comparisons": compare,
    "images": read_images,
    "import": import_images,
}


def measured(task: str, root: Path) -> dict[str, Any]:
    """One task in a fresh process: count, seconds, and the highest resident memory above the imports, in MiB."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(task, root, sender))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


def _measure(task: str, root: Path, sender: Any) -> None:
    before, started_s = _peak_bytes(), time.monotonic()
    count = TASKS[task](root)
    took_s = time.monotonic() - started_s
    sender.send(
        {"count": count, "seconds": round(took_s, 1), "peak_mib": round((_peak_bytes() - before) / MIB)}
    )


def _peak_bytes() -> int:
    """The kernel's high-water mark of this process: `ru_maxrss` would begin with that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def killed_and_resumed(root: Path) -> dict[str, Any]:
    """Kill an import after a third of its shards, run it again, and compare with the unbroken one."""
    whole = dict(_hashes(root / "shards"))
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=import_images, args=(root, "resumed"))
    process.start()
    while process.is_alive() and len(list((root / "resumed").glob("[!.]*.parquet"))) < len(whole) // 3:
        time.sleep(0.01)
    process.kill()
    process.join()
    kept = len(list((root / "resumed").glob("[!.]*.parquet")))
    import_images(root, "resumed")
    return {
        "killed": process.exitcode == -signal.SIGKILL,
        "shards": len(whole),
        "kept": kept,
        "identical": dict(_hashes(root / "resumed")) == whole,
    }


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("[!.]*.parquet")):
        with path.open("rb") as stream:
            yield path.name, hashlib.file_digest(stream, "sha256").hexdigest()


def measure_set(images: int, group_rows: int, parent: Path | None) -> dict[str, Any]:
    """Generate a set below `parent` (default: a temporary folder), measure every task, and delete it."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        root = Path(folder)
        size = generate(root, images, group_rows)
        return {
            "set_bytes": size,
            "images": images,
            "row_group_rows": group_rows,
            "row_group_mib": round(2 * IMAGE_BYTES * min(group_rows, images // 2) / MIB),
            "tasks": {task: measured(task, root) for task in TASKS},
            "resumed": killed_and_resumed(root),
        }


def main() -> None:
    """Measure every set and write the json."""
    parser = argparse.ArgumentParser(description="Memory of reading and importing a Pick-a-Pic-like set.")
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where to generate: three times the size is needed")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    images = arguments.megabytes * 1_000_000 // IMAGE_BYTES
    sets = [measure_set(int(share * images), group_rows, arguments.folder) for share, group_rows in SETS]
    arguments.output.write_text(json.dumps({"sets": sets, "hardware": hardware()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
