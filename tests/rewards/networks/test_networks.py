"""The five networks at tiny sizes against formulas and against other implementations that read the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer

from tests.rewards import formulas, tiny
from tests.rewards.tiny import smooth_image
from tests.rounding import SCORE, assert_same_numbers
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.base import NetworkReward

NAMES = ["hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic"]
PROMPTS = ["a red cat", "blue cats", "", "red cat red cat " * 20]


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [smooth_image(32, 32), smooth_image(64, 40), smooth_image(33, 90), smooth_image(20, 20)]


def load(name: str, folder: Path) -> NetworkReward:
    reward = load_reward(name, str(folder))
    assert isinstance(reward, NetworkReward)
    return reward


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_reward_scores_as_before(name: str, images: list[Image.Image], tmp_path: Path) -> None:
    reward = tiny.build(name)
    reward.save(tmp_path, {"made_by": "a test"})
    assert_same_numbers(load(name, tmp_path).score(images, PROMPTS), reward.score(images, PROMPTS), SCORE)
    weights = next(path for path in tmp_path.glob("*.safetensors"))
    with safe_open(weights, "pt") as stream:
        assert stream.metadata()["made_by"] == "a test"


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_weights_are_read_as_float32(
    name: str, images: list[Image.Image], tmp_path: Path
) -> None:
    tiny.build(name).half().save(tmp_path)
    reward = load(name, tmp_path)
    assert {parameter.dtype for parameter in reward.parameters()} == {torch.float32}
    np.testing.assert_allclose(
        reward.score(images, PROMPTS), tiny.build(name).score(images, PROMPTS), rtol=0, atol=0.05
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_size_does_not_matter(name: str, images: list[Image.Image]) -> None:
    reward = tiny.build(name)
    one_by_one = [reward.score([image], [prompt])[0] for image, prompt in zip(images, PROMPTS, strict=True)]
    np.testing.assert_allclose(reward.score(images, PROMPTS, batch_size=3), one_by_one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_the_score_and_reaches_the_pixels(name: str, images: list[Image.Image]) -> None:
    reward = tiny.build(name)
    pixels = torch.stack([reward.prepare(image) for image in images]).requires_grad_()
    scores = reward(pixels, reward.tokenize(PROMPTS))
    assert_same_numbers(scores.detach().numpy(), reward.score(images, PROMPTS), SCORE)
    scores.sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad.flatten(1).norm(dim=1) > 0).all()


def test_hpsv2_is_open_clips_cosine(images: list[Image.Image], tmp_path: Path) -> None:
    tiny.write("hpsv2.1", tmp_path)
    reward = load("hpsv2.1", tmp_path)
    network: Any = open_clip.create_model(f"local-dir:{_open_clip_folder(tmp_path)}").eval()
    tokens = reward.tokenize(PROMPTS)
    pixels = torch.stack([reward.prepare(image) for image in images])
    with torch.inference_mode():
        logits, _ = network.get_logits(pixels, tokens)
        expected = logits.diagonal() / network.logit_scale.exp()
    assert_same_numbers(reward.score(images, PROMPTS), expected, SCORE)


def _open_clip_folder(folder: Path) -> Path:
    """The same folder under the weight file name that open_clip looks for."""
    (folder / "open_clip_model.safetensors").symlink_to(folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["pickscore", "clip"])
def test_clip_scores_are_those_of_transformers(name: str, images: list[Image.Image], tmp_path: Path) -> None:
    tiny.write(name, tmp_path)
    reward = load(name, tmp_path)
    network = CLIPModel.from_pretrained(tmp_path).eval()
    tokens = CLIPTokenizer.from_pretrained(tmp_path)(
        PROMPTS, padding="max_length", truncation=True, max_length=tiny.LENGTH, return_tensors="pt"
    )
    pixels = torch.stack([reward.prepare(image) for image in images])
    with torch.inference_mode():
        expected = network(pixel_values=pixels, **tokens).logits_per_image.diagonal()
        if name == "clip":
            expected = expected / network.logit_scale.exp()
    np.testing.assert_allclose(reward.score(images, PROMPTS), expected, rtol=0, atol=1e-5)


def test_image_reward_is_its_formula_in_float64(images: list[Image.Image], tmp_path: Path) -> None:
    tiny.write("imagereward", tmp_path)
    weights = {k: v.double().numpy() for k, v in load_file(tmp_path / "ImageReward.safetensors").items()}
    weights = {key: value * (4 if "crossattention.self" in key else 1) for key, value in weights.items()}
    reward = load("imagereward", tmp_path)
    reward.load_state_dict(
        {k: v * (4 if "crossattention.self" in k else 1) for k, v in reward.state_dict().items()}
    )
    scores = reward.score(images, PROMPTS)
    for image, prompt, score in zip(images, PROMPTS, scores, strict=True):
        tokens = reward.tokenize([prompt])[0].numpy()
        expected = formulas.image_reward(
            weights, reward.prepare(image).double().numpy(), tokens[tokens != 0], heads=(2, 2)
        )
        assert score == pytest.approx(expected, abs=1e-5)


def test_the_aesthetic_head_is_affine_in_the_unit_embedding(
    images: list[Image.Image], tmp_path: Path
) -> None:
    tiny.write("aesthetic", tmp_path)
    state = {key: value.double().numpy() for key, value in load_file(tmp_path / "model.safetensors").items()}
    direction, offset = np.eye(tiny.HEAD[0]), np.zeros(tiny.HEAD[0])
    for place in (0, 2, 4, 6, 7):
        weight, bias = state[f"layers.{place}.weight"], state[f"layers.{place}.bias"]
        direction, offset = weight @ direction, weight @ offset + bias
    reward = load("aesthetic", tmp_path)
    pixels = torch.stack([reward.prepare(image) for image in images])
    embeddings = reward.encode_images(pixels).double().numpy()
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        reward.score(images, PROMPTS), embeddings @ direction[0] + offset[0], rtol=0, atol=1e-6
    )


def published_relu(width: int) -> torch.nn.Sequential:
    """LAION's head with ReLU as published, of the widths of the tests."""
    a, b, c, d = tiny.HEAD[1:5]
    layers: list[torch.nn.Module] = [torch.nn.Linear(width, a), torch.nn.ReLU(), torch.nn.Dropout(0.2)]
    layers += [torch.nn.Linear(a, b), torch.nn.ReLU(), torch.nn.Dropout(0.2)]
    layers += [torch.nn.Linear(b, c), torch.nn.ReLU(), torch.nn.Dropout(0.1)]
    layers += [torch.nn.Linear(c, d), torch.nn.ReLU(), torch.nn.Linear(d, 1)]
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("file", "prefix", "version"),
    [
        ("ava+logos-l14-reluMSE.pth", "layers.", "v2 with ReLU"),
        ("sa_0_4_vit_l_14_linear.pth", "", "v1"),
    ],
)
def test_laions_other_heads_are_told_by_their_keys(
    file: str, prefix: str, version: str, images: list[Image.Image], tmp_path: Path
) -> None:
    width = tiny.HEAD[0]
    torch.manual_seed(7)
    head = published_relu(width) if prefix else torch.nn.Linear(width, 1)
    tiny.write("aesthetic", tmp_path)
    state = {f"{prefix}{key}": 3 * value for key, value in head.state_dict().items()}
    torch.save(state, tmp_path / file)
    reward = load("aesthetic", tmp_path / file)
    with torch.no_grad():
        embeddings = reward.encode_images(torch.stack([reward.prepare(image) for image in images])).double()
        official = head.double().eval()
        official.load_state_dict({key: value.double() * 3 for key, value in head.state_dict().items()})
        expected = official(embeddings)[:, 0].float().numpy()
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(reward.score(images, PROMPTS), expected, rtol=0, atol=1e-6)
    assert reward.scale == f"LAION aesthetic predictor {version}: points from 1 to 10"
    assert reward.typical_range is None and load("aesthetic", tmp_path).typical_range == (4.5, 6.8)
    reward.save(tmp_path / "again")
    assert_same_numbers(load("aesthetic", tmp_path / "again").score(images, PROMPTS), expected, SCORE)


