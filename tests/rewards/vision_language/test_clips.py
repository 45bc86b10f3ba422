"""Clips as files, bytes and arrays; what is refused, and what costs its rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.rewards.tiny import png, smooth_image
from tests.rewards.vision_language import tiny
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import load_reward, score_all
from tgo_pipeline.rewards.engine.decode import UnreadableImage
from tgo_pipeline.rewards.vision_language.clips import Clip, FrameSampling, read_clip
from tgo_pipeline.rewards.vision_language.videoreward import VideoReward


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> VideoReward:
    folder = tmp_path_factory.mktemp("videoreward")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TGO_CACHE", str(folder / "cache"))
        made = load_reward(
            "videoreward", str(tiny.write_videoreward(folder, tiny.videoreward_states()[1], lora=True))
        )
    assert isinstance(made, VideoReward)
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    path = tmp_path_factory.mktemp("clips") / "square.mp4"
    path.write_bytes(tiny.mp4(tiny.frames()))
    return path


def test_every_form_of_a_clip_is_the_same_clip(file: Path, reward: VideoReward) -> None:
    frames = tiny.frames()
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    clips = [str(file), file, file.read_bytes(), Clip(frames, 8), Clip(tensor, 8.0)]
    for clip in clips:
        assert torch.equal(read_clip(clip, FrameSampling()), read_clip(clips[0], FrameSampling()))
    scores = reward.score(clips, prompt="a square")
    np.testing.assert_allclose(scores, scores[0], rtol=0, atol=1e-5)
    assert reward.score([], []).shape == (0,)


def test_the_rate_is_part_of_the_score(reward: VideoReward) -> None:
    frames = tiny.frames(33)
    slow, fast = reward.score([Clip(frames, 8), Clip(frames, 32)], prompt="a square")
    assert abs(slow - fast) > 1e-3


def test_clips_that_cannot_be_read_cost_their_rows(file: Path, reward: VideoReward, tmp_path: Path) -> None:
    whole = file.read_bytes()
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{file}\n#EXT-X-ENDLIST\n")
    clips: list[Any] = [
        file,
        whole[: len(whole) // 2],
        b"no clip at all",
        b"",
        tmp_path / "nowhere.mp4",
        tmp_path,
        "http://localhost/clip.mp4",
        tmp_path / "list.mp4",
        png(smooth_image(40, 40)),
        Clip(tiny.frames(1), 8),
        Clip(tiny.frames(4, 2, 900), 8),
        file,
    ]
    found = reward.score_clips(clips, prompt="a square")
    assert sorted(found.errors) == list(range(1, 11))
    assert "no such file" in found.errors[4] and "no such file" in found.errors[6]
    assert "a still image" in found.errors[8] and "a still image" in found.errors[9]
    assert "450 times as long as wide" in found.errors[10]
    assert all("\n" not in reason for reason in found.errors.values())
    for column in found.columns.values():
        assert np.isnan(column[1:11]).all() and column[0] == column[11]
    with pytest.raises(TgoError, match="clip 1 of 12 cannot be scored: "):
        reward.score(clips, prompt="a square")


def test_a_damaged_middle_is_noticed(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    start = whole.index(b"mdat") + 4
    whole[start : start + 400] = bytes(400)
    with pytest.raises(UnreadableImage):
        read_clip(bytes(whole), FrameSampling())


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (smooth_image(40, 40), "clip 0 is a still image"),
        (tiny.frames(), r"pixels without a rate.*Clip\(frames, rate\)"),
        (3, "is a int"),
        (Clip(tiny.frames().astype(np.float32), 8), "frames of float32"),
        (Clip(tiny.frames()[0], 8), r"frames of shape \(48, 64, 3\)"),
        (Clip(torch.from_numpy(tiny.frames()), 8), "tensors"),
        (Clip(tiny.frames(), 0), "rate of 0"),
    ],
)
def test_what_holds_no_clip_is_refused(clip: Any, reason: str, reward: VideoReward) -> None:
    with pytest.raises(TgoError, match=reason):
        reward.score([clip], ["a square"])


def test_still_images_are_refused_where_images_are_scored(reward: VideoReward) -> None:
    with pytest.raises(TgoError, match="scores clips, and was given still images"):
        score_all({"v": reward}, [smooth_image(40, 40)], prompt="a square")


def test_numbers_that_differ(reward: VideoReward) -> None:
    with pytest.raises(TgoError, match="1 clips and 2 prompts"):
        reward.score([Clip(tiny.frames(), 8)], ["a", "b"])
    with pytest.raises(TgoError, match="no prompts"):
        reward.score([Clip(tiny.frames(), 8)])
    with pytest.raises(TgoError, match="reads nothing"):
        FrameSampling(fps=0)


def test_rows_of_one_clip_share_what_they_begin_with(
    reward: VideoReward, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, prompts = Clip(tiny.frames(), 8), ["a fox", "a fox in the snow", "", "a square that moves"]
    alone = [reward.score_parts([clip], [prompt]) for prompt in prompts]
    read = []
    original = reward.network._hidden
    monkeypatch.setattr(
        reward.network,
        "_hidden",
        lambda embedded, *cache: (read.append(embedded.shape), original(embedded, *cache))[1],
    )
    together = reward.score_parts([clip] * 4, prompts)
    for column, values in together.items():
        np.testing.assert_allclose(values, [each[column][0] for each in alone], rtol=0, atol=2e-5)
    tokens = sum(rows * length for rows, length, _ in read)
    whole = 4 * (len(reward.chat.head) + 280 + len(reward.chat.tail("")))
    assert tokens < 0.4 * whole, "the clip was read more than once"


def test_parts_fit_the_budget() -> None:
    from tgo_pipeline.rewards.vision_language.qwen2_vl import _parts

    sizes = [5, 90, 7, 40, 6, 300]
    for padded in (False, True):
        parts = list(_parts(sizes, 100, padded=padded))
        assert sorted(index for part in parts for index in part) == list(range(6))
        for part in parts:
            held = [sizes[index] for index in part]
            assert len(part) == 1 or (len(part) * max(held) if padded else sum(held)) <= 100
    assert len(list(_parts(sizes, 100, padded=True))) == 4


def test_memory_that_runs_out_halves_the_clips(reward: VideoReward, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [Clip(tiny.frames(5 + n), 8) for n in range(4)]
    wanted = reward.score(clips, prompt="a square")
    original = reward.encode_images

    def short(pixels: Any) -> Any:
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return original(pixels)

    monkeypatch.setattr(reward, "encode_images", short)
    found = reward.score(clips, prompt="a square", batch_size=4)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
