"""Compares every reward with its official code on fresh random weights, pictures and prompts.

make parity                    # tiny and full size, a new seed; builds the official environment first
make parity SIZE=tiny SEED=7

Both sides read the same files in the official layouts (written by `benchmarks.parity.checkpoints`): the official
packages in an environment of their own, called as their READMEs say, and this project by `load_reward(...).score(...)`.
What the official code scores must be matched; what it raises an error for must be scored. Writes
benchmarks/parity.json and docs/PARITY.md, where one size replaces only its own part, and exits with 1 if a tolerance
is exceeded. Full size needs 20 GB of disk, 12 GB of memory and, on two cores, about half an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.parity.checkpoints import Checkpoints, write_checkpoints
from benchmarks.parity.compare import TOLERANCE, TWIN, Comparison, Ours, compare
from benchmarks.parity.report import page, summary
from benchmarks.parity.samples import FULL_IMAGES, FULL_PROMPTS, Samples, make_samples

ROOT = Path(__file__).parents[2]
SIZES = {"tiny": ("tiny",), "full": ("full",), "both": ("tiny", "full")}
PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "open_clip_torch",
    "pillow",
    "numpy",
    "ftfy",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare at the sizes asked for, write the results, and return 1 if anything is wrong."""
    chosen = _parse(arguments)
    print(f"seed {chosen.seed}", flush=True)
    results = {}
    for size in SIZES[chosen.size]:
        only = (FULL_IMAGES, FULL_PROMPTS) if size == "full" else None
        results[size] = run(chosen.official, chosen.work.resolve() / size, size, chosen.seed, only)
        print(f"\n{summary(results[size])}", flush=True)
    _write(chosen.out, results)
    problems = [problem for result in results.values() for problem in result["problems"]]
    for problem in problems:
        print(f"WRONG  {problem}", file=sys.stderr)
    return 1 if problems else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--official", type=Path, required=True, help="Python of the official environment")
    parser.add_argument("--size", choices=list(SIZES), default="both")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31), help="default: a new one")
    parser.add_argument("--out", type=Path, default=ROOT, help="where docs/ and benchmarks/ are written")
    parser.add_argument("--work", type=Path, default=ROOT / "tmp/parity", help="checkpoints and pictures")
    return parser.parse_args(arguments)


def run(
    official: Path,
    work: Path,
    size: str,
    seed: int,
    only: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
) -> dict[str, Any]:
    """Compare all rewards at one size, over all samples or these images and prompts; the result is ready for JSON."""
    samples = make_samples(work / "images", seed)
    if only:
        samples = samples.only(*only)
    comparisons, versions = [], {}
    apart = size == "full"  # a process for each network, so that one is in memory at a time
    with _pool(1 if apart else None) as pool:
        checkpoints = pool.submit(write_checkpoints, work / "checkpoints", size, seed).result()
        for names in [[name] for name in TOLERANCE] if apart else [list(TOLERANCE)]:
            answer = _ask(official, work, checkpoints, samples, names)
            versions = answer["versions"]
            for name in names:
                own = pool.submit(ours, name, checkpoints, samples).result()
                with np.load(work / "answer" / f"{name.replace('/', '-')}.npz") as pixels:
                    comparisons.append(compare(name, answer["rewards"][name], dict(pixels), own))
    return _result(size, seed, samples, comparisons, versions)


def _pool(tasks: int | None) -> ProcessPoolExecutor:
    """A process of our own side, which is replaced after so many tasks: memory is only then given back."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=tasks)


def _ask(
    official: Path, work: Path, checkpoints: Checkpoints, samples: Samples, names: Sequence[str]
) -> dict[str, Any]:
    """Let the official environment answer; its folder is `work/answer`."""
    twins = {f"{name}{TWIN}": path for name, path in samples.twins.items()}
    request = {
        "rewards": list(names),
        "images": {name: str(path) for name, path in (samples.images | twins).items()},
        "prompts": samples.prompts,
        "exact": True,
    }
    (work / "request.json").write_text(json.dumps(request), encoding="utf-8")
    command = [str(official.absolute()), "-m", "benchmarks.parity.answers"]
    command += [str(path) for path in (checkpoints.folder, work / "request.json", work / "answer")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # both sides on the CPU, in float32
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the official packages failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return json.loads((work / "answer/answer.json").read_text(encoding="utf-8"))


def ours(name: str, checkpoints: Checkpoints, samples: Samples) -> Ours:
    """The same questions to this project, on a user's path: official files in, `score` of encoded images out."""
    from tgo_pipeline.rewards import load_reward
    from tgo_pipeline.rewards.base import NetworkReward
    from tgo_pipeline.rewards.engine.images import to_rgb

    with _conversions(checkpoints.folder):
        reward = load_reward(name, str(checkpoints.source(name)), "cpu")
    if not isinstance(reward, NetworkReward):
        raise SystemExit(f"{name} is no network")
    pairs = [(image, prompt) for image in samples.images for prompt in samples.prompts]
    encoded = {image: path.read_bytes() for image, path in samples.images.items()}
    scores = reward.score(
        [encoded[image] for image, _ in pairs], [samples.prompts[prompt] for _, prompt in pairs]
    )
    prepared = {image: reward.prepare(to_rgb(Image.open(path))) for image, path in samples.images.items()}
    return Ours(
        dict(zip(pairs, scores.tolist(), strict=True)),
        {image: pixels.numpy() for image, pixels in prepared.items()},
        {name: reward.tokenize([text])[0].tolist() for name, text in samples.prompts.items()},
    )


@contextlib.contextmanager
def _conversions(folder: Path) -> Iterator[None]:
    """Keep converted weights, gigabytes that no other run can use, in `folder` and only while they are read."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        before = os.environ.get("TGO_CACHE")
        os.environ["TGO_CACHE"] = cache
        try:
            yield
        finally:
            os.environ.pop("TGO_CACHE")
            if before is not None:
                os.environ["TGO_CACHE"] = before


def _result(
    size: str, seed: int, samples: Samples, comparisons: Sequence[Comparison], official: dict[str, str]
) -> dict[str, Any]:
    return {
        "size": size,
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "images": len(samples.images),
        "prompts": len(samples.prompts),
        "official": official,
        "ours": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
        "rewards": [dataclasses.asdict(comparison) for comparison in comparisons],
        "problems": [problem for comparison in comparisons for problem in comparison.problems],
    }


def _write(out: Path, results: dict[str, Any]) -> None:
    """The JSON file and the page made of it; sizes that were not run stay as they were."""
    path = out / "benchmarks/parity.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content = {size: result for size in SIZES["both"] if (result := results.get(size) or before.get(size))}
    for file, text in (
        (path, json.dumps(content, indent=1) + "\n"),
        (out / "docs/PARITY.md", page(content)),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
