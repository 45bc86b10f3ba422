"""Checkpoints in the official layouts, against `transformers`' own model and processor; and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.pretended_gpu import pretended
from tests.rewards.tiny import smooth_image
from tests.rewards.vision_language import tiny
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import fingerprint, load_reward, specs
from tgo_pipeline.rewards.base import Reward
from tgo_pipeline.rewards.vision_language.clips import Clip

PROMPTS = ["a fox", "", "a fox in the snow"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "cache"))


def by_transformers(
    made: Qwen2VLForConditionalGeneration, head: dict[str, torch.Tensor], image: Image.Image, prompt: str
) -> torch.Tensor:
    """Mu and sigma by `Qwen2VLModel` with sequential positions given, its image processor, and the head by hand."""
    processed = Qwen2VLImageProcessorPil(min_pixels=200704, max_pixels=200704)(image, return_tensors="pt")
    pads = int(processed["image_grid_thw"].prod()) // 4
    text = tiny.IMAGE_TEXT.replace("{text_prompt}", prompt)
    turn = f"<|vision_start|>{'<|image_pad|>' * pads}<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
    words = tiny.tokenizer()
    words.add_special_tokens(["<|Reward|>"])
    ids = words.encode(f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{turn}").ids
    positions = torch.arange(len(ids)).expand(3, 1, -1)
    with torch.no_grad():
        states = made.model(
            input_ids=torch.tensor([ids]), position_ids=positions, **processed
        ).last_hidden_state[0]
    state = states[ids.index(words.token_to_id("<|Reward|>"))]
    for layer in ("0", "3", "5"):
        state = head[f"rm_head.{layer}.weight"] @ state + head[f"rm_head.{layer}.bias"]
        state = state.relu() if layer != "5" else state
    return state


def test_hpsv3_is_what_transformers_computes_with_sequential_positions(tmp_path: Path) -> None:
    folder, made, head = tiny.write_hpsv3(tmp_path)
    images = [smooth_image(150, 100), smooth_image(150, 100), smooth_image(60, 130)]
    found = load_reward("hpsv3", str(folder)).score_parts(images, PROMPTS)
    wanted = [by_transformers(made, head, *pair) for pair in zip(images, PROMPTS, strict=True)]
    np.testing.assert_allclose(
        np.stack([found["hpsv3"], found["hpsv3.sigma"]], 1), torch.stack(wanted), rtol=1e-4, atol=1e-4
    )
    assert found["hpsv3"].std() > 0.01


def numbers(reward: Reward) -> np.ndarray:
    clips = [Clip(tiny.frames(), 8), Clip(tiny.frames(5, 30, 90), 8), Clip(tiny.frames(), 8)]
    return np.stack(list(reward.score_parts(clips, PROMPTS).values()), 1)


def test_adapters_are_added_in(tmp_path: Path) -> None:
    merged, wrapped = tiny.videoreward_states()
    folders = [
        tiny.write_videoreward(tmp_path / "merged", merged, lora=False),
        tiny.write_videoreward(tmp_path / "wrapped", wrapped, lora=True),
    ]
    plain, found = (numbers(load_reward("videoreward", str(folder))) for folder in folders)
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-4)
    weight = "base_model.model.model.layers.0.mlp.up_proj.lora_B.default.weight"
    wrapped[weight] = torch.zeros_like(wrapped[weight])
    without = tiny.write_videoreward(tmp_path / "without", wrapped, lora=True)
    assert np.abs(numbers(load_reward("videoreward", str(without))) - plain).max() > 0.01


def test_adapters_saved_alone_are_added_to_the_base_model(tmp_path: Path) -> None:
    merged, wrapped = tiny.videoreward_states()
    base = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): value
        for name, value in wrapped.items()
        if ".lora_" not in name and "visual." not in name
    }
    vision = {name: torch.zeros_like(value) for name, value in merged.items() if name.startswith("visual.")}
    folder = tiny.write_adapter(tmp_path / "alone", wrapped, base | vision, number=9)
    plain = tiny.write_videoreward(tmp_path / "merged", merged, lora=False)
    reward = load_reward("videoreward", str(folder))
    np.testing.assert_allclose(
        numbers(reward), numbers(load_reward("videoreward", str(plain))), rtol=1e-4, atol=1e-4
    )
    before = fingerprint("videoreward", str(folder))
    tiny.write_videoreward(tmp_path / "other", merged, lora=False)
    (folder / "checkpoint-8").mkdir()
    (tmp_path / "other/checkpoint-7/model.pth").rename(folder / "checkpoint-8/model.pth")
    assert fingerprint("videoreward", str(folder)) == before, "the latest is read, whatever its form"
    torch.save(
        {"base_model.model.rm_head.weight": torch.zeros(3, 32)},
        folder / "checkpoint-9/non_lora_state_dict.pth",
    )
    assert fingerprint("videoreward", str(folder)) != before
    (folder / "base/model.safetensors").unlink()
    with pytest.raises(TgoError, match=r"lacks base/model\.safetensors"):
        load_reward("videoreward", str(folder))
    torch.save(
        {"base_model.model.rm_head.weight": Harmful()}, folder / "checkpoint-9/non_lora_state_dict.pth"
    )
    save_file(base | vision, folder / "base/model.safetensors")
    with pytest.raises(TgoError, match="holds more than tensors"):
        load_reward("videoreward", str(folder))


def test_the_latest_checkpoint_is_read_and_the_sum_is_of_standardised_numbers(tmp_path: Path) -> None:
    merged, _ = tiny.videoreward_states()
    folder = tiny.write_videoreward(tmp_path, merged, lora=False, number=10)
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-9/model.pth").write_bytes(b"an earlier one")
    found = numbers(load_reward("videoreward", str(folder)))
    np.testing.assert_allclose(found[:, 0], found[:, 1:].sum(1), rtol=0, atol=1e-5)
    (tmp_path / "model_config.json").write_text(
        json.dumps({**tiny.videoreward_config(False), "inference_config": None})
    )
    raw = numbers(load_reward("videoreward", str(tmp_path / "checkpoint-10/model.pth")))
    norms = np.array(
        [[tiny.NORMS[f"{part}_{key}"] for part in ("VQ", "MQ", "TA")] for key in ("mean", "std")]
    )
    np.testing.assert_allclose(found[:, 1:], (raw[:, 1:] - norms[0]) / norms[1], rtol=0, atol=1e-5)


def test_a_saved_reward_is_the_same_reward(tmp_path: Path) -> None:
    folder, _, _ = tiny.write_hpsv3(tmp_path / "one")
    reward: Any = load_reward("hpsv3", str(folder))
    reward.save(tmp_path / "other")
    images = [smooth_image(90, 120)] * 3
    again = load_reward("hpsv3", str(tmp_path / "other")).score(images, PROMPTS)
    np.testing.assert_array_equal(again, reward.score(images, PROMPTS))
    assert fingerprint("hpsv3", str(folder)) != fingerprint("hpsv3", str(tmp_path / "other"))


def test_columns_of_parts_are_asked_for(tmp_path: Path) -> None:
    from tgo_pipeline.rewards import score_all

    reward = load_reward("hpsv3", str(tiny.write_hpsv3(tmp_path)[0]))
    images = [smooth_image(60, 60), b"no image"]
    alone = score_all({"h": reward}, images, prompt="a fox")
    both = score_all({"h": reward}, images, prompt="a fox", parts=True)
    assert list(alone.columns) == ["h"] and list(both.columns) == ["h", "h.sigma"]
    assert list(both.errors) == [1] and np.isnan(both.columns["h.sigma"][1])
    np.testing.assert_array_equal(alone.columns["h"], both.columns["h"])


@pytest.mark.parametrize("lost", ["visual.blocks.1.attn.qkv.weight", "model.norm.weight", "rm_head.3.bias"])
def test_a_missing_tensor_is_named_as_in_the_file(lost: str, tmp_path: Path) -> None:
    folder, _, _ = tiny.write_hpsv3(tmp_path)
    state = load_file(folder / "HPSv3.safetensors")
    del state[lost]
    save_file(state, folder / "HPSv3.safetensors")
    with pytest.raises(TgoError, match=f"it lacks {lost}"):
        load_reward("hpsv3", str(folder))


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    _, wrapped = tiny.videoreward_states()
    folder = tiny.write_videoreward(tmp_path / "video", wrapped, lora=False)
    with pytest.raises(TgoError, match="adapters of rank 2, its configuration states no adapter"):
        load_reward("videoreward", str(folder))
    half = {name: value for name, value in wrapped.items() if "1.mlp.up_proj.lora_A" not in name}
    folder = tiny.write_videoreward(tmp_path / "half", half, lora=True)
    with pytest.raises(TgoError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.lora_A\.default\.weight"):
        load_reward("videoreward", str(folder))
    image, _, _ = tiny.write_hpsv3(tmp_path / "image")
    with pytest.raises(TgoError, match="is the official file of hpsv3"):
        load_reward("videoreward", str(image / "HPSv3.safetensors"))
    with pytest.raises(TgoError, match=r"lacks model_config\.json"):
        (tmp_path / "half/model_config.json").unlink()
        load_reward("videoreward", str(tmp_path / "half"))
    (image / "base/tokenizer.json").write_text("{}")
    with pytest.raises(TgoError, match=r"tokenizer\.json is no tokenizer"):
        load_reward("hpsv3", str(image))
    words = tiny.tokenizer()
    words.add_special_tokens(["<|more|>"])
    words.save(str(image / "base/tokenizer.json"))
    with pytest.raises(TgoError, match="has 265 tokens with those for scores, its weights embed 264"):
        load_reward("hpsv3", str(image))
    (image / "base/config.json").write_text('{"model_type": "qwen3_vl"}')
    with pytest.raises(TgoError, match="must be a Qwen2-VL"):
        load_reward("hpsv3", str(image))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("data_config", "eval_dim", ["VQ", "TA"]),
        ("model_config", "reward_token", "last"),
        ("peft_lora_config", "use_rslora", True),
        ("inference_config", "VQ_std", "wide"),
    ],
)
def test_another_kind_of_model_is_refused(part: str, key: str, value: object, tmp_path: Path) -> None:
    merged, _ = tiny.videoreward_states()
    folder = tiny.write_videoreward(tmp_path, merged, lora=False)
    stated = tiny.videoreward_config(False)
    stated[part][key] = value
    (folder / "model_config.json").write_text(json.dumps(stated))
    with pytest.raises(TgoError, match=r"model_config\.json"):
        load_reward("videoreward", str(folder))


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_a_file_that_holds_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.write_videoreward(tmp_path, {"model.norm.weight": Harmful()}, lora=True)  # type: ignore[dict-item]
    with pytest.raises(TgoError, match="holds more than tensors"):
        load_reward("videoreward", str(folder))
    assert "run" not in capsys.readouterr().out


def test_there_are_no_demo_weights() -> None:
    with pytest.raises(TgoError, match="reward hpsv3 has no tiny weights"):
        load_reward("hpsv3", "demo")


@pytest.mark.parametrize("token", ["<|Reward|>", "<|image_pad|>"])
def test_a_prompt_with_a_place_for_a_score_is_refused(token: str, tmp_path: Path) -> None:
    reward = load_reward("hpsv3", str(tiny.write_hpsv3(tmp_path)[0]))
    with pytest.raises(TgoError, match=r"holds <\|.*leave it out"):
        reward.score([smooth_image(60, 60)], [f"a fox {token}"])


def test_half_precision_is_bf16(tmp_path: Path) -> None:
    folder = str(tiny.write_hpsv3(tmp_path)[0])
    images = [smooth_image(60 + 9 * n, 90) for n in range(3)]
    exact = load_reward("hpsv3", folder).score(images, PROMPTS)
    half: Any = load_reward("hpsv3", folder, dtype="bf16")
    assert half.precision == half.identity["dtype"] == "bf16"
    error = np.abs(half.score(images, PROMPTS) - exact).max()
    assert 0 < error < 0.1 * np.abs(exact).max()
    with pytest.raises(TgoError, match="computes in bf16 or fp32"):
        load_reward("hpsv3", folder, dtype="fp16")
    with pytest.raises(TgoError, match="load it again"):
        half.set_precision("fp32")


def test_on_a_pretended_gpu_it_is_bf16_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tiny.write_hpsv3(tmp_path / "image")[0])
    video = str(tiny.write_videoreward(tmp_path / "video", tiny.videoreward_states()[1], lora=True))
    images, clips = [smooth_image(60 + 9 * n, 90) for n in range(3)], [Clip(tiny.frames(), 8)] * 3
    exact = load_reward("hpsv3", folder).score(images, PROMPTS)
    exact_clips = load_reward("videoreward", video).score(clips, PROMPTS)
    with pretended(monkeypatch) as machine:
        reward, other = load_reward("hpsv3", folder, "cuda"), load_reward("videoreward", video, "cuda")
        assert reward.identity["dtype"] == other.identity["dtype"] == "bf16"
        found, found_clips = reward.score(images, PROMPTS), other.score(clips, PROMPTS)
    assert machine.used
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.1 * np.abs(exact).max())
    np.testing.assert_allclose(found_clips, exact_clips, rtol=0, atol=0.1 * np.abs(exact_clips).max())


def test_images_are_refused_before_it_is_loaded() -> None:
    for wanted in ({"videoreward": "somewhere"}, {"quality": "videoreward=somewhere"}):
        (spec,) = specs.resolve_all(wanted).values()
        with pytest.raises(TgoError, match="videoreward scores clips, and images are scored here"):
            specs.of_images(spec)
