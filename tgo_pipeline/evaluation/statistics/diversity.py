"""How different the images of one prompt are: what strong guidance costs.

One shard of diversities belongs to one shard of generations, which keeps the images of a prompt together.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import Worker, execute, one_by_one, shares_folders
from tgo_pipeline.formats.limits import IMAGES
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards import fingerprint
from tgo_pipeline.rewards.specs import Spec, canonical
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.storage.shards import Shard, Status, Stop, run_shards
from tgo_pipeline.storage.tables import with_features
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from tgo_pipeline.rewards.networks.clip_models import ClipReward

VERSION = 1
PIXELS, CLIP = "pixel_distance", "clip_distance"
CLIP_REWARD = "clip/openai-l14"
DIVERSITY = with_features(
    pa.schema(
        [
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("n", pa.int64(), nullable=False),
            pa.field(PIXELS, pa.float64()),
            pa.field(CLIP, pa.float64()),
        ]
    )
)


def clip_spec(rewards: Sequence[Spec]) -> Spec | None:
    """The CLIP score among the rewards, whose image tower tells images apart; None if it is not there."""
    return next((spec for spec in rewards if canonical(spec.reward) == CLIP_REWARD), None)


def plan_diversity(generations: Path, plan: Sequence[Shard], clip: Spec | None) -> list[Shard]:
    """The shards that `diversity_folder` writes for `plan`, the shards of `generations`; loads no model."""
    tower = fingerprint(clip) if clip is not None else None
    return [
        Shard(
            shard.split,
            shard.index,
            shard.count,
            fingerprint_of(version=VERSION, generations=shard.fingerprint, clip=tower, **IMAGES.identity),
            inputs=digests.of(path) if (path := generations / shard.name).is_file() else None,
        )
        for shard in plan
    ]


def diversity_folder(
    generations: Path, folder: Path, plan: Sequence[Shard], clip: Spec | None, runtime: RuntimeParams
) -> Status:
    """Bring `folder` up to date: for each prompt of the generation shards `plan`, its images' mean distance.

    `pixel_distance` is the root mean square difference of two images in [0, 1], `clip_distance` 1 - cosine of their
    embeddings by the image tower of `clip` (null without one). Both are means over the n (n - 1) / 2 pairs of a prompt,
    and null for a prompt with less than two images that can be decoded (`n`). Raises `TgoError` for a prompt with a
    single image.
    """
    shards = plan_diversity(generations, plan, clip)

    def work(waiting: Sequence[Shard], stop: Stop) -> None:
        execute(waiting, stop, functools.partial(_make_worker, generations, folder, clip), runtime)

    return run_shards(folder, shards, work, together=shares_folders(runtime))


def _make_worker(generations: Path, folder: Path, clip: Spec | None, runtime: RuntimeParams) -> Worker:
    from tgo_pipeline.executors.runtime import prepare_torch
    from tgo_pipeline.rewards import load_reward

    device = prepare_torch(runtime)
    tower: Any = load_reward(clip, None, device) if clip is not None else None

    def write(shard: Shard) -> None:
        from tgo_pipeline.storage.tables import write_table

        rows = [_measure(name, images, tower) for name, images in _stored_images(generations / shard.name)]
        with atomic(folder / shard.name) as temporary:
            write_table(pa.Table.from_pylist(rows, schema=DIVERSITY), temporary, shard.mark.entries())

    return one_by_one(write)


def _stored_images(path: Path) -> Iterator[tuple[str, list[bytes | None]]]:
    """Each prompt of a shard with the bytes of its images (of clips: the middle frames); one is in memory at a time."""
    from tgo_pipeline.formats.video_files import still
    from tgo_pipeline.storage.tables import sample_column, stream_rows

    column = sample_column(path)
    rows = stream_rows(path, ["prompt_id", column], 1)
    for name, group in itertools.groupby(rows, key=lambda row: row["prompt_id"]):
        stored = [row[column] and row[column]["bytes"] for row in group]
        yield name, stored if column == "image" else list(map(still, stored))


def _measure(name: str, stored: Sequence[bytes | None], clip: ClipReward | None) -> dict[str, Any]:
    if len(stored) < 2:
        raise TgoError(f"prompt {name} has {len(stored)} image: diversity needs at least 2 of each prompt.")
    images = _decoded(stored)
    if len(images) < 2:
        return {"prompt_id": name, "n": len(images), PIXELS: None, CLIP: None}
    return {
        "prompt_id": name,
        "n": len(images),
        PIXELS: pixel_distance(images),
        CLIP: None if clip is None else embedding_distance(_embed(clip, images)),
    }


def _decoded(stored: Sequence[bytes | None]) -> list[Image]:
    """The images that can be decoded; scoring says of the others why they cannot."""
    from tgo_pipeline.rewards.engine.decode import UnreadableImage, decode

    images = []
    for data in stored:
        with contextlib.suppress(UnreadableImage):
            images.append(decode(data))
    return images


def _embed(clip: ClipReward, images: list[Image]) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        pixels = torch.stack([clip.prepare(image) for image in images]).to(clip.device)
        return clip.encode_images(pixels).double().cpu()


def embedding_distance(embeddings: torch.Tensor) -> float:
    """Mean of 1 - cosine over all pairs of rows of (N, D)."""
    from torch.nn.functional import normalize

    total = normalize(embeddings.double(), dim=-1).sum(0).square().sum().item()
    n = len(embeddings)
    return 1 - (total - n) / (n * (n - 1))  # |sum e_i|^2 = n + sum of the cosines of ordered pairs


def pixel_distance(images: Sequence[Image]) -> float:
    """Mean root mean square difference over all pairs of images of one size, in [0, 1]."""
    arrays = [np.asarray(image, np.float32) / 255 for image in images]
    distances = [
        float(np.sqrt(np.mean(np.square(one - other), dtype=np.float64)))
        for one, other in itertools.combinations(arrays, 2)
    ]
    return float(np.mean(distances))
