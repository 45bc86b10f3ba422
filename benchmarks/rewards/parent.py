"""What the scoring process itself can hand to a network, and how decoding scales with cores.

python -m benchmarks.rewards.parent                      # writes its section of RESULTS.md
python -m benchmarks.rewards.parent --images 64 --rounds 1 --results /tmp

Shards of images are scored with networks that do nothing. Two ways take turns, in one run: bytes of images and their
pixels through pipes, as it was until shared memory came, and addresses of images with pixels in shared memory. In the
first part images take no time to decode, so that the way is all there is: the processor time of the parent says how
many images a second it could hand on if there were decoders enough. In the second part one and two processes decode
and resize PNGs as the five rewards need them; a model is fitted to the processor time of both. Processor time, unlike
the clock, does not count what else runs on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow as pa

from benchmarks.results import RESULTS, described, hardware, record, replace_section, table
from benchmarks.rewards.inputs import png
from benchmarks.rewards.null import NullReward, PipePreparer, light_png, null_rewards
from tgo_pipeline.rewards.engine.scorer import Sample, Scorer
from tgo_pipeline.rewards.networks.preprocessing import LongestSidePad, ShortestSideCrop
from tgo_pipeline.storage.tables import GENERATIONS, stream_images, stream_rows, write_table

SIZES = (512, 1024)
DISTINCT = 8
CORES = (1, 2, 4, 8, 16, 32, 64)
PIPES, SHARED = "through pipes", "shared memory"


def write_shard(path: Path, images: list[bytes], count: int) -> Path:
    """A shard of `count` generations as the pipeline writes it; the images are repeated."""
    rows = [
        {
            "sample_id": f"{row}",
            "prompt_id": "p",
            "prompt": "a fox",
            "image": {"bytes": images[row % len(images)], "path": None},
        }
        for row in range(count)
    ]
    write_table(pa.Table.from_pylist(rows, schema=GENERATIONS), path, {})
    return path


def by_bytes(path: Path) -> Iterator[Sample]:
    """The images of a shard, read by this process."""
    return ((row["image"]["bytes"], "a fox") for row in stream_rows(path, ["image"], 32))


def by_address(path: Path) -> Iterator[Sample]:
    """Where the images of a shard lie."""
    return ((image, "a fox") for image in stream_images(path))


class Run(NamedTuple):
    """Images that were scored; seconds by the clock, and processor seconds of this process and of its workers."""

    count: int
    took_s: float
    parent_s: float
    decoders_s: float


@dataclass
class Way:
    """One way of getting images to the networks, with its processes running."""

    scorer: Scorer
    read: Callable[[Path], Iterator[Sample]]

    def run(self, path: Path) -> Run:
        """Score the images of a shard."""
        before = time.perf_counter(), time.process_time(), self._decoders_s()
        count = sum(len(batch.errors) for batch in self.scorer.stream(self.read(path)))
        after = time.perf_counter(), time.process_time(), self._decoders_s()
        return Run(count, *(end - start for start, end in zip(before, after, strict=True)))

    def _decoders_s(self) -> float:
        """Processor seconds of the workers so far."""
        pool: Any = self.scorer._preparer._pool
        times = [psutil.Process(number).cpu_times() for number in (pool._processes if pool else ())]
        return sum(each.user + each.system for each in times)


def ways(rewards: dict[str, NullReward], workers: int, batch_size: int) -> dict[str, Way]:
    """Both ways."""
    pipes, shared = (Scorer(rewards, batch_size=batch_size, workers=workers) for _ in range(2))
    pipes._preparer = PipePreparer(shared._preparer.preparations, workers, batch=batch_size)
    return {PIPES: Way(pipes, by_bytes), SHARED: Way(shared, by_address)}


def measure(
    path: Path, rewards: dict[str, NullReward], workers: int, arguments: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Images a second, and processor milliseconds an image, of both ways in turn: medians."""
    both = ways(rewards, workers, arguments.batch_size)
    runs: dict[str, list[Run]] = {name: [] for name in both}
    for turn in range(arguments.rounds + 1):
        for name, way in both.items():
            found = way.run(path)
            if turn:  # the first starts the workers
                runs[name].append(found)
    for way in both.values():
        way.scorer.close()
    return {
        name: {
            "images_per_s": statistics.median(run.count / run.took_s for run in some),
            "parent_ms": statistics.median(1000 * run.parent_s / run.count for run in some),
            "decoders_ms": statistics.median(1000 * run.decoders_s / run.count for run in some),
        }
        for name, some in runs.items()
    }


