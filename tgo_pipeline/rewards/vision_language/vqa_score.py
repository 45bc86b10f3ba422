"""VQAScore: the probability that a vision-language model answers "Yes" when asked whether the image shows the prompt.

    load_reward("vqascore", "weights/Qwen3-VL-2B-Instruct", device="cuda")

Any model that `AutoModelForImageTextToText` loads, from a folder with its processor. One pass, no text is generated
(arXiv:2404.01291). Scores of different models are not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tgo_pipeline.errors import TgoError, first_line
from tgo_pipeline.rewards.custom import PlainReward
from tgo_pipeline.rewards.vision_language.chat import refusal
from tgo_pipeline.storage.stores.inputs import local_path

QUESTION = 'Does this figure show "{}"? Please answer Yes or No.'
ANSWER = "Yes"


class VQAScore(PlainReward):
    """A model, its processor, and the token that its answer would begin with."""

    typical_range = (0.0, 1.0)

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__("vqascore", "probability of the answer Yes, 0 to 1")
        self.model = model
        self.processor = processor
        self.special: list[str] = [*processor.tokenizer.all_special_tokens, *_added(processor.tokenizer)]
        self.answer: int = processor.tokenizer.encode(ANSWER, add_special_tokens=False)[0]

    @classmethod
    def of_source(cls, source: str | None, device: torch.device) -> VQAScore:
        """From a folder. Raises `TgoError` if it holds no vision-language model that transformers knows."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if source is None or not local_path(source).is_dir():
            given = "no source" if source is None else f"{source}, which is no folder"
            raise TgoError(
                f"reward vqascore was given {given}: name the folder of a vision-language model, such as "
                "vqascore=weights/Qwen3-VL-2B-Instruct."
            )
        folder = str(local_path(source))
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        try:
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, local_files_only=True)
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise TgoError(
                f"reward vqascore: {folder} holds no vision-language model that transformers loads "
                f"({first_line(error)})."
            ) from error
        if not hasattr(processor, "tokenizer") or not getattr(processor, "chat_template", None):
            raise TgoError(f"reward vqascore: {folder} has no processor with a chat template: copy it whole.")
        return cls(model, processor)

    def combine(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Probabilities (B,); NaN, with a reason, where the prompt holds a special token of the model."""
        self.reasons = [refusal(prompt, self.special) for prompt in prompts]
        return torch.stack(
            [
                self._probability(image, prompt)
                if reason is None
                else torch.tensor(torch.nan, device=self.device)
                for image, prompt, reason in zip(images, prompts, self.reasons, strict=True)
            ]
        )

    def _probability(self, image: Image.Image, prompt: str) -> Tensor:
        content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION.format(prompt)}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.device, self.model.dtype)
        logits = self.model(**inputs, logits_to_keep=1).logits[0, -1].float()
        return logits.softmax(-1)[self.answer]


def _added(tokenizer: Any) -> list[str]:
    """Further special tokens, such as places of images, which tokenizers list apart."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