def test_image_reward_keeps_the_official_keys(tmp_path: Path) -> None:
    keys = set(tiny.build("imagereward").official_state_dict())
    for key in (
        "blip.visual_encoder.cls_token",
        "blip.visual_encoder.patch_embed.proj.weight",
        "blip.visual_encoder.blocks.1.norm2.bias",
        "blip.visual_encoder.blocks.0.attn.qkv.weight",
        "blip.visual_encoder.blocks.0.attn.proj.bias",
        "blip.visual_encoder.norm.weight",
        "blip.text_encoder.embeddings.word_embeddings.weight",
        "blip.text_encoder.encoder.layer.0.crossattention.self.key.weight",
        "mlp.layers.7.bias",
    ):
        assert key in keys
    assert all(key.startswith(("blip.", "mlp.")) for key in keys)


def test_official_pickles_load_as_well(images: list[Image.Image], tmp_path: Path) -> None:
    for name, folder, file, official in (
        ("hpsv2.1", "a", "model.safetensors", "HPS_v2.1_compressed.pt"),
        ("imagereward", "b", "ImageReward.safetensors", "ImageReward.pt"),
        ("aesthetic", "c", "model.safetensors", "sac+logos+ava1-l14-linearMSE.pth"),
    ):
        tiny.write(name, tmp_path / folder)
        expected = load(name, tmp_path / folder).score(images, PROMPTS)
        state = load_file(tmp_path / folder / file)
        (tmp_path / folder / file).unlink()
        torch.save({"state_dict": state} if name == "hpsv2.1" else state, tmp_path / folder / official)
        for source in (tmp_path / folder, tmp_path / folder / official):
            assert_same_numbers(load(name, source).score(images, PROMPTS), expected, SCORE)