def decoding() -> dict[str, NullReward]:
    """Networks that do nothing, with the preparations of the five rewards."""
    preparations = {
        "hps": LongestSidePad(224),
        "clip": ShortestSideCrop(224),
        "pick": ShortestSideCrop(224, "down"),
    }
    return {name: NullReward(name, preparation) for name, preparation in preparations.items()}


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both parts, for every size of image."""
    found: dict[str, Any] = {"hardware": hardware(), "parent": {}, "decoding": {}}
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        for pixels in SIZES:
            images = [png(index, pixels) for index in range(DISTINCT)]
            light = [light_png(len(image)) for image in images]
            count = max(8, arguments.images * SIZES[0] ** 2 // pixels**2)
            some = write_shard(Path(folder, f"{pixels}.parquet"), light, count)
            found["parent"][pixels] = {
                "file_bytes": statistics.mean(map(len, images)),
                **measure(some, null_rewards(), 1, arguments),
            }
            real = write_shard(Path(folder, f"{pixels}-png.parquet"), images, count // 8)
            found["decoding"][pixels] = {
                workers: measure(real, decoding(), workers, arguments) for workers in (1, 2)
            }
    return found


def _model(rates: dict[int, dict[str, dict[str, float]]], limit: float) -> tuple[float, dict[int, float]]:
    """A core's rate, by the processor time with one and two decoders, and what some cores make of it, to the limit."""
    each = statistics.mean(1000 / way[SHARED]["decoders_ms"] for way in rates.values())
    return each, {cores: min(cores * each, limit) for cores in CORES}


def section(found: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    parent, fitted, rows = [], [], []
    for pixels in SIZES:
        of = found["parent"][pixels]
        for name in (PIPES, SHARED):
            limit = 1000 / of[name]["parent_ms"]
            parent.append(
                [
                    f"{pixels} px ({of['file_bytes'] / 1e3:,.0f} kB), {name}",
                    f"{of[name]['images_per_s']:,.0f}",
                    f"{of[name]['parent_ms']:.3f}",
                    f"{limit:,.0f}",
                ]
            )
        rates = found["decoding"][pixels]
        each, model = _model(rates, 1000 / of[SHARED]["parent_ms"])
        for workers, way in rates.items():
            clock = [f"{way[name]['images_per_s']:.1f}" for name in (PIPES, SHARED)]
            used = [f"{way[name]['decoders_ms']:.1f}" for name in (PIPES, SHARED)]
            rows.append([f"{pixels} px, {workers}", *clock, *used])
        fitted.append([f"{pixels} px", f"{each:.1f}", *(f"{model[cores]:,.0f}" for cores in CORES)])
    header = (
        "images",
        "images/s, one decoder",
        "ms of the parent an image",
        "images/s that the parent allows",
    )
    return "\n\n".join(
        [
            "## What the scoring process hands to a network",
            "Networks that do nothing, 753 kB of pixels an image. Bytes and pixels through pipes, as it was, and "
            "addresses with pixels in shared memory, in turn in one run. Above, images that take no time to decode, of "
            "the size of PNGs: the parent's processor time bounds what any number of decoders can give. Below, PNGs "
            "decoded and resized as the five rewards need them. `python -m benchmarks.rewards.parent "
            f"--images {arguments.images} --rounds {arguments.rounds}`, batches of {arguments.batch_size}; medians.",
            described(found["hardware"]),
            table(header, parent),
            table(
                (
                    "decoding processes",
                    f"images/s {PIPES}",
                    f"images/s, {SHARED}",
                    f"decoder's ms an image {PIPES}",
                    f"decoder's ms, {SHARED}",
                ),
                rows,
            ),
            "Images/s by decoding cores, a model: one core's rate, the mean of what the decoders' processor time says "
            "with one and with two of them in shared memory, times their number, up to what the parent allows. The "
            "clock shows less where the parent, or another program, runs on the same cores.",
            table(("images", "one core", *map(str, CORES)), fitted),
        ]
    )


def main() -> None:
    """Measure, keep the numbers as JSON and write the section."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--work", type=Path, help="where the shards are while it runs")
    parser.add_argument("--results", type=Path, default=RESULTS.parent, help="folder of RESULTS.md")
    arguments = parser.parse_args()
    found = measured(arguments)
    record(arguments.results / "reward_parent.json", "cpu", found)
    text = section(found, arguments)
    replace_section(arguments.results / RESULTS.name, "reward_parent", text)
    print(text)


if __name__ == "__main__":
    main()
