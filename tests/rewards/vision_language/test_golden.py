"""Scores, token ids, frames and pixels against those that the official code gave for the same weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.rewards.vision_language import golden
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.engine.decode import UnreadableImage
from tgo_pipeline.rewards.vision_language import qwen2_vl
from tgo_pipeline.rewards.vision_language.clips import FrameSampling, read_clip
from tgo_pipeline.rewards.vision_language.hpsv3 import HPSv3, WholeImage
from tgo_pipeline.rewards.vision_language.sizes import frame_indices, resized
from tgo_pipeline.rewards.vision_language.videoreward import VideoReward

pytestmark = golden.needed
IMAGES = ("land640x360", "port300x700", "grey333x222", "tiny48x32", "large1600x1200")
CLIPS = ("land320x192", "tiny64x48", "port360x640")
PROMPTS = ("short", "empty", "long", "unicode")
TOLERANCE, OF_SUM = 1e-5, 3e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("golden")
    golden.write_hpsv3(place / "hpsv3")
    golden.write_videoreward(place / "plain", "plain")
    golden.write_videoreward(place / "peft", "peft")
    return place


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TGO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def hpsv3(folder: Path) -> HPSv3:
    reward = load_reward("hpsv3", str(folder / "hpsv3"))
    assert isinstance(reward, HPSv3)
    return reward


@pytest.fixture(scope="module", params=["plain", "peft"])
def videoreward(folder: Path, request: pytest.FixtureRequest) -> tuple[str, VideoReward]:
    reward = load_reward("videoreward", str(folder / request.param))
    assert isinstance(reward, VideoReward)
    return request.param, reward


def prompt(name: str) -> str:
    return golden.golden()["prompts"][name]


def pairs(names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, each) for name in names for each in PROMPTS]


def check_hpsv3(hpsv3: HPSv3, names: tuple[str, ...], batch_size: int | None = None) -> None:
    """Mu and sigma of all prompts are the official ones."""
    recorded = golden.golden()["hpsv3"]["scores"]
    images, prompts = zip(*[(golden.image(name), prompt(each)) for name, each in pairs(names)], strict=True)
    found = hpsv3.score_parts(images, prompts, batch_size=batch_size)
    for column, key in (("hpsv3", "mu"), ("hpsv3.sigma", "sigma")):
        wanted = [recorded[name][each][key] for name, each in pairs(names)]
        np.testing.assert_allclose(found[column], wanted, rtol=0, atol=TOLERANCE)


def test_hpsv3_is_the_official_one(hpsv3: HPSv3) -> None:
    check_hpsv3(hpsv3, IMAGES)


class Positioned(torch.nn.Module):
    """A text network that gets 3-D positions of an image or clip, `grid` in tokens, instead of sequential ones.

    That is what a port gets which calls `Qwen2VLModel` of transformers 5.
    """

    def __init__(self, inner: Any, head: tuple[int, ...], grid: tuple[int, int, int]) -> None:
        super().__init__()
        self.inner, self.start, self.grid = inner, len(head), grid
        self.embed_tokens, self.norm, self.layers = inner.embed_tokens, inner.norm, inner.layers

    def forward(self, inputs_embeds: torch.Tensor, **others: Any) -> Any:
        before = torch.arange(self.start).expand(3, -1)
        seen = (
            torch.stack(torch.meshgrid(*map(torch.arange, self.grid), indexing="ij")).flatten(1) + self.start
        )
        rest = torch.arange(inputs_embeds.shape[1] - self.start - seen.shape[1]) + seen.max() + 1
        positions = torch.cat([before, seen, rest.expand(3, -1)], 1)[:, None]
        return self.inner(
            inputs_embeds=inputs_embeds, position_ids=positions.expand(-1, len(inputs_embeds), -1)
        )


def test_hpsv3_with_three_dimensional_positions_is_not(hpsv3: HPSv3, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same comparison fails, by what the record says that these positions give."""
    wrong = golden.golden()["hpsv3"]["wrong_on_purpose"]
    check_hpsv3(hpsv3, (wrong["image"],), batch_size=1)
    language = Positioned(hpsv3.network.language, hpsv3.chat.head, (1, 12, 21))
    monkeypatch.setitem(hpsv3.network._modules, "language", language)
    with pytest.raises(AssertionError, match="Mismatched"):
        check_hpsv3(hpsv3, (wrong["image"],), batch_size=1)
    found = hpsv3.score([golden.image(wrong["image"])], [prompt(wrong["prompt"])])
    assert found[0] == pytest.approx(wrong["mrope_3d_positions"][0], abs=TOLERANCE)


