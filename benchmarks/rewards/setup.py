"""What the reward benchmarks have in common: their options, and loading the five from random checkpoints."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.parity.checkpoints import Checkpoints
from benchmarks.parity.networks import NETWORKS
from benchmarks.results import RESULTS
from benchmarks.rewards.packages.task import REWARDS
from tgo_pipeline.devices import cores

if TYPE_CHECKING:
    from tgo_pipeline.rewards.base import Reward

WORK = Path("data/reward-benchmark")


def add_setup(parser: argparse.ArgumentParser, images: int = 16, rounds: int = 2) -> None:
    """Add the options of every reward benchmark to its command line."""
    parser.add_argument("--size", choices=list(NETWORKS), default="full")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--per-prompt", type=int, default=8, help="images of one prompt")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--work", type=Path, default=WORK, help="weights (13 GB at full size) and runs")
    parser.add_argument("--results", type=Path, help="folder of RESULTS.md; the work folder at tiny size")


def prepared(arguments: argparse.Namespace) -> argparse.Namespace:
    """The options with absolute folders, and this process set up as the score stage's are, with a cache of its own."""
    import torch

    from tgo_pipeline.devices import keep_freed_memory

    arguments.work = arguments.work.resolve()
    tiny = arguments.size == "tiny"
    arguments.results = arguments.results or (arguments.work / "tiny" if tiny else RESULTS.parent)
    os.environ.setdefault("TGO_CACHE", str(arguments.work / "cache"))
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cpu":
        keep_freed_memory()
    return arguments


def decoders(arguments: argparse.Namespace) -> int:
    """Processes that decode, as the score stage chooses them: the other cores beside a GPU, none on a CPU."""
    return 0 if arguments.device == "cpu" else max(1, arguments.threads - 1)


def checkpoint_sources(checkpoints: Checkpoints) -> dict[str, str]:
    """What `load_reward` gets for each of the five."""
    names = {name: "clip/openai-l14" if name == "clip" else name for name in REWARDS}
    return {name: str(checkpoints.source(source)) for name, source in names.items()}


def load_five(checkpoints: Checkpoints, device: str) -> dict[str, Reward]:
    """The five rewards from random weights, as a user loads them."""
    from tgo_pipeline.rewards import load_reward

    sources = checkpoint_sources(checkpoints)
    return {name: load_reward(name, source, device) for name, source in sources.items()}
