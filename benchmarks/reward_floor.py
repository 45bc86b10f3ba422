"""Where the time of the five rewards goes, and how near the machine's matrix rate the whole of it comes.

python -m benchmarks.reward_floor                       # full size on the CPU; writes its section of RESULTS.md
python -m benchmarks.reward_floor --size tiny           # the same on small networks, in seconds
python -m benchmarks.reward_floor --device cuda --images 512

The floor is the time that the networks' operations take at the rate of plain matrix products of their shapes, in the
precision that they run in: fp32 on a CPU, fp16 on a GPU. The parts are timed alone, one after another; end to end,
decoding and the networks run at the same time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.official.checkpoints import write_checkpoints
from benchmarks.official.networks import NETWORKS
from benchmarks.results import RESULTS, hardware, record, replace_section
from benchmarks.reward_flops import PUBLISHED, closed_form, count, matrix_rate
from benchmarks.reward_inputs import captions, png
from benchmarks.reward_setup import add_setup, load_five, prepared
from benchmarks.reward_tables import floor_section
from benchmarks.sides.task import Clock
from tgo_pipeline.rewards.base import Reward
from tgo_pipeline.rewards.images import open_image
from tgo_pipeline.rewards.scorer import Scorer


class Parts:
    """The work of `Scorer` on one batch, taken apart; every piece is timed and its operations are counted."""

    def __init__(self, rewards: Mapping[str, Reward], clock: Clock) -> None:
        self.rewards = rewards
        self.clock = clock
        self.flops: dict[str, int] = {}

    @torch.inference_mode()
    def run(self, images: Sequence[bytes], prompts: Sequence[str]) -> None:
        """Do everything once for all images together."""
        with self.clock("decode, one thread"):
            pictures = [open_image(image) for image in images]
        pixels = self._pixels(pictures)
        distinct = list(dict.fromkeys(prompts))
        places = np.array([distinct.index(prompt) for prompt in prompts])
        seen: dict[tuple[int, int], Any] = {}
        for name, reward in self.rewards.items():
            prepared = pixels[self._preparation(name)]
            key = (id(reward.image_encoder), id(prepared))
            if key not in seen:
                users = [n for n, other in self.rewards.items() if self._key(n, other, pixels) == key]
                seen[key] = self._timed(
                    f"image tower: {', '.join(users)}", lambda r=reward, p=prepared: r.encode_images(p)
                )
            encoded = self._timed(f"prompts: {name}", lambda r=reward: r.encode_prompts(distinct))
            self._timed(f"combine: {name}", lambda r=reward, k=key, e=encoded: r.combine(seen[k], e[places]))

    def _key(self, name: str, reward: Reward, pixels: Mapping[str, Tensor]) -> tuple[int, int]:
        return id(reward.image_encoder), id(pixels[self._preparation(name)])

    def _preparation(self, name: str) -> str:
        """Square pictures need two preparations: HPSv2's and that of all others."""
        return "HPSv2's" if name.startswith("hps") else "the others'"

    def _pixels(self, pictures: Sequence[Any]) -> dict[str, Tensor]:
        """Every preparation's pixels on the device, ready for a network."""
        pixels = {}
        for label in dict.fromkeys(self._preparation(name) for name in self.rewards):
            reward = next(r for name, r in self.rewards.items() if self._preparation(name) == label)
            with self.clock(f"resize, {label}, one thread"):
                stacked = torch.stack([reward.preprocessing(picture) for picture in pictures])
            with self.clock("copy and normalise"):
                pixels[label] = reward.preprocessing.finish(stacked.to(reward.device))
        return pixels

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        with self.clock(name):
            result = work()
        if name not in self.flops:
            self.flops[name] = count(work)
        return result


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the parts and the whole, `rounds` times in turn, and the machine's matrix rate."""
    networks = NETWORKS[arguments.size]
    checkpoints = write_checkpoints(arguments.work / f"weights-{arguments.size}", arguments.size, 0)
    device = torch.device(arguments.device)
    rewards = load_five(checkpoints, arguments.device)
    images = [png(index) for index in range(arguments.images)]
    prompts = captions(arguments.images, arguments.per_prompt)
    whole, parts = Clock(arguments.device), []
    flops: dict[str, int] = {}
    with Scorer(rewards) as scorer:
        scorer.score(images[:1], prompts[:1])
        for _ in range(arguments.rounds):
            with whole("round"):
                scorer.score(images, prompts)
            parts.append(Clock(arguments.device))
            run = Parts(rewards, parts[-1])
            run.flops = flops  # counted in the first round
            run.run(images, prompts)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    rate = matrix_rate(networks, min(arguments.images, 32), device, dtype)
    each = arguments.images
    asked = ("size", "images", "per_prompt", "threads", "rounds")
    return {
        "workload": {name: getattr(arguments, name) for name in asked},
        "hardware": hardware(),
        "whole_s": whole.seconds["round"] / arguments.rounds / each,
        "parts_s": {
            name: statistics.median(clock.seconds[name] for clock in parts) / each
            for name in parts[0].seconds
        },
        "flops": {name: value / each for name, value in flops.items()},
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