@pytest.mark.parametrize(
    ("name", "scale"), [("hpsv2.1", "HPSv2.1: raw cosine"), ("hpsv2.0", "HPSv2.0: raw cosine")]
)
def test_both_versions_of_hpsv2_carry_their_names(name: str, scale: str, tmp_path: Path) -> None:
    tiny.write("hpsv2.1", tmp_path)
    reward = load(name, tmp_path)
    assert reward.name == name
    assert reward.scale.startswith(scale)


def test_laions_clip_score_is_the_same_network_under_its_own_name(
    images: list[Image.Image], tmp_path: Path
) -> None:
    tiny.write("hpsv2.1", tmp_path)
    expected = load("hpsv2.1", tmp_path).score(images, PROMPTS)
    (tmp_path / "model.safetensors").rename(tmp_path / "open_clip_model.safetensors")
    reward = load("clip/laion-h14-hpspad", tmp_path)
    assert reward.name == "clip/laion-h14-hpspad"
    assert "laion-h14" in reward.scale
    assert (reward.score(images, PROMPTS) == expected).all()


def test_what_the_numbers_mean_is_said_for_each() -> None:
    scales = {name: tiny.build(name).scale for name in NAMES}
    assert len(set(scales.values())) == len(NAMES)
    for name, words in {"pickscore": "100", "imagereward": "N(0, 1)", "clip": "openai-l14"}.items():
        assert words in scales[name]
    for name in NAMES:
        low, high = tiny.build(name).typical_range or (1, 0)
        assert low < high
    assert [name for name in NAMES if not tiny.build(name).needs_prompt] == ["aesthetic"]


def test_image_reward_without_a_configuration_is_that_of_the_release(tmp_path: Path) -> None:
    """The tiny weights do not fit the release's text network: its sizes are in the message."""
    tiny.write("imagereward", tmp_path)
    (tmp_path / "med_config.json").unlink()
    with pytest.raises(TgoError, match=r"instead of \(768|lacks blip|lacks text"):
        load("imagereward", tmp_path)


def test_hpsv2_without_a_configuration_is_vit_h_14() -> None:
    from tgo_pipeline.rewards.hpsv2 import network_config

    config = network_config(None)
    assert (config["embed_dim"], config["vision_cfg"]["layers"], config["text_cfg"]["layers"]) == (
        1024,
        32,
        24,
    )


