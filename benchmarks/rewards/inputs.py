"""What the reward benchmarks score: images like a generator's, prompts like people's, in shards."""

from __future__ import annotations

import importlib.util
import io
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.rewards.packages.task import write_shard

SUBJECTS = (
    "an astronaut riding a horse",
    "a cosy reading nook beside a rain-streaked window",
    "portrait of an old fisherman with a weathered face",
    "a red fox in fresh snow",
    "a bowl of ramen with a soft-boiled egg",
    "the skyline of a city at dusk, seen from a ferry",
)
STYLES = (
    "oil on canvas",
    "35mm photograph",
    "anime key visual",
    "watercolour",
    "concept art",
    "studio light",
)
DETAILS = ("highly detailed", "soft focus", "golden hour", "muted colours", "wide angle", "symmetrical", "8k")


def random_image(index: int, pixels: int = 512) -> Image.Image:
    """A smooth image with fine noise, different for every index; its PNG is about as large as a photograph's."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[:pixels, :pixels] / pixels
    frequency, phase = rng.uniform(2, 12, (3, 2)), rng.uniform(0, 6, (3, 2))
    waves = [
        np.sin(f[0] * x * 6 + p[0]) + np.cos(f[1] * y * 6 + p[1])
        for f, p in zip(frequency, phase, strict=True)
    ]
    noisy = np.stack(waves, -1) * 60 + 128 + rng.normal(0, 3, (pixels, pixels, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def png(index: int, pixels: int = 512) -> bytes:
    """`random_image` as PNG."""
    stream = io.BytesIO()
    random_image(index, pixels).save(stream, "PNG")
    return stream.getvalue()


def prompts(seed: int = 0) -> Iterator[str]:
    """Endless prompts of one subject, one style and up to all details: about 10 to 40 tokens."""
    rng = random.Random(seed)
    number = 0
    while True:
        number += 1
        details = rng.sample(DETAILS, rng.randint(0, len(DETAILS)))
        yield ", ".join([f"{rng.choice(SUBJECTS)} number {number}", rng.choice(STYLES), *details])


def captions(images: int, per_prompt: int) -> list[str]:
    """The prompt of each image, `per_prompt` images after one another to a prompt."""
    texts = list(itertools.islice(prompts(), -(-images // per_prompt)))
    return [texts[row // per_prompt] for row in range(images)]


def write_shards(folder: Path, images: int, per_prompt: int, shards: int, pixels: int = 512) -> list[Path]:
    """`images` images with `per_prompt` of them to a prompt, over `shards` files: Parquet, or npz without pyarrow."""
    ending = "parquet" if importlib.util.find_spec("pyarrow") else "npz"
    rows = captions(images, per_prompt)
    paths = []
    for index, part in enumerate(np.array_split(np.arange(images), shards)):
        path = folder / f"benchmark-{index:05d}-of-{shards:05d}.{ending}"
        write_shard(path, [png(int(row), pixels) for row in part], [rows[row] for row in part])
        paths.append(path)
    return paths
