"""Scores, token ids and prepared images against those that the official packages gave for the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.rewards import golden
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.base import NetworkReward
from tgo_pipeline.rewards.engine.decode import to_rgb
from tgo_pipeline.rewards.networks.feed_forward import QuickGeluMlp

pytestmark = pytest.mark.skipif(not golden.FOLDER.is_dir(), reason=golden.REASON)

TOLERANCE = {"hpsv2": 1e-5, "pickscore": 1e-3, "imagereward": 1e-5, "clip": 1e-5, "aesthetic": 1e-5}
NAMES = {"hpsv2": "hpsv2.1"}
TRANSPARENT = "rgba256"
CONVERTED_AFTER_RESIZING = {"palette320x200": {"imagereward", "clip", "aesthetic"}}
"""Images that some official code resizes before it converts them to RGB; here all are converted first."""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NetworkReward]:
    """All five rewards, loaded from folders in the official layouts."""
    folder = tmp_path_factory.mktemp("golden")
    recorded = golden.golden()
    configs = recorded["tiny_configs"]
    digests = {
        "hpsv2": golden.write_hpsv2(folder / "hpsv2", configs),
        "pickscore": golden.write_pickscore(folder / "pickscore"),
        "imagereward": golden.write_image_reward(folder / "imagereward", configs),
        "clip": golden.write_clip(folder / "clip", configs),
        "aesthetic": golden.write_aesthetic(folder / "aesthetic", configs),
    }
    for name, digest in digests.items():
        assert digest == recorded[name].get("weights_sha256", recorded[name].get("mlp_sha256")), name
    return {name: _load(name, folder / name) for name in digests}


def _load(name: str, folder: Path) -> NetworkReward:
    reward = load_reward(NAMES.get(name, name), str(folder))
    assert isinstance(reward, NetworkReward)
    return reward


def _comparable(name: str, image: str) -> bool:
    return image != TRANSPARENT and name not in CONVERTED_AFTER_RESIZING.get(image, ())


def _recorded_scores(name: str) -> list[tuple[str, str, float]]:
    """(image, prompt, score) of every pair that the official code could score and that is in scope."""
    recorded = golden.golden()[name]
    if name == "aesthetic":
        return [(image, "", score) for image, score in recorded["scores"].items() if _comparable(name, image)]
    return [
        (image, prompt, score)
        for block in ("scores", "edge")
        for image, by_prompt in recorded[block].items()
        for prompt, score in by_prompt.items()
        if _comparable(name, image) and not isinstance(score, str)
    ]


@pytest.mark.parametrize("name", TOLERANCE)
def test_scores_are_those_of_the_official_code(name: str, rewards: dict[str, NetworkReward]) -> None:
    pairs = _recorded_scores(name)
    prompts = golden.golden()["prompts"]
    scores = rewards[name].score(
        [golden.image(image) for image, _, _ in pairs], [prompts.get(prompt, "") for _, prompt, _ in pairs]
    )
    assert len(pairs) >= 7
    np.testing.assert_allclose(scores, [score for _, _, score in pairs], rtol=0, atol=TOLERANCE[name])


@pytest.mark.parametrize("name", ["clip", "aesthetic"])
def test_scores_in_the_form_for_gpus_are_those_of_the_official_code(
    name: str, rewards: dict[str, NetworkReward], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QuickGeluMlp, "forward", QuickGeluMlp.fused)
    test_scores_are_those_of_the_official_code(name, rewards)


@pytest.mark.parametrize("name", ["hpsv2", "pickscore", "imagereward", "clip"])
def test_token_ids_are_those_of_the_official_code(name: str, rewards: dict[str, NetworkReward]) -> None:
    recorded = golden.golden()
    for prompt, ids in recorded[name]["token_ids"].items():
        tokens = rewards[name].tokenize([recorded["prompts"][prompt]])[0].tolist()
        assert tokens[: len(ids)] == ids, prompt


@pytest.mark.parametrize("name", ["hpsv2", "pickscore", "imagereward", "clip"])
def test_prepared_images_are_those_of_the_official_code(name: str, rewards: dict[str, NetworkReward]) -> None:
    for image, recorded in golden.golden()[name]["preprocess"].items():
        if not _comparable(name, image):
            continue
        pixels = rewards[name].prepare(to_rgb(golden.image(image))).numpy()
        assert list(pixels.shape) == recorded["shape"]
        found = {
            "mean": pixels.mean(dtype=np.float64),
            "std": pixels.std(dtype=np.float64, ddof=1),
            "min": pixels.min(),
            "max": pixels.max(),
            "at_0_50_50": pixels[0, 50, 50],
            "at_1_112_112": pixels[1, 112, 112],
            "at_2_200_10": pixels[2, 200, 10],
        }
        for what, value in found.items():
            assert value == pytest.approx(recorded[what], abs=2e-6), (image, what)


def test_images_that_the_official_hpsv2_fails_on_are_scored(rewards: dict[str, NetworkReward]) -> None:
    recorded = golden.golden()["hpsv2"]
    assert recorded["edge"]["edge224x160"]["simple"].startswith("ERROR")
    assert recorded["scores"][TRANSPARENT]["simple"].startswith("ERROR")
    images = [golden.image("edge224x160"), golden.image(TRANSPARENT)]
    assert np.isfinite(rewards["hpsv2"].score(images, ["a", "b"])).all()


def test_scoring_a_list_is_scoring_its_pairs(rewards: dict[str, NetworkReward]) -> None:
    recorded = golden.golden()
    listed = recorded["imagereward"]["list_api"]
    names = [name for name in recorded["imagereward"]["scores"] if name != TRANSPARENT]
    prompt = recorded["prompts"][listed["prompt"]]
    scores = rewards["imagereward"].score([golden.image(name) for name in names], [prompt] * len(names))
    expected = dict(zip(recorded["imagereward"]["scores"], listed["rewards"], strict=True))
    np.testing.assert_allclose(scores, [expected[name] for name in names], rtol=0, atol=1e-5)
