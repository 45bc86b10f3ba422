"""Both sides of the comparison, asked the same questions: the official packages and this project.

Not in `__main__`: a process that is started again (spawn) does not import the `__main__` of a package again,
and would not find a function of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.parity.checkpoints import Checkpoints, write_checkpoints
from benchmarks.parity.compare import TOLERANCE, TWIN, Comparison, Ours, compare
from benchmarks.parity.samples import Samples, make_samples
from tgo_pipeline.devices import cores

ROOT = Path(__file__).parents[2]
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
    """A process of our own side, which is replaced after so many tasks: memory is returned only then."""
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
    from tgo_pipeline.rewards.engine.decode import to_rgb

    with _conversions(checkpoints.folder):
        reward = load_reward(name, str(checkpoints.source(name)), "cpu")
    if not isinstance(reward, NetworkReward):
        raise SystemExit(f"{name} is not a network")
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
        "machine": f"{platform.system()} {platform.machine()}, {cores()} cores",
        "images": len(samples.images),
        "prompts": len(samples.prompts),
        "official": official,
        "ours": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
        "rewards": [dataclasses.asdict(comparison) for comparison in comparisons],
        "problems": [problem for comparison in comparisons for problem in comparison.problems],
    }
