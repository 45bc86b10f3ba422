"""VQAScore with a tiny Qwen2-VL as transformers saves it, against a pass by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from tests.rewards.tiny import smooth_image
from tests.rewards.vision_language import tiny
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import fingerprint, load_reward
from tgo_pipeline.rewards.vision_language.vqa_score import QUESTION


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    made = tiny.network(tiny.BYTES + len(tiny.SPECIAL), tied=False, seed=3)
    made.save_pretrained(place)
    words = PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer(), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    words.image_token, words.video_token = "<|image_pad|>", "<|video_pad|>"
    limits = {"min_pixels": 3136, "max_pixels": 40000}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessorPil(**limits), words, Qwen2VLVideoProcessor(), chat_template=tiny.TEMPLATE
    )
    processor.save_pretrained(place)
    return place


def test_it_is_the_probability_of_yes(folder: Path) -> None:
    reward = load_reward("vqascore", str(folder))
    images, prompts = [smooth_image(80, 60), smooth_image(60, 90)], ["a fox", 'a "red" fox']
    found = reward.score(images, prompts)
    again = reward.score([images[1]], [prompts[1]])
    assert found[1] == pytest.approx(again[0], abs=1e-6)
    model, processor = reward.model, reward.processor
    for image, prompt, score in zip(images, prompts, found, strict=True):
        question = f"<|vision_start|><|image_pad|><|vision_end|>{QUESTION.format(prompt)}<|im_end|>"
        text = (
            f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{question}\n<|im_start|>assistant\n"
        )
        with torch.no_grad():
            logits = model(**processor(images=[image], text=[text], return_tensors="pt")).logits[0, -1]
        place = tiny.tokenizer().encode("Yes").ids[0]
        assert score == pytest.approx((logits.exp() / logits.exp().sum())[place].item(), rel=1e-4)
    assert found.std() > 0 and np.all((found > 0) & (found < 1))


def test_what_is_no_model_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(TgoError, match="was given no source"):
        load_reward("vqascore")
    with pytest.raises(TgoError, match="which is no folder"):
        load_reward("vqascore", "org/name")
    with pytest.raises(TgoError, match="holds no vision-language model"):
        load_reward("vqascore", str(tmp_path))
    assert fingerprint("vqascore", str(folder)) != fingerprint("vqascore", str(tmp_path))
