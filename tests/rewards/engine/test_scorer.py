"""Scoring with several rewards at once: the same numbers as alone, and nothing done twice."""

from __future__ import annotations

import copy
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from tests.pretended_gpu import pretended
from tests.rewards import tiny
from tests.rewards.tiny import png, smooth_image
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.parquet_values import StoredValue
from tgo_pipeline.rewards.aesthetic import Aesthetic
from tgo_pipeline.rewards.base import NetworkReward
from tgo_pipeline.rewards.clip_score import ClipScore
from tgo_pipeline.rewards.custom import FunctionReward
from tgo_pipeline.rewards.engine.scorer import BLOCK, Scorer, score_all, share_towers
from tgo_pipeline.rewards.engine.workers import prepare_chunk
from tgo_pipeline.storage.tables import IMAGE, stream_images, write_table

NAMES = ("hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic")
PROMPTS = ["a red cat", "blue cats", "a red cat", "a red cat", "blue cats"]


@pytest.fixture
def images() -> list[bytes]:
    return [png(smooth_image(32 + step, 40)) for step in range(5)]


@pytest.fixture
def rewards() -> dict[str, NetworkReward]:
    """All five, the aesthetic one on a tower with the weights of CLIP's."""
    built = {name: tiny.build(name) for name in NAMES}
    clip, aesthetic = built["clip"], built["aesthetic"]
    assert isinstance(clip, ClipScore)
    assert isinstance(aesthetic, Aesthetic)
    aesthetic.tower.load_state_dict(clip.tower.state_dict())
    return built


def test_together_is_as_alone(images: list[bytes], rewards: dict[str, NetworkReward]) -> None:
    alone = {name: Scorer({name: reward}).score(images, PROMPTS) for name, reward in rewards.items()}
    together = Scorer(rewards, batch_size=2).score(images, PROMPTS)
    assert together.errors == {}
    for name in NAMES:
        assert together.columns[name].dtype == np.float32
        np.testing.assert_allclose(together.columns[name], alone[name].columns[name], rtol=0, atol=1e-5)


def test_nothing_is_computed_twice(images: list[bytes], rewards: dict[str, NetworkReward]) -> None:
    clip, aesthetic = rewards["clip"], rewards["aesthetic"]
    assert isinstance(clip, ClipScore)
    assert isinstance(aesthetic, Aesthetic)
    ran: Counter[str] = Counter()
    for name, module in (
        ("clip", clip.tower),
        ("aesthetic", aesthetic.tower),
        ("text", clip.text.text_model.embeddings),
    ):
        module.register_forward_hook(lambda _module, inputs, _output, name=name: ran.update({name: 1}))
    texts: list[int] = []
    clip.text.text_model.embeddings.register_forward_pre_hook(
        lambda _module, _args, inputs: texts.append(len(inputs["input_ids"])), with_kwargs=True
    )
    Scorer({"clip": clip, "aesthetic": aesthetic}).score(images, PROMPTS)
    assert ran == {"clip": 1, "text": 1}
    assert texts == [2]


def test_rewards_that_see_the_same_share_the_pixels(rewards: dict[str, NetworkReward]) -> None:
    preparations = [rewards[name].preprocessing for name in ("hpsv2.1", "pickscore", "clip")]
    hpsv2, pickscore, clip = preparations
    square = prepare_chunk([smooth_image(64, 64), smooth_image(40, 40)], preparations)
    assert square.shared[pickscore] == square.shared[clip] != square.shared[hpsv2]
    odd = prepare_chunk([smooth_image(64, 64), smooth_image(32, 39)], preparations)
    assert odd.shared[pickscore] != odd.shared[clip]
    np.testing.assert_array_equal(odd.pixels[odd.shared[pickscore]][0], odd.pixels[odd.shared[clip]][0])


def test_chunks_that_share_differently_are_joined_right(rewards: dict[str, NetworkReward]) -> None:
    images = [*(smooth_image(32, 32) for _ in range(16)), *(smooth_image(32, 39) for _ in range(16))]
    prompts = ["a red cat"] * len(images)
    chosen = {name: rewards[name] for name in ("pickscore", "clip")}
    together = Scorer(chosen).score(images, prompts)
    for name, reward in chosen.items():
        alone = Scorer({name: reward}, batch_size=1).score(images, prompts)
        np.testing.assert_allclose(together.columns[name], alone.columns[name], rtol=0, atol=1e-5)


