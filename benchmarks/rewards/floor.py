"""Where the time of the five rewards goes, and how near the machine's matrix rate the whole of it comes.

python -m benchmarks.rewards.floor                       # full size on the CPU; writes its section of RESULTS.md
python -m benchmarks.rewards.floor --size tiny           # the same on small networks, in seconds
python -m benchmarks.rewards.floor --device cuda --images 512

The floor is the time that the networks' operations take at the rate of plain matrix products of their shapes, in the
precision that they run in: fp32 on a CPU, fp16 on a GPU. The parts are timed alone, one after another; end to end,
decoding and the networks run at the same time.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.parity.checkpoints import write_checkpoints
from benchmarks.parity.networks import NETWORKS
from benchmarks.results import RESULTS, hardware, record, replace_section
from benchmarks.rewards.flops import PUBLISHED, closed_form, count, matrix_rate, seconds
from benchmarks.rewards.inputs import captions, png
from benchmarks.rewards.packages.task import Clock
from benchmarks.rewards.setup import add_setup, decoders, load_five, prepared
from benchmarks.rewards.tables import floor_section
from tgo_pipeline.rewards.base import Reward
from tgo_pipeline.rewards.engine.images import open_image
from tgo_pipeline.rewards.engine.scorer import Scorer


class Parts:
    """The work of a `Scorer` taken apart, batch by batch: every piece is timed, and its operations are counted once."""

    def __init__(self, rewards: Mapping[str, Reward], clock: Clock, flops: dict[str, float]) -> None:
        self.rewards = rewards
        self.clock = clock
        self.flops = flops

    @torch.inference_mode()
    def run(self, images: Sequence[bytes], prompts: Sequence[str], batch_size: int) -> None:
        """Score everything, `batch_size` images at a time."""
        distinct = list(dict.fromkeys(prompts))
        places = np.array([distinct.index(prompt) for prompt in prompts])
        encoded = {}
        for name, reward in self.rewards.items():
            work = functools.partial(reward.encode_prompts, distinct)
            encoded[name] = self._timed(f"prompts: {name}", work, work, len(images))
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            self._batch(images[rows], {name: all_of[places[rows]] for name, all_of in encoded.items()})

    def _batch(self, images: Sequence[bytes], encoded: Mapping[str, Any]) -> None:
        with self.clock("decode, one thread"):
            opened = [open_image(image) for image in images]
        pixels = self._pixels(opened)
        seen: dict[tuple[int, str], Any] = {}
        for name, reward in self.rewards.items():
            key = id(reward.image_encoder), _preparation(name)
            if key not in seen:
                sharing = [
                    n for n, r in self.rewards.items() if (id(r.image_encoder), _preparation(n)) == key
                ]
                tower, inputs = reward.encode_images, pixels[key[1]]
                one = functools.partial(tower, inputs[:1])
                label = f"image tower: {', '.join(sharing)}"
                seen[key] = self._timed(label, functools.partial(tower, inputs), one, 1)
            combine, image, prompt = reward.combine, seen[key], encoded[name]
            one = functools.partial(combine, image[:1], prompt[:1])
            self._timed(f"combine: {name}", functools.partial(combine, image, prompt), one, 1)

    def _pixels(self, opened: Sequence[Any]) -> dict[str, Tensor]:
        """Every preparation's pixels on the device, ready for a network."""
        pixels = {}
        for name, reward in self.rewards.items():
            label = _preparation(name)
            if label in pixels:
                continue
            with self.clock(f"resize, {label}, one thread"):
                stacked = torch.stack([reward.preprocessing(image) for image in opened])
            with self.clock("copy and normalise"):
                pixels[label] = reward.preprocessing.finish(stacked.to(reward.device))
        return pixels

    def _timed(self, name: str, work: Callable[[], Any], counted: Callable[[], Any], images: int) -> Any:
        """Time `work`; its operations per image are those of `counted`, which serves that many images."""
        with self.clock(name):
            result = work()
        if name not in self.flops:
            self.flops[name] = count(counted) / images
        return result


def _preparation(name: str) -> str:
    """Square images need two preparations: HPSv2's and that of all others."""
    return "HPSv2's" if name.startswith("hps") else "the others'"


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the parts and the whole, `rounds` times in turn, and the machine's matrix rate."""
    networks, device = NETWORKS[arguments.size], torch.device(arguments.device)
    checkpoints = write_checkpoints(arguments.work / f"weights-{arguments.size}", arguments.size, 0)
    rewards = load_five(checkpoints, arguments.device)
    images = [png(index) for index in range(arguments.images)]
    prompts = captions(arguments.images, arguments.per_prompt)
    wholes: list[float] = []
    parts: list[Clock] = []
    flops: dict[str, float] = {}
    with Scorer(rewards, workers=decoders(arguments)) as scorer:
        scorer.score(images[:1], prompts[:1])
        for _ in range(arguments.rounds):
            wholes.append(seconds(lambda: scorer.score(images, prompts)))
            parts.append(Clock(arguments.device))
            Parts(rewards, parts[-1], flops).run(images, prompts, scorer.batch_size.current)
        batch = min(arguments.images, scorer.batch_size.current)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    rate = matrix_rate(networks, batch, device, dtype)
    asked = ("size", "images", "per_prompt", "threads", "rounds")
    return {
        "workload": {**{name: getattr(arguments, name) for name in asked}, "batch_size": batch},
        "hardware": hardware(),
        "whole_s": statistics.median(wholes) / len(images),
        "parts_s": {
            name: statistics.median(clock.seconds[name] for clock in parts) / len(images)
            for name in parts[0].seconds
        },
        "flops": flops,
        "rate": rate.total,
        "rates": dict(rate.shapes),
        "precision": str(dtype).removeprefix("torch."),
        "closed_form": closed_form(networks),
        "published": PUBLISHED,
    }


def main() -> None:
    """Measure, keep the numbers as JSON and write the section."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_setup(parser)
    arguments = prepared(parser.parse_args())
    section = floor_section(
        record(arguments.results / "reward_floor.json", arguments.device, measure(arguments))
    )
    replace_section(arguments.results / RESULTS.name, "reward_floor", section)
    print(section)


if __name__ == "__main__":
    main()
