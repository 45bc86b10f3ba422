"""Clips from files, bytes or arrays to the frames that a reward reads, resized; PyAV decodes (the extra `video`).

read_clip("walk.mp4", FrameSampling(fps=2.0))                # uint8 (T, 3, h, w)
read_clip(Clip(frames, rate=16), FrameSampling())            # frames: uint8 (T, H, W, 3)
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.formats.video_files import UnreadableVideo, opened, pixels, require_av, require_whole
from tgo_pipeline.rewards.engine.decode import UnreadableImage, check_size
from tgo_pipeline.rewards.vision_language.sizes import FACTOR, frame_indices, resized

LEAST_PIXELS = 128 * FACTOR * FACTOR
"""Frames of fewer pixels are enlarged."""


@dataclass(frozen=True)
class Clip:
    """Frames in memory, uint8: an array (T, H, W, 3) or a tensor (T, 3, H, W), and how many there are a second.

    The rate is part of the score: it says which frames are read.
    """

    frames: np.ndarray | Tensor
    rate: float


ClipInput = str | os.PathLike[str] | bytes | Clip


@dataclass(frozen=True)
class FrameSampling:
    """What is read of a clip: frames a second or in all, and the most pixels of a frame."""

    fps: float = 2.0
    frames: int | None = None
    max_pixels: int = 256 * FACTOR * FACTOR

    def __post_init__(self) -> None:
        if not self.fps > 0 or (self.frames is not None and self.frames < 2) or self.max_pixels < FACTOR**2:
            raise TgoError(
                f"{self} reads nothing: fps must be above 0, frames at least 2, max_pixels at least {FACTOR**2}."
            )


def check_clip(clip: ClipInput, row: int) -> None:
    """Raise `TgoError` if the `row`-th clip given is of a kind that holds no clip, such as a still image."""
    if isinstance(clip, (str, os.PathLike, bytes)):
        return
    if isinstance(clip, Image.Image):
        raise TgoError(f"clip {row} is a still image: this reward reads clips (a file, bytes, or Clip).")
    if isinstance(clip, (np.ndarray, Tensor)):
        raise TgoError(
            f"clip {row} is pixels without a rate, which is part of the score: give Clip(frames, rate)."
        )
    if not isinstance(clip, Clip):
        raise TgoError(
            f"clip {row} is a {type(clip).__name__}: give a file, its bytes, or Clip(frames, rate)."
        )
    shape, kind = tuple(clip.frames.shape), str(clip.frames.dtype).removeprefix("torch.")
    if kind != "uint8":
        raise TgoError(f"clip {row} has frames of {kind}: pixels must be uint8, 0 to 255.")
    if len(shape) != 4 or shape[1 if isinstance(clip.frames, Tensor) else 3] != 3 or 0 in shape:
        raise TgoError(
            f"clip {row} has frames of shape {shape}: arrays are (frames, height, width, 3), tensors "
            "(frames, 3, height, width)."
        )
    if not clip.rate > 0:
        raise TgoError(f"clip {row} has a rate of {clip.rate}: it must be above 0 frames a second.")


def read_clip(clip: ClipInput, sampling: FrameSampling) -> Tensor:
    """The frames that are read, resized: uint8 (T, 3, h, w), on the CPU.

    Raises `UnreadableImage` with the reason if the clip is damaged or has fewer than two frames.
    """
    if isinstance(clip, Clip):
        total = len(clip.frames)
        chosen = clip.frames[frame_indices(total, clip.rate, sampling.fps, sampling.frames)]
        images = chosen if isinstance(chosen, Tensor) else torch.from_numpy(chosen).permute(0, 3, 1, 2)
        return torch.stack([_resized(frame, sampling) for frame in images.cpu()])
    require_av()
    try:
        return _decoded(clip, sampling)
    except UnreadableImage:
        raise
    except UnreadableVideo as error:
        raise UnreadableImage(str(error)) from error
    except Exception as error:  # damaged bytes reach every decoder of FFmpeg
        raise UnreadableImage(f"{type(error).__name__}: {in_one_line(error)}") from error


def _decoded(clip: str | os.PathLike[str] | bytes, sampling: FrameSampling) -> Tensor:
    with opened(clip) as (container, stream):
        check_size(stream.width, stream.height)
        total = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)
        rate = stream.average_rate
    if not total or not rate:
        raise UnreadableImage("it has no frames")
    wanted = frame_indices(total, float(rate), sampling.fps, sampling.frames)
    frames: dict[int, Tensor] = {}
    seen = 0
    with opened(clip) as (container, stream):
        for frame in container.decode(stream):
            require_whole(frame, seen)
            if seen in wanted:
                shown = torch.from_numpy(pixels(frame, seen))
                frames[seen] = _resized(shown.permute(2, 0, 1), sampling)
            seen += 1
    if seen < total:
        raise UnreadableImage(f"only {seen} of its {total} frames can be decoded")
    return torch.stack([frames[index] for index in wanted])


def _resized(frame: Tensor, sampling: FrameSampling) -> Tensor:
    """(3, H, W) to (3, h, w); levels stay whole numbers.

    As the official code does by torchvision's older functions, which resize in floating point and round; its newer ones
    resize bytes as bytes and differ by a level here and there.
    """
    size = resized(frame.shape[-2], frame.shape[-1], LEAST_PIXELS, sampling.max_pixels)
    return F.resize(frame, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