def test_different_towers_are_not_shared(rewards: dict[str, NetworkReward]) -> None:
    aesthetic = tiny.build("aesthetic", seed=1)
    share_towers([rewards["clip"], aesthetic])
    assert aesthetic.image_encoder is not rewards["clip"].image_encoder
    rewards["aesthetic"].to(torch.bfloat16).to(torch.float32)  # weights that half precision holds exactly
    rewards["clip"].to(torch.bfloat16).to(torch.float32)
    half = copy.deepcopy(rewards["aesthetic"]).set_precision("fp16")
    share_towers([rewards["clip"], half])
    assert half.image_encoder is not rewards["clip"].image_encoder
    share_towers([rewards["clip"], rewards["aesthetic"]])
    assert rewards["aesthetic"].image_encoder is rewards["clip"].image_encoder


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_an_unreadable_image_does_not_move_the_others(
    images: list[bytes], rewards: dict[str, NetworkReward], batch_size: int
) -> None:
    scorer = Scorer(rewards, batch_size=batch_size)
    whole = scorer.score(images, PROMPTS)
    broken = scorer.score([images[0], images[1][:200], None, *images[3:]], PROMPTS)
    assert broken.errors.keys() == {1, 2}
    for name in NAMES:
        assert np.isnan(broken.columns[name]).tolist() == [False, True, True, False, False]
        np.testing.assert_allclose(
            broken.columns[name][[0, 3, 4]], whole.columns[name][[0, 3, 4]], rtol=0, atol=1e-5
        )


def test_no_images_give_empty_columns(rewards: dict[str, NetworkReward]) -> None:
    assert {column.shape for column in Scorer(rewards).score([], []).columns.values()} == {(0,)}


def test_one_image_object_may_come_many_times(rewards: dict[str, NetworkReward]) -> None:
    lazy = Image.open(io.BytesIO(png(smooth_image(200, 200))))
    scores = rewards["clip"].score([lazy] * 40, ["a red cat"] * 40)
    np.testing.assert_allclose(scores, scores[0], rtol=0, atol=1e-5)


def test_one_prompt_for_all_must_be_asked_for(rewards: dict[str, NetworkReward]) -> None:
    clip, images = rewards["clip"], [smooth_image(32, 32), smooth_image(40, 32)]
    np.testing.assert_array_equal(
        clip.score(images, prompt="a red cat"), clip.score(images, ["a red cat"] * 2)
    )
    with pytest.raises(TgoError, match=r"prompts is one text, 'a red cat'.*with `prompt=`"):
        clip.score(images, "a red cat")
    with pytest.raises(TgoError, match="both given"):
        clip.score(images, ["a", "b"], prompt="c")
    with pytest.raises(TgoError, match="no prompts: give"):
        clip.score(images)
    for wrong in (None, float("nan"), b"a"):  # what data frames hold for null
        with pytest.raises(TgoError, match=r"prompt 1 is .*, not text"):
            clip.score(images, ["a", wrong])  # type: ignore[list-item]
    assert rewards["aesthetic"].score(images).shape == (2,)


def test_a_single_image_is_no_list_of_images(rewards: dict[str, NetworkReward]) -> None:
    for image in ("a.png", b"data", smooth_image(32, 32), Path("a.png")):
        with pytest.raises(TgoError, match="give a list of images"):
            rewards["clip"].score(image, prompt="a")  # type: ignore[arg-type]


def test_score_all_keeps_going_past_what_cannot_be_read(
    images: list[bytes], rewards: dict[str, NetworkReward]
) -> None:
    scores = score_all(list(rewards.values()), [images[0], b"nothing", images[2]], prompt="a red cat")
    assert scores.errors == {1: "not a known image format"}
    assert list(scores.columns) == list(NAMES)
    for name, column in scores.columns.items():
        alone = rewards[name].score([images[0], images[2]], prompt="a red cat")
        np.testing.assert_allclose(column[[0, 2]], alone, rtol=0, atol=1e-5)


