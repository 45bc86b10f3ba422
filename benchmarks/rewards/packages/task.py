"""What every side of the benchmark is asked to do and how it is timed; needs numpy, Pillow and torch alone.

A side is a module with `load(task)`, which gives its forms of calling by name: functions from shards, encoded
images and prompts, to the score columns of each. `python -m benchmarks.rewards.packages.SIDE TASK.json` loads it,
scores every shard in every form, bytes in and scores written, and leaves `RESULT.json` and the scores in the task's
folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.turns import wait_for_turn

REWARDS = ("hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic")
PACKAGES = ("torch", "torchvision", "transformers", "open_clip_torch", "timm", "Pillow", "pyarrow")
RESULT = "RESULT.json"


@dataclass(frozen=True)
class Task:
    """One side's work. `sources` are weight files and folders by reward, inside the folder `checkpoints`; `limits` caps
    the images of a form. With `repeats` it waits for its turn once all is loaded, then does the work so many times.
    """

    out: str
    shards: Sequence[str]
    checkpoints: str
    sources: Mapping[str, str]
    size: str = "full"
    device: str = "cpu"
    threads: int = 1
    batch_size: int = 32
    repeats: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Task:
        """A task as `write` left it."""
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """Leave the task for a side to read."""
        path.write_text(json.dumps(dataclasses.asdict(self)))


class Clock:
    """Adds up seconds by name; waits for the accelerator at both ends of a span, so that its work is counted."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds[name] += time.perf_counter() - start

    def _wait(self) -> None:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()


Shard = tuple[Sequence[bytes], Sequence[str]]
Columns = Mapping[str, np.ndarray]
Form = Callable[[Iterable[Shard], Clock], Iterator[Columns]]


def each(score: Callable[[Sequence[bytes], Sequence[str], Clock], Columns]) -> Form:
    """The form that scores one shard after another with `score(images, prompts, clock)`."""

    def form(shards: Iterable[Shard], clock: Clock) -> Iterator[Columns]:
        for images, prompts in shards:
            yield score(images, prompts, clock)

    return form


def read_shard(path: Path) -> tuple[list[bytes], list[str]]:
    """Encoded images and prompts of a Parquet shard, or of an `.npz` with the bytes of all images in a row."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path, columns=["image", "prompt"])
        return [image["bytes"] for image in table["image"].to_pylist()], table["prompt"].to_pylist()
    with np.load(path) as stored:
        data, ends, prompts = stored["data"].tobytes(), stored["ends"].tolist(), stored["prompts"].tolist()
    starts = [0, *ends[:-1]]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)], prompts


def write_shard(path: Path, images: Sequence[bytes], prompts: Sequence[str]) -> None:
    """The opposite of `read_shard`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        cells = [{"bytes": image, "path": None} for image in images]
        image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = {"image": pa.array(cells, image_type), "prompt": pa.array(prompts, pa.string())}
        pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False)
        return
    ends = np.cumsum([len(image) for image in images])
    np.savez(path, data=np.frombuffer(b"".join(images), np.uint8), ends=ends, prompts=np.array(prompts))


def write_scores(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Scores in the format of the shard that they belong to."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)
    else:
        np.savez(path, **dict(columns))  # type: ignore[arg-type]


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """The opposite of `write_scores`."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        return {name: table[name].to_numpy() for name in table.column_names}
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def run(load: Callable[[Task], Mapping[str, Form]]) -> None:
    """Entry point of a side: do the task that the command line names."""
    task = Task.read(Path(sys.argv[1]))
    out = Path(task.out)
    out.mkdir(parents=True, exist_ok=True)
    import torch

    torch.set_num_threads(task.threads)
    clock = Clock(task.device)
    with clock("load"):
        forms = load(task)
    shards = [Path(shard) for shard in task.shards]
    images, prompts = read_shard(shards[0])
    for (
        score
    ) in forms.values():  # first calls choose kernels, start threads and build what packages build lazily
        list(score([(images[:1], prompts[:1])], Clock(task.device)))
    result = {"load_s": clock.seconds["load"], "load_peak_bytes": peak_bytes(), "versions": _versions()}
    if task.repeats:
        wait_for_turn(out)
    result["repeats"] = []
    for _ in range(max(1, task.repeats)):
        result["forms"] = {name: _timed(task, name, score, shards, out) for name, score in forms.items()}
        result["repeats"].append({name: form.pop("span") for name, form in result["forms"].items()})
        temporary = out / f"{RESULT}.new"
        temporary.write_text(json.dumps(result))
        temporary.replace(out / RESULT)


def _timed(task: Task, name: str, score: Form, shards: Sequence[Path], out: Path) -> dict[str, Any]:
    """Score all shards in one form, or the first images where the task limits it: bytes in, scores written."""
    clock, scored = Clock(task.device), 0
    (out / name).mkdir(exist_ok=True)
    forget_peak(task.device)
    start = time.perf_counter()
    with clock("all"):
        some = _read(shards, task.limits.get(name, sys.maxsize))
        for shard, columns in zip(shards, score(some, clock), strict=False):
            write_scores(out / name / shard.name, columns)
            scored += len(next(iter(columns.values())))
    peaks = {"peak_bytes": peak_bytes(), "peak_device_bytes": _peak_device_bytes(task.device)}
    span = (start, time.perf_counter())
    return {"images": scored, "seconds": dict(clock.seconds), "span": span, **peaks}


def _read(shards: Iterable[Path], limit: int) -> Iterator[Shard]:
    """Each shard, up to `limit` images in all."""
    for shard in shards:
        images, prompts = read_shard(shard)
        yield images[:limit], prompts[:limit]
        limit -= len(images)
        if limit <= 0:
            return


def forget_peak(device: str) -> None:
    """Start the peaks of resident and device memory again; Linux forgets them on request."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Largest resident memory of this process since its start, or since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def _peak_device_bytes(device: str) -> int:
    import torch

    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
