"""Captions, clips and the oracle of the small world in motion, measured on drawings whose faults are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tgo_pipeline import demo
from tgo_pipeline.demo import moving, world
from tgo_pipeline.demo.moving_oracle import WEIGHTS, moving_oracle, moving_parts
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.video_files import lossless
from tgo_pipeline.inputs.demanded import require_known_captions
from tgo_pipeline.params import Params, parse
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.engine.images import StoredClip
from tgo_pipeline.rewards.engine.scorer import Scorer

CAPTIONS = list(moving.captions())
NONE = moving.ClipNuisances().scaled(0.0)


def drawn(**faults: float) -> np.ndarray:
    """A clip of each caption with nuisances of these frequencies, and no others."""
    scenes = [moving.parse(caption) for caption in CAPTIONS]
    return moving.draw(scenes, replace(NONE, **faults), np.random.default_rng(0))


def test_every_caption_is_read_back_and_in_one_split() -> None:
    splits = [moving.captions(split) for split in world.SPLITS]
    assert sorted(text for split in splits for text in split) == sorted(CAPTIONS)
    assert [len(split) for split in splits] == [88, 24, 48]
    assert all(moving.parse(text).caption == text for text in CAPTIONS)
    assert demo.prompts("moving") == list(moving.captions("test"))
    with pytest.raises(ValueError, match="cannot read the caption 'a red circle on a white background'"):
        moving.parse("a red circle on a white background")


def test_clips_depend_on_the_seed_alone() -> None:
    first = moving.clips(CAPTIONS[:8], seed=3)
    assert first.shape == (8, 9, 32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, moving.clips(CAPTIONS[:8], seed=3))
    assert not np.array_equal(first, moving.clips(CAPTIONS[:8], seed=4))


def test_a_shape_travels_where_its_caption_says() -> None:
    caption = "a red circle on a white background, moving down"
    (clip,) = moving.clips([caption], seed=0, strength=0.0)
    rows = [np.flatnonzero((frame[..., 2] < 100).any(axis=1)).mean() for frame in clip]
    assert np.diff(rows).mean() == pytest.approx(moving.SPEED_PX, rel=0.15)


def test_a_perfect_clip_scores_near_one() -> None:
    scores = moving_oracle(drawn(), CAPTIONS)
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)
    assert scores.min() > 0.95


@pytest.mark.parametrize(
    ("fault", "part", "most"),
    [
        ("wrong_colour", "colour", 0.35),
        ("wrong_shape", "shape", 0.75),
        ("wrong_direction", "direction", 0.05),
        ("still", "direction", 0.05),
        ("flickering", "steadiness", 0.5),
        ("noisy", "cleanness", 0.6),
    ],
)
def test_a_fault_costs_the_part_that_is_about_it(fault: str, part: str, most: float) -> None:
    measured = moving_parts(drawn(**{fault: 1.0}), CAPTIONS)
    assert measured[part].mean() < most
    assert all(((values >= 0) & (values <= 1)).all() for values in measured.values())
    assert (
        moving_oracle(drawn(**{fault: 1.0}), CAPTIONS).mean() < moving_oracle(drawn(), CAPTIONS).mean() - 0.02
    )


def test_a_still_clip_does_not_win() -> None:
    """What all frames show may be perfect: without motion it is worth less than noise on a clip that moves."""
    assert moving_oracle(drawn(still=1.0), CAPTIONS).mean() < moving_oracle(drawn(noisy=1.0), CAPTIONS).mean()


def test_an_empty_clip_earns_nothing_for_shape_or_direction() -> None:
    grey = np.full((1, 9, 32, 32, 3), 128, np.uint8)
    measured = moving_parts(grey, CAPTIONS[:1])
    assert measured["shape"] == measured["direction"] == measured["colour"] == 0


def test_another_shape_of_the_array_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 8, 32, 32, 3\) for 1 captions"):
        moving_oracle(np.zeros((1, 8, 32, 32, 3), np.uint8), CAPTIONS[:1])


def scored(name: str, clips: np.ndarray, prompts: list[str]) -> np.ndarray:
    with Scorer({name: load_reward(name, "demo")}) as scorer:
        found = scorer.score([StoredClip(lossless(clip, 8)[0]) for clip in clips], prompts)
    assert not found.errors, found.errors
    return found.columns[name]


def test_the_reward_is_the_oracle_of_stored_clips() -> None:
    clips = moving.clips(CAPTIONS[:4], seed=1)
    expected = moving_oracle(clips, CAPTIONS[:4])
    assert scored("moving_oracle", clips, CAPTIONS[:4]) == pytest.approx(expected, abs=1e-6)


def test_the_learnt_reward_tells_good_clips_from_spoilt_ones() -> None:
    """Between two clips of a caption, it chooses the better one far more often than by chance."""
    captions = list(moving.captions("test")) * 2
    pairs = [moving.clips(captions, seed) for seed in (11, 12)]
    better = np.sign(np.subtract(*(moving_oracle(clips, captions) for clips in pairs)))
    chosen = np.sign(np.subtract(*(scored("moving_choice", clips, captions) for clips in pairs)))
    assert (better == chosen).mean() > 0.75


def test_the_learnt_reward_sees_motion() -> None:
    captions = list(moving.captions("test"))
    clips = moving.clips(captions, seed=13, strength=0.0)
    forward, backward = (scored("moving_choice", each, captions) for each in (clips, clips[:, ::-1]))
    assert (forward > backward).mean() > 0.8
    still = np.repeat(clips[:, 4:5], 9, axis=1)
    assert (forward > scored("moving_choice", still, captions)).mean() > 0.8


def test_clips_of_other_sizes_and_unknown_captions_are_refused() -> None:
    from tgo_pipeline.rewards.vision_language.clips import Clip

    reward = load_reward("moving_oracle")
    with pytest.raises(TgoError, match="9 frames of 32 x 32, and was given 5 of 16 x 16"):
        reward.preprocessing(Clip(np.zeros((5, 16, 16, 3), np.uint8), 8.0))  # type: ignore[arg-type]
    with pytest.raises(TgoError, match="cannot read the caption 'a dog'"):
        reward.encode_prompts(["a dog"])
    with pytest.raises(TgoError, match="no official files"):
        load_reward("moving_choice")


def test_words_that_it_does_not_know_are_nothing_to_the_learnt_reward() -> None:
    reward = load_reward("moving_choice", "demo")
    with torch.no_grad():
        assert torch.equal(*(reward.encode_prompts([text]) for text in ("a dog", "a very big dog")))


def params(**sections: object) -> Params:
    given = {
        "model": "demo-video",
        "prompts": {"train": "demo:moving-train", "test": {"moving": "demo:moving"}},
        "generate": {"width": 32, "height": 32, "frames": 9},
        "score": {"rewards": {"moving_choice": "demo"}},
        "target": {"reward": "moving_choice"},
        "evaluate": {"rewards": {"moving_oracle": "demo"}},
    }
    return parse(Params, {**given, **sections})


def test_what_the_model_of_clips_cannot_draw_and_the_oracle_cannot_judge_is_refused_at_once() -> None:
    require_known_captions(params())
    with pytest.raises(
        TgoError, match=r"32 x 32 pixels and 9 frames.*None, None, None: .*--recipe demo-video"
    ):
        require_known_captions(params(generate={}))
    images = {"train": "demo:train", "test": {"plain": "demo:plain"}}
    with pytest.raises(
        TgoError, match=r"reward moving_oracle .* prompts\.test\.plain is demo:plain, with .*demo:moving"
    ):
        require_known_captions(params(prompts=images))
    with pytest.raises(TgoError, match=r"reward oracle .* demo:moving, with .*demo:plain"):
        require_known_captions(params(evaluate={"rewards": {"oracle": "demo"}}))
