"""HPSv3 here and in its official package, on one random checkpoint, the official instruction and the same image files.

    python -m benchmarks.rewards.vision_language --official /path/to/python [--size tiny|2b] [--dtype fp32|bf16]

The official environment has hpsv3 1.0.0 (`--no-deps`) with transformers 4.45.2, tokenizers 0.20.0, huggingface-hub
0.23.2, peft 0.10.0, trl 0.8.6, accelerate 0.34.0, datasets 2.19.2, fire and matplotlib. Both sides take turns in
processes of their own, and their numbers are compared. Writes a section of RESULTS.md for each size, type and device.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import RESULTS, described, hardware, replace_section, table
from benchmarks.rewards import hpsv3_checkpoint
from tgo_pipeline.devices import cores

ROOT = Path(__file__).parents[2]
OFFICIAL = Path(__file__).parent / "packages/hpsv3_official.py"
PROMPTS = (
    "a red fox in the snow",
    "an old harbour at night, oil on canvas, boats with lanterns",
    "three paper boats on a pond after rain, seen from above",
    "a portrait of a violinist in green light",
)
SIDES = ((512, 512), (832, 480), (768, 1024), (1024, 1024))


def main() -> None:
    """Write the checkpoint, ask both sides in turns, and write what they took."""
    arguments = _parse()
    if arguments.ours:
        print(json.dumps(_ours(json.load(sys.stdin))))
        return
    folder = arguments.work.resolve() / arguments.size
    cases = _cases(folder, arguments.images)
    if not (folder / "HPSv3.safetensors").is_file():
        _write_checkpoint(folder, arguments)
    asked = {
        "folder": str(folder),
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "device": arguments.device,
        "rounds": 1 + arguments.rounds,  # the first is not counted
        "cases": list(cases.values()),
    }
    here = [sys.executable, "-m", "benchmarks.rewards.vision_language", "--ours"]
    sides = {"official": [str(arguments.official), str(OFFICIAL)], "here": here}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(arguments.turns):
        for name, command in sides.items():
            found[name].append(_ask(command, asked))
    rows = [_row(name, len(case["images"]), place, found) for place, (name, case) in enumerate(cases.items())]
    body = "\n\n".join([*_introduction(arguments, found["official"][0]["versions"]), table(_HEADER, rows)])
    print(body)
    name = f"hpsv3-{arguments.size}-{arguments.dtype}-{arguments.device.split(':')[0]}"
    replace_section(arguments.results / "RESULTS.md", name, body)


_HEADER = (
    "images and prompts",
    "official, s an image",
    "here, s an image",
    "times as fast",
    "greatest difference in mu",
)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--official", type=Path, help="Python of the official environment")
    parser.add_argument(
        "--instruction", type=Path, help="data_collator_qwen.py; default: that of the environment"
    )
    parser.add_argument("--size", choices=list(hpsv3_checkpoint.SIZES), default="tiny")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument(
        "--work", type=Path, default=ROOT / "tmp/hpsv3", help="8 GB at the size of the 2B model"
    )
    parser.add_argument("--results", type=Path, default=RESULTS.parent, help="folder of RESULTS.md")
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _cases(folder: Path, count: int) -> dict[str, dict[str, list[str]]]:
    """Images of several sizes with a prompt each; one image with several prompts."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    paths = []
    for number in range(count):
        paths.append(str(folder / f"{number}.png"))
        small = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize(SIDES[number % len(SIDES)], Image.Resampling.BICUBIC).save(paths[-1])
    prompts = [f"{PROMPTS[number % len(PROMPTS)]}, take {number}" for number in range(count)]
    return {
        f"{count} images, a prompt each": {"images": paths, "prompts": prompts},
        f"1 image, {count} prompts": {"images": paths[:1] * count, "prompts": prompts},
    }


def _write_checkpoint(folder: Path, arguments: argparse.Namespace) -> None:
    from tgo_pipeline.rewards.files import instruction

    path = arguments.instruction or _installed(arguments.official) / "dataset" / instruction.HPSV3.file
    read = instruction.read_instruction("hpsv3", {path.name: path}, instruction.HPSV3)
    hpsv3_checkpoint.write(folder, arguments.size, read.before + read.after, PROMPTS, path)


def _installed(python: Path) -> Path:
    """Where an interpreter has the package hpsv3, which is not imported for it."""
    code = "import importlib.util as u; print(next(iter(u.find_spec('hpsv3').submodule_search_locations)))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


def _ask(command: list[str], asked: dict[str, Any]) -> dict[str, Any]:
    """What a side answers, in a process of its own."""
    alone = {**os.environ, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, check=False, env=alone
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _ours(asked: dict[str, Any]) -> dict[str, Any]:
    """This package's side."""
    import torch

    from tgo_pipeline.devices import keep_freed_memory
    from tgo_pipeline.rewards import load_reward

    torch.set_num_threads(asked["threads"])
    if asked["device"] == "cpu":
        keep_freed_memory()
    reward = load_reward("hpsv3", asked["folder"], asked["device"], asked["dtype"])
    answers = []
    for case in asked["cases"]:
        seconds, scores = [], {}
        for _ in range(asked["rounds"]):
            started_s = time.perf_counter()
            scores = reward.score_parts(case["images"], case["prompts"])
            seconds.append(time.perf_counter() - started_s)
        answers.append({"seconds": seconds, "scores": np.stack(list(scores.values()), 1).tolist()})
    return {"answers": answers}


def _row(name: str, images: int, place: int, found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Medians over rounds and turns without each first round."""
    taken = {
        side: statistics.median(each for turn in turns for each in turn["answers"][place]["seconds"][1:])
        / images
        for side, turns in found.items()
    }
    official, here = (np.array(found[side][0]["answers"][place]["scores"]) for side in ("official", "here"))
    difference = np.abs(official - here)[:, 0].max()
    speeds = [f"{taken['official']:.3g}", f"{taken['here']:.3g}", f"{taken['official'] / taken['here']:.1f}"]
    return [name, *speeds, f"{difference:.1e}"]


def _introduction(arguments: argparse.Namespace, versions: dict[str, str]) -> list[str]:
    text, vision = hpsv3_checkpoint.SIZES[arguments.size]
    return [
        f"## HPSv3 in its official package and here, {arguments.size}, {arguments.dtype}, {arguments.device}",
        f"Random weights: {text['num_hidden_layers']} text blocks of width {text['hidden_size']}, {vision['depth']} "
        f"image blocks of width {vision['embed_dim']}. From image files to numbers, {arguments.threads} threads, "
        f"medians of {arguments.rounds * arguments.turns} rounds in {arguments.turns} turns. Official: hpsv3 "
        f"{versions['hpsv3']} on transformers {versions['transformers']} and torch {versions['torch']}, "
        "scaled-dot-product attention. `python -m benchmarks.rewards.vision_language --size "
        f"{arguments.size} --dtype {arguments.dtype}`",
        described(hardware()),
    ]


if __name__ == "__main__":
    main()