def test_edges_of_hpsv3(hpsv3: HPSv3) -> None:
    """Transparent images become white here, as for every reward; made RGB as the official code does, they are equal."""
    recorded = golden.golden()["hpsv3"]["edge"]
    names = list(recorded)
    found = hpsv3.score([golden.image(name).convert("RGB") for name in names], prompt=prompt("short"))
    np.testing.assert_allclose(
        found, [recorded[name]["short"]["mu"] for name in names], rtol=0, atol=TOLERANCE
    )


def test_one_prompt_at_a_time_gives_the_same(hpsv3: HPSv3) -> None:
    """Rows of one image share the beginning; alone they do not."""
    image = golden.image("port300x700")
    together = hpsv3.score([image] * len(PROMPTS), [prompt(each) for each in PROMPTS])
    alone = [hpsv3.score([image], [prompt(each)])[0] for each in PROMPTS]
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-6)


def test_videoreward_is_the_official_one(videoreward: tuple[str, VideoReward]) -> None:
    form, reward = videoreward
    recorded = golden.golden()["videoreward"][form]["scores_normalised"]
    found = reward.score_parts(
        [str(golden.FOLDER / "clips" / f"{clip}.mp4") for clip, _ in pairs(CLIPS)],
        [prompt(each) for _, each in pairs(CLIPS)],
    )
    for column, part, most in [
        ("videoreward", "Overall", OF_SUM),
        *((f"videoreward.{part}", part, TOLERANCE) for part in ("VQ", "MQ", "TA")),
    ]:
        wanted = [recorded[clip][each][part] for clip, each in pairs(CLIPS)]
        np.testing.assert_allclose(found[column], wanted, rtol=0, atol=most, err_msg=part)


def test_videoreward_with_three_dimensional_positions_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = golden.golden()["videoreward"]["wrong_on_purpose"]
    reward = load_reward("videoreward", str(folder / wrong["form"]))
    assert isinstance(reward, VideoReward)
    reward.norms = None
    given = [golden.clip(wrong["clip"])], [prompt(wrong["prompt"])]
    names = [f"videoreward.{part}" for part in ("VQ", "MQ", "TA")]
    found = reward.score_parts(*given)
    np.testing.assert_allclose([found[name][0] for name in names], wrong["right"], rtol=0, atol=TOLERANCE)
    language = Positioned(reward.network.language, reward.chat.head, (3, 9, 15))
    monkeypatch.setitem(reward.network._modules, "language", language)
    found = reward.score_parts(*given)
    np.testing.assert_allclose(
        [found[name][0] for name in names], wrong["mrope_3d_positions"], rtol=0, atol=TOLERANCE
    )


def test_raw_numbers_arrays_and_bytes(
    videoreward: tuple[str, VideoReward], monkeypatch: pytest.MonkeyPatch
) -> None:
    form, reward = videoreward
    monkeypatch.setattr(reward, "norms", None)
    recorded = golden.golden()["videoreward"][form]["scores_raw"]
    data = (golden.FOLDER / "clips/tiny64x48.mp4").read_bytes()
    clips = [golden.clip("tiny64x48"), data]
    found = reward.score_parts(clips, [prompt("short"), prompt("long")])
    for part in ("VQ", "MQ", "TA"):
        wanted = [recorded["tiny64x48"][each][part] for each in ("short", "long")]
        np.testing.assert_allclose(found[f"videoreward.{part}"], wanted, rtol=0, atol=TOLERANCE)


def test_other_samplings(folder: Path) -> None:
    reward = load_reward("videoreward", str(folder / "plain"))
    assert isinstance(reward, VideoReward)
    reward.norms = None
    recorded = golden.golden()["videoreward"]["other_sampling"]
    for key, clip, sampling in [
        ("fps_4", recorded["clip"], FrameSampling(fps=4)),
        ("num_frames_5", recorded["clip"], FrameSampling(frames=5)),
        ("max_pixels_101000", recorded["max_pixels_101000"]["clip"], FrameSampling(max_pixels=101_000)),
    ]:
        reward.sampling = sampling
        found = reward.score([golden.FOLDER / "clips" / f"{clip}.mp4"], [prompt(recorded["prompt"])])
        assert found[0] == pytest.approx(recorded[key]["scores_raw"]["Overall"], abs=OF_SUM), key


