"""Rewards of images as means over frames of clips, and what pixels alone say of motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.rewards.vision_language import tiny as instructed
from tests.rounding import SCORE, assert_same_numbers
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.video_files import even, lossless
from tgo_pipeline.params import ScoreParams
from tgo_pipeline.rewards import load_reward, score_all
from tgo_pipeline.rewards.engine.images import StoredClip
from tgo_pipeline.rewards.engine.scorer import Scorer
from tgo_pipeline.rewards.of_clips import FrameMean
from tgo_pipeline.rewards.specs import columns, resolve_all

PROMPTS = ["a red circle", "a blue square", "a red circle"]


def drift(frames: int = 9, side: int = 32, seed: int = 0) -> np.ndarray:
    """A bright square that moves to the right by two pixels a frame, on noise that stands still."""
    clip = np.repeat(
        np.random.default_rng(seed).integers(0, 60, (1, side, side, 3), dtype=np.uint8), frames, axis=0
    )
    for number, frame in enumerate(clip):
        frame[8:16, 2 * number : 2 * number + 8] = 200 + 10 * seed
    return clip


def measured(name: str, clip: np.ndarray) -> float:
    with Scorer({name: load_reward(name)}) as scorer:
        return float(scorer.score([StoredClip(lossless(clip, 16)[0])], [""]).columns[name][0])


def test_frames_lie_evenly_with_both_ends() -> None:
    assert even(81, 5).tolist() == [0, 20, 40, 60, 80]
    assert even(9, 1).tolist() == [4]
    assert even(2, 4).tolist() == [0, 0, 1, 1]


def test_the_mean_is_that_of_the_frames_scored_one_by_one() -> None:
    """A reward with prompts, one without, one of one's own: each as `score` gives it of the frames."""
    rewards = {name: load_reward(name, "demo") for name in ("pickscore", "aesthetic")}
    rewards["jpeg"] = load_reward("jpeg_kb")
    clips = [drift(seed=seed) for seed in range(3)]
    stored = [StoredClip(lossless(clip, 16)[0]) for clip in clips]
    means = {name: FrameMean(reward, 3) for name, reward in rewards.items()}
    with Scorer(means, batch_size=2, parts=True) as scorer:
        found = scorer.score(stored, PROMPTS)
    assert not found.errors
    frames = [Image.fromarray(clip[place]) for clip in clips for place in (0, 4, 8)]
    one_by_one = score_all(rewards, frames, [prompt for prompt in PROMPTS for _ in range(3)]).columns
    for name in rewards:
        scores = one_by_one[name].reshape(3, 3)
        assert_same_numbers(found.columns[name], scores.mean(1), SCORE)
        assert_same_numbers(found.columns[f"{name}.min"], scores.min(1), SCORE)
        assert_same_numbers(found.columns[f"{name}.last"], scores[:, 2], SCORE)


def test_every_number_of_a_reward_is_a_mean(tmp_path: Path) -> None:
    """HPSv3's mu and sigma, and the lowest and last of mu alone."""
    reward = load_reward("hpsv3", str(instructed.write_hpsv3(tmp_path)[0]))
    clips = [drift(side=56, seed=seed) for seed in range(2)]
    with Scorer({"hpsv3": FrameMean(reward, 3)}, parts=True) as scorer:
        found = scorer.score([StoredClip(lossless(clip, 16)[0]) for clip in clips], PROMPTS[:2])
    frames = [Image.fromarray(clip[place]) for clip in clips for place in (0, 4, 8)]
    alone = reward.score_parts(frames, [prompt for prompt in PROMPTS[:2] for _ in range(3)])
    mu, sigma = (alone[name].reshape(2, 3) for name in ("hpsv3", "hpsv3.sigma"))
    assert list(found.columns) == ["hpsv3", "hpsv3.sigma", "hpsv3.min", "hpsv3.last"]
    for name, expected in zip(found.columns, (mu.mean(1), sigma.mean(1), mu.min(1), mu[:, 2]), strict=True):
        assert_same_numbers(found.columns[name], expected, SCORE)


def test_parts_of_frames_are_columns_of_rewards_of_images_alone() -> None:
    wanted = columns(resolve_all({"hpsv3": None, "motion": None}), ["min", "last"])
    assert list(wanted) == ["hpsv3", "hpsv3.sigma", "hpsv3.min", "hpsv3.last", "motion"]
    assert list(columns(resolve_all({"hpsv3": None}))) == ["hpsv3", "hpsv3.sigma"]
    params = ScoreParams(rewards={"pickscore": "demo"}, frame_parts=["min"])
    assert params.columns == ["pickscore", "pickscore.min"]


def test_worker_processes_give_the_same(tmp_path: Path) -> None:
    reward = FrameMean(load_reward("pickscore", "demo"), 2)
    files = []
    for seed in range(3):
        files.append(tmp_path / f"{seed}.mp4")
        files[-1].write_bytes(lossless(drift(seed=seed), 16)[0])
    scores = []
    for workers in (0, 1):
        with Scorer({"r": reward}, workers=workers) as scorer:
            scores.append(scorer.score([StoredClip(file) for file in files], PROMPTS).columns["r"])
    assert np.array_equal(*scores)


def test_a_damaged_clip_costs_its_row() -> None:
    good = lossless(drift(), 16)[0]
    with Scorer({"r": FrameMean(load_reward("pickscore", "demo"), 2)}) as scorer:
        found = scorer.score([StoredClip(good), StoredClip(good[:400]), StoredClip(None)], PROMPTS)
    assert np.isnan(found.columns["r"]).tolist() == [False, True, True]
    assert list(found.errors) == [1, 2] and found.errors[2] == "no video bytes"


def test_motion_and_flicker_in_closed_form() -> None:
    still = np.repeat(drift(1), 5, axis=0)
    assert measured("motion", still) == measured("flicker", still) == 0
    fading = np.stack([np.full((16, 16, 3), 10 * number, np.uint8) for number in range(6)])
    assert measured("motion", fading) == pytest.approx(10, abs=1e-4)
    assert measured("flicker", fading) == pytest.approx(0, abs=1e-4)
    flickering = np.stack([np.full((16, 16, 3), 100 + 40 * (number % 2), np.uint8) for number in range(6)])
    assert measured("motion", flickering) == measured("flicker", flickering) == pytest.approx(40, abs=1e-4)


def test_noise_of_pixels_is_little_motion_and_much_flicker() -> None:
    noisy = np.random.default_rng(1).integers(100, 156, (8, 256, 256, 3), dtype=np.uint8)
    assert measured("flicker", noisy) > 4 * measured("motion", noisy) > 0
    assert measured("motion", drift()) > measured("motion", noisy)


def test_what_has_no_motion_has_no_number() -> None:
    for name, frames in (("motion", 1), ("flicker", 2)):
        with Scorer({name: load_reward(name)}) as scorer:
            found = scorer.score([StoredClip(lossless(drift(frames), 16)[0])], [""])
        assert found.errors == {0: f"{name} gave nan"}
        with pytest.raises(TgoError, match=f"reward {name} measures clips, and was given a still image"):
            load_reward(name).score([Image.new("RGB", (16, 16))], prompt="")