def test_full_size_parameters_are_counted_without_memory() -> None:
    from transformers import BertTokenizer

    from tgo_pipeline.rewards.base import empty
    from tgo_pipeline.rewards.hpsv2 import HPSv2, network_config
    from tgo_pipeline.rewards.image_reward import OFFICIAL_MED, ImageReward, text_config, vit_config
    from tgo_pipeline.rewards.networks.tokenizers import OpenClipTokenizer

    def count(reward: NetworkReward) -> int:
        return sum(parameter.numel() for parameter in reward.parameters())

    assert count(empty(lambda: HPSv2(network_config(None), OpenClipTokenizer()))) == 986_109_441
    vision = vit_config(hidden_size=1024, layers=24, heads=16, patch_size=16, image_size=224)
    words = BertTokenizer({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3})
    unused = 256 * (1024 + 1) + 256 * (768 + 1) + 512  # the official file's two projections and position ids
    assert (
        count(empty(lambda: ImageReward(vision, text_config(OFFICIAL_MED, vision), words))) + unused
        == 446_666_465
    )


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_do_not_fit_are_named(name: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tiny.write(name, tmp_path)
    weights = next(path for path in tmp_path.glob("*.safetensors"))
    state = load_file(weights)
    lost = sorted(state)[-1]
    save_file(
        {**{key: value for key, value in state.items() if key != lost}, "extra": torch.zeros(1)}, weights
    )
    with pytest.raises(TgoError) as caught:
        load(name, tmp_path)
    assert str(weights) in str(caught.value)
    assert "lacks" in str(caught.value)


def test_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tiny.write("clip", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({**state, "visual_projection.weight": torch.zeros(24, 31)}, tmp_path / "model.safetensors")
    with pytest.raises(TgoError, match=r"visual_projection.weight \(24, 31\) instead of \(24, 32\)"):
        load("clip", tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    tiny.write("clip", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(TgoError, match=r"model.safetensors cannot be read as weights"):
        load("clip", tmp_path)


def test_a_pickle_of_code_is_not_run(tmp_path: Path) -> None:
    tiny.write("imagereward", tmp_path)
    (tmp_path / "ImageReward.safetensors").unlink()
    torch.save({"mlp": torch.nn.Linear(1, 1)}, tmp_path / "ImageReward.pt")
    with pytest.raises(TgoError, match=r"ImageReward.pt holds more than tensors"):
        load("imagereward", tmp_path)


def test_a_head_for_another_tower_is_refused(tmp_path: Path) -> None:
    from tgo_pipeline.hub.checkpoint import write_weights
    from tgo_pipeline.rewards.networks.head import LinearHead

    tiny.write("aesthetic", tmp_path)
    write_weights(tmp_path / "model.safetensors", LinearHead((99, *tiny.HEAD[1:])).state_dict())
    with pytest.raises(TgoError, match="width 99, the tower in clip/ gives 24"):
        load("aesthetic", tmp_path)


def test_the_aesthetic_tower_may_be_a_whole_clip(images: list[Image.Image], tmp_path: Path) -> None:
    tiny.write("aesthetic", tmp_path / "a")
    tiny.write("clip", tmp_path / "a/clip", seed=1)
    tower = load("clip", tmp_path / "a/clip")
    reward = load("aesthetic", tmp_path / "a")
    pixels = torch.stack([reward.prepare(image) for image in images])
    assert torch.equal(reward.encode_images(pixels), tower.encode_images(pixels))


@pytest.mark.parametrize(
    ("name", "file", "path", "value"),
    [
        ("clip", "config.json", ("text_config", "num_attention_heads"), 5),
        ("clip", "config.json", ("text_config", "hidden_size"), "wide"),
        ("aesthetic", "clip/config.json", ("hidden_act",), "softplusplus"),
        ("hpsv2.1", "open_clip_config.json", ("model_cfg", "text_cfg", "hidden"), 32),
        ("hpsv2.1", "open_clip_config.json", ("model_cfg", "vision_cfg", "pool_type"), "avg"),
        ("hpsv2.1", "open_clip_config.json", ("model_cfg", "vision_cfg"), 12),
        ("imagereward", "med_config.json", ("num_attention_heads",), 5),
    ],
)
def test_a_configuration_of_no_network_is_named(
    name: str, file: str, path: tuple[str, ...], value: object, tmp_path: Path
) -> None:
    tiny.write(name, tmp_path)
    config = json.loads((tmp_path / file).read_text())
    part = config
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (tmp_path / file).write_text(json.dumps(config))
    with pytest.raises(TgoError, match=f"{file} describes no network"):
        load(name, tmp_path)
