"""Flip one bit of a stored file at a time: every reader must refuse it, whichever library it reads with.

    python -m tests.faults.flips --done FINISHED_PROJECT --flips 2000 --seed 7

The project is copied, not changed. A flip that is read is a finding, also where it is in bytes that mean nothing: the
digest is of all. Prints a JSON line for each kind of file; exit code 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage import digests


def _arrow(path: Path) -> None:
    from tgo_pipeline.storage.tables import read_table

    read_table(path)


def _polars(path: Path) -> None:
    from tgo_pipeline.storage.tables import scan

    scan([path]).collect()


def _parts(path: Path) -> None:
    from tgo_pipeline.storage.tables import open_parquet

    with open_parquet(path) as file:
        for _ in file.iter_batches(64):
            pass


def _tensors(path: Path) -> None:
    from fine_tune.data.tensors import read_tensors

    read_tensors(path)


READERS: dict[str, tuple[Callable[[Path], None], ...]] = {
    ".parquet": (_arrow, _polars, _parts),
    ".safetensors": (_tensors,),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--done", type=Path, required=True, help="a project whose stages have run")
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args(arguments)
    draw = random.Random(args.seed)
    tried, refused, findings = Counter(), Counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "project"
        for name in ("data", "models"):
            shutil.copytree(args.done / name, root / name)
        files = [path for path in sorted((root / "data").rglob("*")) if path.suffix in READERS]
        whole = [path.parent for path in root.rglob(digests.MANIFEST)]
        for _ in range(args.flips):
            if whole and draw.random() < 0.1:
                kind, said = "model", _flip_in_folder(draw.choice(whole), draw)
            else:
                path = draw.choice(files)
                kind, said = path.relative_to(root / "data").parts[0], _flip(path, draw)
            tried[kind] += 1
            refused[kind] += said is None
            if said is not None:
                findings.append(said)
    for kind, count in sorted(tried.items()):
        print(json.dumps({"file": kind, "flips": count, "refused": refused[kind]}))
    print(
        json.dumps(
            {"flips": sum(tried.values()), "refused": sum(refused.values()), "findings": findings[:20]}
        )
    )
    return int(bool(findings))


def _flip(path: Path, draw: random.Random) -> str | None:
    """Flip a bit, read with a reader of its kind, and put the file back; what is wrong if it was read."""
    before = path.read_bytes()
    bit, reader = draw.randrange(8 * len(before)), draw.choice(READERS[path.suffix])
    _write_flipped(path, before, bit)
    try:
        reader(path)
        return f"{path.name}: bit {bit} was read by {reader.__name__}"
    except TgoError:
        return None
    finally:
        path.write_bytes(before)


def _flip_in_folder(folder: Path, draw: random.Random) -> str | None:
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    path = draw.choice(sorted(files))
    before = path.read_bytes()
    bit = draw.randrange(8 * len(before))
    _write_flipped(path, before, bit)
    try:
        digests.verify_folder(folder)
        return f"{path.relative_to(folder)}: bit {bit} was not seen"
    except TgoError:
        return None
    finally:
        path.write_bytes(before)


def _write_flipped(path: Path, before: bytes, bit: int) -> None:
    data = bytearray(before)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
