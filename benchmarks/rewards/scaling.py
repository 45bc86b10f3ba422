"""How scoring scales: with images per prompt, with decoding workers, and in memory with the number of images.

python -m benchmarks.rewards.scaling                     # writes its section of RESULTS.md
python -m benchmarks.rewards.scaling --size tiny         # the same on small networks and fewer images
python -m benchmarks.rewards.scaling --device cuda --images 512

Images per prompt are measured with the networks of `--size`. Workers and memory are measured with small networks,
which decoding can keep busy and which leave memory to the images; each of those runs is a process of its own.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.parity.checkpoints import write_checkpoints
from benchmarks.results import RESULTS, hardware, record, replace_section
from benchmarks.rewards.flops import seconds
from benchmarks.rewards.inputs import captions, png
from benchmarks.rewards.packages.task import forget_peak, peak_bytes
from benchmarks.rewards.setup import add_setup, decoders, load_five, prepared
from benchmarks.rewards.tables import scaling_section
from tgo_pipeline.devices import cores
from tgo_pipeline.rewards.engine.scorer import Scorer

PER_PROMPT = (1, 2, 4, 8, 16)
STREAMED = {"full": (250, 500, 1000, 2000), "tiny": (32, 64)}
DISTINCT = 16
"""Images that a stream repeats; their bytes stay in memory, so that a curve shows the scorer's own."""


def streamed(count: int, images: Sequence[bytes], prompts: Sequence[str]) -> Iterator[tuple[bytes, str]]:
    """Pairs of image and prompt, made as they are asked for; every image has bytes of its own."""
    for row in range(count):
        yield bytes(bytearray(images[row % len(images)])), prompts[row % len(prompts)]


def per_prompt(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Images per second for each number of images a prompt, the prompts encoded again each time."""
    checkpoints = write_checkpoints(arguments.work / f"weights-{arguments.size}", arguments.size, 0)
    rewards = load_five(checkpoints, arguments.device)
    images = [png(index) for index in range(max(arguments.images, max(PER_PROMPT)))]
    found = []
    with Scorer(rewards, workers=decoders(arguments)) as scorer:
        scorer.score(images[:1], ["a first prompt"])
        for count in PER_PROMPT:
            number = max(arguments.images, count)
            took_s = seconds(functools.partial(scorer.score, images[:number], captions(number, count)))
            found.append({"per_prompt": count, "images_per_s": number / took_s})
    return found


def stream(arguments: argparse.Namespace) -> dict[str, float]:
    """Stream `images` images through the small networks; images per second and the peaks of memory."""
    checkpoints = write_checkpoints(arguments.work / "weights-tiny", "tiny", 0)
    rewards = load_five(checkpoints, arguments.device)
    images = [png(index) for index in range(DISTINCT)]
    prompts = captions(arguments.images, arguments.per_prompt)
    with Scorer(rewards, workers=arguments.workers) as scorer:
        for _ in scorer.stream(streamed(DISTINCT, images, prompts)):  # starts workers and threads
            pass
        forget_peak(arguments.device)
        start = time.perf_counter()
        scored = sum(
            len(batch.errors) for batch in scorer.stream(streamed(arguments.images, images, prompts))
        )
        took_s = time.perf_counter() - start
    return {
        "images": scored,
        "workers": arguments.workers,
        "images_per_s": scored / took_s,
        "peak_bytes": peak_bytes(),
    }


def _in_a_process(arguments: argparse.Namespace, images: int, workers: int) -> dict[str, float]:
    options = {
        "device": arguments.device,
        "threads": arguments.threads,
        "work": arguments.work,
        "images": images,
        "workers": workers,
    }
    listed = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.rewards.scaling", "--stream", *listed]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The three measurements."""
    counts = STREAMED[arguments.size]
    available = cores()
    workers = [number for number in (0, 1, 2, 4, 8, 16) if number <= max(2, available)]
    asked = ("size", "images", "threads")
    return {
        "workload": {name: getattr(arguments, name) for name in asked},
        "hardware": hardware(),
        "per_prompt": per_prompt(arguments),
        "workers": [_in_a_process(arguments, counts[1], number) for number in workers],
        "memory": [_in_a_process(arguments, count, 0) for count in counts],
    }


def main() -> None:
    """Measure, keep the numbers as JSON and write the section; with `--stream`, do one run and print its numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_setup(parser, images=8)
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    arguments = prepared(parser.parse_args())
    if arguments.stream:
        print(json.dumps(stream(arguments)))
        return
    section = scaling_section(
        record(arguments.results / "reward_scaling.json", arguments.device, measure(arguments))
    )
    replace_section(arguments.results / RESULTS.name, "reward_scaling", section)
    print(section)


if __name__ == "__main__":
    main()
