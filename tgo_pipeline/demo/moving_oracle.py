"""The true preference of the small world in motion, measured from the pixels of clips and the caption alone.

What each frame shows is judged as `oracle.py` judges images; how the object travels, by its centre in every frame. No
model is involved. The learnt reward learns from noisy choices that follow it; fine-tuning never sees it.
"""

from __future__ import annotations

import numpy as np

from tgo_pipeline.demo import moving, oracle, world

WEIGHTS = {
    "colour": 0.18,
    "background": 0.04,
    "shape": 0.18,
    "cleanness": 0.14,
    "contrast": 0.06,
    "direction": 0.28,
    "steadiness": 0.12,
}
OF_FRAMES = ("colour", "background", "shape", "cleanness", "contrast")
"""Parts of the oracle of images; of a clip, the mean over its frames."""

_TIMES = np.arange(moving.FRAMES) - (moving.FRAMES - 1) / 2


def moving_oracle(clips: np.ndarray, captions: list[str]) -> np.ndarray:
    """How well clips (N, 9, 32, 32, 3), uint8 or floats in [0, 1], show their captions: (N,) in [0, 1]."""
    measured = moving_parts(clips, captions)
    total = sum(weight * measured[name] for name, weight in WEIGHTS.items())
    return np.asarray(total) / sum(WEIGHTS.values())


def moving_parts(clips: np.ndarray, captions: list[str]) -> dict[str, np.ndarray]:
    """Each part of the oracle, (N,) in [0, 1]."""
    frames = _frames(clips, captions)
    scenes = [moving.parse(caption) for caption in captions]
    texts = [scene.frame.caption for scene in scenes for _ in range(moving.FRAMES)]
    of_frames = oracle.parts(frames, texts)
    means = {name: of_frames[name].reshape(len(scenes), -1).mean(1) for name in OF_FRAMES}
    objects = oracle.found(frames)
    path = objects.centre.reshape(len(scenes), moving.FRAMES, 2)
    visible = objects.visible.reshape(len(scenes), -1).min(1)
    amplitude = objects.amplitude.reshape(len(scenes), -1)
    way = np.array([moving.DIRECTIONS[scene.direction] for scene in scenes])
    return means | {
        "direction": visible * _follows(_velocity(path), way),
        "steadiness": visible * _is_straight(path) * _is_even(amplitude),
    }


def _frames(clips: np.ndarray, captions: list[str]) -> np.ndarray:
    """All frames of all clips, (N * 9, 32, 32, 3) floats in [0, 1]."""
    expected = (len(captions), moving.FRAMES, world.SIZE_PX, world.SIZE_PX, 3)
    if clips.shape != expected:
        raise ValueError(
            f"the oracle was given clips of shape {clips.shape} for {len(captions)} captions and knows only "
            f"{expected}: one RGB clip of {moving.FRAMES} frames for each caption."
        )
    frames = clips.reshape(-1, *expected[2:])
    return frames.astype(np.float32) / 255 if frames.dtype == np.uint8 else frames.astype(np.float32)


def _velocity(path: np.ndarray) -> np.ndarray:
    """Slope of the straight line through the centres, (N, 2) pixels a frame."""
    return np.einsum("t,ntc->nc", _TIMES, path) / np.square(_TIMES).sum()


def _follows(velocity: np.ndarray, way: np.ndarray) -> np.ndarray:
    """1 for the named direction at the usual speed; 0 for a clip that stands still or goes the other way, (N,)."""
    along = (velocity * way).sum(1) / moving.SPEED_PX
    across = np.linalg.norm(velocity - (velocity * way).sum(1)[:, None] * way, axis=1) / moving.SPEED_PX
    too_fast = np.maximum(along - 1, 0)
    return np.clip(along, 0, 1) * np.exp(-np.square(across / 0.5) - np.square(too_fast / 0.5))


def _is_straight(path: np.ndarray) -> np.ndarray:
    """How near the centres are to a point that travels evenly in a straight line, (N,)."""
    line = path.mean(1)[:, None] + _TIMES[:, None] * _velocity(path)[:, None]
    off = np.sqrt(np.square(path - line).sum(2).mean(1))
    return np.exp(-np.square(off / 1.5))


def _is_even(amplitude: np.ndarray) -> np.ndarray:
    """How little the contrast changes from frame to frame, against its mean, (N,)."""
    change = np.abs(np.diff(amplitude, axis=1)).mean(1) / np.maximum(amplitude.mean(1), 1e-3)
    return np.exp(-np.square(change / 0.2))