def test_processes_score_as_threads_do(images: list[bytes], rewards: dict[str, NetworkReward]) -> None:
    threads = score_all(rewards, images, PROMPTS)
    processes = score_all(rewards, images, PROMPTS, workers=1)
    for name in NAMES:  # a process resizes with one thread
        np.testing.assert_allclose(threads.columns[name], processes.columns[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_in_a_file_score_as_their_bytes_to_the_bit(
    images: list[bytes], rewards: dict[str, NetworkReward], tmp_path: Path, workers: int
) -> None:
    table = pa.table({"image": [{"bytes": image, "path": None} for image in images]})
    write_table(table.cast(pa.schema([("image", IMAGE)])), tmp_path / "a.parquet", {})
    places = list(stream_images(tmp_path / "a.parquet"))
    assert {type(place) for place in places} == {StoredValue}
    with Scorer(rewards, batch_size=3, workers=workers, threads=1) as scorer:
        expected, found = scorer.score(images, PROMPTS), scorer.score(places, PROMPTS)
    for name in NAMES:
        np.testing.assert_array_equal(found.columns[name], expected.columns[name])


def test_a_part_scores_the_same_to_the_bit_whatever_came_before(
    images: list[bytes], rewards: dict[str, NetworkReward]
) -> None:
    parts = [list(zip(images[start:], PROMPTS[start:], strict=True)) for start in (2, 0, 4, 1)]

    def columns(numbers: list[int]) -> dict[int, np.ndarray]:
        found: dict[int, list[np.ndarray]] = {}
        with Scorer(rewards, batch_size=3) as scorer:
            for number, batch in scorer.stream_parts(parts[number] for number in numbers):
                found.setdefault(numbers[number], []).append(
                    np.stack([batch.columns[name] for name in NAMES])
                )
        return {number: np.concatenate(batches, 1) for number, batches in found.items()}

    whole = columns([0, 1, 2, 3])
    assert [whole[number].shape[1] for number in range(4)] == [3, 5, 1, 4]
    for number in range(4):
        np.testing.assert_array_equal(columns([number])[number], whole[number])


def test_a_stream_reads_no_further_than_it_scores(rewards: dict[str, NetworkReward]) -> None:
    read = 0

    def samples() -> Iterator[tuple[bytes, str]]:
        nonlocal read
        data = png(smooth_image(32, 32))
        for step in range(3000):
            read += 1
            yield data, f"a red cat {step}"

    scored = 0
    with Scorer({"aesthetic": rewards["aesthetic"]}, batch_size=32, threads=2) as scorer:
        for batch in scorer.stream(samples()):
            scored += len(batch.errors)
            assert read - scored <= 2 * BLOCK + 32
    assert scored == read == 3000


def test_what_was_scored_before_an_error_is_handed_on() -> None:
    """Scores are fetched a batch late: an error of the third batch must not take the second with it."""

    def brightness(images: list[Image.Image], prompts: list[str]) -> list[float]:
        if "stop" in prompts:
            raise ValueError("enough")
        return [float(image.width) for image in images]

    samples = [(Image.new("RGB", (3 + row, 4)), "stop" if row == 5 else "go on") for row in range(8)]
    found: list[float] = []
    scorer = Scorer({"own": FunctionReward("own", brightness)}, batch_size=2)
    with scorer, pytest.raises(TgoError, match="raised ValueError: enough"):
        for batch in scorer.stream(samples):
            found += batch.columns["own"].tolist()
    assert found == [3, 4, 5, 6]


def test_more_distinct_prompts_than_are_kept(
    rewards: dict[str, NetworkReward], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tgo_pipeline.rewards.engine.scorer.BLOCK", 4)
    monkeypatch.setattr("tgo_pipeline.rewards.engine.scorer.PROMPTS", 6)
    chosen = {name: rewards[name] for name in ("clip", "imagereward")}
    images = [smooth_image(32, 32)] * 30
    prompts = [f"{'red ' * (row % 3)}cat {row * 7 % 11}" for row in range(30)]
    with Scorer(chosen, batch_size=2, threads=1) as scorer:
        found = scorer.score(images, prompts)
    for name, reward in chosen.items():
        alone = [reward.score(images[:1], [prompt])[0] for prompt in prompts]
        np.testing.assert_allclose(found.columns[name], alone, rtol=0, atol=1e-5)


def test_two_rewards_of_one_name_need_other_names(images: list[bytes]) -> None:
    pair = [tiny.build("clip"), tiny.build("clip", seed=1)]
    with pytest.raises(TgoError, match=r"two rewards are named 'clip'.*dict"):
        score_all(pair, images, PROMPTS)
    scores = score_all({"one": pair[0], "other": pair[1]}, images, PROMPTS)
    assert (scores.columns["one"] != scores.columns["other"]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to score on")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_gpu_scores_as_the_cpu_does(
    images: list[bytes], rewards: dict[str, NetworkReward], workers: int
) -> None:
    expected = Scorer(rewards).score(images, PROMPTS)
    moved = {name: copy.deepcopy(reward).to("cuda") for name, reward in rewards.items()}
    with Scorer(moved, batch_size=2, workers=workers) as scorer:
        found = scorer.score(images, PROMPTS)
    for name in NAMES:  # torch cuts images into patches in TF32
        np.testing.assert_allclose(found.columns[name], expected.columns[name], rtol=1e-2, atol=5e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to score on")
def test_a_gpu_scores_many_images_in_memory_that_is_used_again(rewards: dict[str, NetworkReward]) -> None:
    distinct = [png(smooth_image(32 + step, 40)) for step in range(32)]
    chosen = {name: rewards[name] for name in ("hpsv2.1", "clip")}
    expected = Scorer(chosen).score(distinct, ["a red cat"] * 32)
    moved = {name: copy.deepcopy(reward).to("cuda") for name, reward in chosen.items()}
    with Scorer(moved, workers=1) as scorer:
        for _ in range(2):
            found = scorer.score(distinct * 70, ["a red cat"] * 2240)
            for name in chosen:  # torch cuts images into patches in TF32
                right = np.tile(expected.columns[name], 70)
                np.testing.assert_allclose(found.columns[name], right, rtol=1e-2, atol=5e-3)


def test_on_a_pretended_gpu_batches_grow_at_once_and_come_from_shared_memory(
    rewards: dict[str, NetworkReward], monkeypatch: pytest.MonkeyPatch
) -> None:
    distinct = [png(smooth_image(32 + step, 40)) for step in range(32)]
    chosen = {name: rewards[name] for name in ("hpsv2.1", "clip")}
    expected = Scorer(chosen).score(distinct, ["a red cat"] * 32)
    sizes: list[int] = []
    with pretended(monkeypatch) as machine:
        moved = {name: copy.deepcopy(reward).to("cuda:1") for name, reward in chosen.items()}
        with Scorer(moved, workers=1) as scorer:
            forward = scorer._forward
            monkeypatch.setattr(
                scorer,
                "_forward",
                lambda pixels, *rest: sizes.append(len(pixels[0])) or forward(pixels, *rest),
            )
            found = scorer.score(distinct * 40, ["a red cat"] * 1280)
        assert machine.used.keys() == {torch.device("cuda:1")}
    assert sizes == [8, 248, 256, 256, 256, 256]
    for name in chosen:
        right = np.tile(expected.columns[name], 40)
        np.testing.assert_allclose(found.columns[name], right, rtol=0, atol=1e-5)


def test_as_many_prompts_as_images(rewards: dict[str, NetworkReward]) -> None:
    with pytest.raises(TgoError, match="2 images and 1 prompts: give one prompt per image"):
        rewards["clip"].score([smooth_image(32, 32)] * 2, ["a red cat"])


def test_scoring_unreadable_images_directly_is_an_error(rewards: dict[str, NetworkReward]) -> None:
    truncated = Image.open(io.BytesIO(png(smooth_image(64, 64))[:2000]))
    with pytest.raises(TgoError, match="image 1 of 2 cannot be scored: OSError"):
        rewards["clip"].score([smooth_image(32, 32), truncated], ["a", "b"])


def test_scoring_leaves_no_gradient_and_works_under_inference(rewards: dict[str, NetworkReward]) -> None:
    with torch.inference_mode():
        rewards["clip"].score([smooth_image(32, 32)], ["a"])
    assert all(parameter.grad is None for parameter in rewards["clip"].parameters())