def test_an_ordinary_lossy_file(folder: Path) -> None:
    reward = load_reward("videoreward", str(folder / "plain"))
    assert isinstance(reward, VideoReward)
    reward.norms = None
    recorded = golden.golden()["videoreward"]["yuv420"]["scores_raw"]
    found = reward.score(
        [golden.FOLDER / "clips/yuv420.mp4"] * len(PROMPTS), [prompt(each) for each in PROMPTS]
    )
    np.testing.assert_allclose(found, [recorded[each]["Overall"] for each in PROMPTS], rtol=0, atol=OF_SUM)


@pytest.mark.parametrize("kind", ["hpsv3", "videoreward"])
def test_token_ids(kind: str, folder: Path, hpsv3: HPSv3) -> None:
    reward = hpsv3 if kind == "hpsv3" else load_reward("videoreward", str(folder / "plain"))
    recorded = golden.golden()[kind]
    assert isinstance(reward, HPSv3 | VideoReward)
    for by_prompt in recorded["token_ids"].values():
        for each, wanted in by_prompt.items():
            assert list(reward.chat.head) == wanted["before"]
            tail = reward.chat.tail(prompt(each))
            assert list(tail) == wanted["after"]
            start = len(wanted["before"]) + wanted["pads"]
            places = wanted.get("reward_positions") or [wanted["reward_position"]]
            assert [start + place for place in reward.chat.places(tail)] == places
    assert reward.chat.text(prompt("short")) == recorded["chat_text_of_short"]


def test_resized_frames_and_patches() -> None:
    for name, recorded in golden.golden()["videoreward"]["clips"].items():
        frames = read_clip(golden.FOLDER / "clips" / f"{name}.mp4", FrameSampling())
        assert list(frames.shape) == [len(recorded["indices"]), 3, *recorded["resized_hw"]]
        sums = frames.long().sum((1, 2, 3)).tolist()
        assert sums == recorded["resized_sum_per_frame"]
        if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
            assert sha256(frames.numpy()) == recorded["sha256_of_resized_uint8_TCHW"]
        check_patches(frames, recorded["grid_thw"], recorded["pixel_values_videos"])


def test_resized_images_and_patches() -> None:
    for name, recorded in golden.golden()["hpsv3"]["images"].items():
        levels = WholeImage()(golden.image(name).convert("RGB"))
        assert list(levels.shape[1:]) == recorded["resized_hw"]
        assert int(levels.sum(dtype=np.int64)) == recorded["resized_sum"]
        assert sha256(levels.transpose(1, 2, 0)) == recorded["sha256_of_resized_rgb"]
        check_patches(torch.from_numpy(levels)[None], recorded["grid_thw"], recorded["pixel_values"])


def check_patches(frames: torch.Tensor, grid: list[int], recorded: dict[str, Any]) -> None:
    patches, found = qwen2_vl._patches(frames)
    assert list(found) == grid and list(patches.shape) == recorded["shape"]
    for row, column, value in recorded["samples_row_column_value"]:
        assert patches[row, column].item() == pytest.approx(value, abs=1e-6)
    assert patches.double().square().sum().item() == pytest.approx(recorded["sum_of_squares"], rel=1e-6)


def sha256(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def test_which_frames_are_read() -> None:
    for recorded in golden.golden()["videoreward"]["frame_counts"]:
        given = recorded["total"], recorded["video_fps"], recorded.get("fps", 2.0), recorded.get("nframes")
        if isinstance(recorded["n"], str):
            with pytest.raises((UnreadableImage, TgoError)):
                frame_indices(*given)
            continue
        found = frame_indices(*given)
        if recorded["total"] == 5 and recorded.get("nframes") == 8:
            assert found == [0, 1, 3, 4]  # five frames, on which the official code fails
        elif isinstance(recorded["indices"], dict):
            assert (
                hashlib.sha256(json.dumps(found).encode()).hexdigest()
                == recorded["indices"]["sha256_of_json"]
            )
        else:
            assert found == recorded["indices"], recorded


@pytest.mark.parametrize(("kind", "least"), [("videoreward", 128), ("hpsv3", 256)])
def test_sizes(kind: str, least: int) -> None:
    key = "resize_video" if kind == "videoreward" else "resize_image"
    for height, width, wanted in golden.golden()[kind][key]:
        if isinstance(wanted, str):
            with pytest.raises(UnreadableImage, match="times as long as wide"):
                resized(height, width, least * 784, 256 * 784)
        else:
            assert list(resized(height, width, least * 784, 256 * 784)) == wanted
