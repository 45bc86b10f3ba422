"""How different the images, or clips, of one prompt are: what strong guidance costs.

One shard of diversities belongs to one shard of generations, which keeps the images of a prompt together.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import Worker, execute, one_by_one, shares_folders
from tgo_pipeline.formats.limits import IMAGES
from tgo_pipeline.formats.video_files import UnreadableVideo, even, read_frames
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards import fingerprint
from tgo_pipeline.rewards.specs import Spec, canonical
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.storage.shards import Shard, Status, Stop, run_shards
from tgo_pipeline.storage.tables import sample_column, with_features
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from tgo_pipeline.rewards.networks.clip_models import ClipReward

VERSION = 1
FRAMES = 8
"""Of a clip, as many frames as are compared: by default as many as rewards of images score."""
Decoded = Callable[["bytes | None"], "list[Image]"]
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


def plan_diversity(
    generations: Path, plan: Sequence[Shard], clip: Spec | None, frames: int = FRAMES
) -> list[Shard]:
    """The shards that `diversity_folder` writes for `plan`, the shards of `generations`; loads no model."""
    tower = fingerprint(clip) if clip is not None else None

    def planned(shard: Shard) -> Shard:
        path = generations / shard.name
        there = path.is_file()
        of_clips = {"frames": frames} if there and sample_column(path) == "video" else {}
        content = {"generations": shard.fingerprint, "clip": tower, **of_clips, **IMAGES.identity}
        inputs = digests.of(path) if there else None
        fingerprint = fingerprint_of(version=VERSION, **content)
        return Shard(shard.split, shard.index, shard.count, fingerprint, inputs=inputs)

    return [planned(shard) for shard in plan]


def diversity_folder(
    generations: Path,
    folder: Path,
    plan: Sequence[Shard],
    clip: Spec | None,
    runtime: RuntimeParams,
    frames: int = FRAMES,
) -> Status:
    """Bring `folder` up to date: for each prompt of the generation shards `plan`, its images' mean distance.

    `pixel_distance` is the root mean square difference of two images in [0, 1], `clip_distance` 1 - cosine of their
    embeddings by the image tower of `clip` (null without one). Both are means over the n (n - 1) / 2 pairs of a prompt,
    and null for a prompt with less than two images that can be decoded (`n`). Of clips both are of `frames` frames,
    evenly from the first to the last: the difference of all their pixels, and the mean over places of the distance of
    the frames there. Raises `TgoError` for a prompt with a single image.
    """
    shards = plan_diversity(generations, plan, clip, frames)

    def work(waiting: Sequence[Shard], stop: Stop) -> None:
        execute(waiting, stop, functools.partial(_make_worker, generations, folder, clip, frames), runtime)

    return run_shards(folder, shards, work, together=shares_folders(runtime))


def _make_worker(
    generations: Path, folder: Path, clip: Spec | None, frames: int, runtime: RuntimeParams
) -> Worker:
    from tgo_pipeline.executors.runtime import prepare_torch
    from tgo_pipeline.rewards import load_reward

    device = prepare_torch(runtime)
    tower: Any = load_reward(clip, None, device) if clip is not None else None

    def write(shard: Shard) -> None:
        from tgo_pipeline.storage.tables import write_table

        path = generations / shard.name
        decoded = _frames_of(frames) if sample_column(path) == "video" else _image_of
        rows = [_measure(name, stored, decoded, tower) for name, stored in _stored(path)]
        with atomic(folder / shard.name) as temporary:
            write_table(pa.Table.from_pylist(rows, schema=DIVERSITY), temporary, shard.mark.entries())

    return one_by_one(write)


def _stored(path: Path) -> Iterator[tuple[str, list[bytes | None]]]:
    """Each prompt of a shard with the bytes of its images or clips; one prompt is in memory at a time."""
    from tgo_pipeline.storage.tables import stream_rows

    column = sample_column(path)
    rows = stream_rows(path, ["prompt_id", column], 1)
    for name, group in itertools.groupby(rows, key=lambda row: row["prompt_id"]):
        yield name, [row[column] and row[column]["bytes"] for row in group]


def _measure(
    name: str, stored: Sequence[bytes | None], decoded: Decoded, clip: ClipReward | None
) -> dict[str, Any]:
    if len(stored) < 2:
        raise TgoError(f"prompt {name} has {len(stored)} image: diversity needs at least 2 of each prompt.")
    samples = [frames for data in stored if (frames := decoded(data))]
    if len(samples) < 2:
        return {"prompt_id": name, "n": len(samples), PIXELS: None, CLIP: None}
    return {
        "prompt_id": name,
        "n": len(samples),
        PIXELS: pixel_distance([np.stack([np.asarray(frame) for frame in frames]) for frames in samples]),
        CLIP: None if clip is None else _clip_distance(clip, samples),
    }


def _image_of(data: bytes | None) -> list[Image]:
    """An image as its only frame; nothing of one that cannot be decoded, and scoring says why."""
    from tgo_pipeline.rewards.engine.decode import UnreadableImage, decode

    with contextlib.suppress(UnreadableImage):
        return [decode(data)]
    return []


def _frames_of(count: int) -> Decoded:
    """Reads so many frames of a clip; nothing of one that cannot be decoded."""
    from PIL.Image import fromarray

    def decoded(data: bytes | None) -> list[Image]:
        with contextlib.suppress(UnreadableVideo):
            frames, _ = read_frames(data)
            return [fromarray(frame) for frame in frames[even(len(frames), count)]]
        return []

    return decoded


def _clip_distance(clip: ClipReward, samples: Sequence[Sequence[Image]]) -> float:
    """Mean over the places of frames of the distance between the samples' frames there."""
    return float(np.mean([embedding_distance(_embed(clip, there)) for there in zip(*samples, strict=True)]))


def _embed(clip: ClipReward, images: Sequence[Image]) -> torch.Tensor:
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


def pixel_distance(images: Sequence[Image | np.ndarray]) -> float:
    """Mean root mean square difference over all pairs of images (or arrays of levels) of one size, in [0, 1]."""
    arrays = [np.asarray(image, np.float32) / 255 for image in images]
    distances = [
        float(np.sqrt(np.mean(np.square(one - other), dtype=np.float64)))
        for one, other in itertools.combinations(arrays, 2)
    ]
    return float(np.mean(distances))
