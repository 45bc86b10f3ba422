"""What HPSv3 and VideoReward share: one Qwen2-VL reads an image or a clip and a text, and a head reads its states."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import Qwen2VLConfig

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.checkpoint import described_by, write_json, write_weights
from tgo_pipeline.rewards.base import NetworkReward, as_objects, empty
from tgo_pipeline.rewards.engine.scorable import Preparation
from tgo_pipeline.rewards.files.layouts import Files
from tgo_pipeline.rewards.networks.precision import Precision, rounded
from tgo_pipeline.rewards.vision_language.chat import CONFIG, Chat
from tgo_pipeline.rewards.vision_language.qwen2_vl import Qwen2VL, TextRow, read_config
from tgo_pipeline.rewards.vision_language.weights import (
    EMBEDDING,
    Lora,
    load_state,
    official_state_dict,
    read_state,
)


class VisionLanguageReward(NetworkReward):
    """A Qwen2-VL with a head; `reward_tokens` in the text are the places whose states the head reads."""

    half_precision = "bf16"
    reward_tokens: ClassVar[tuple[str, ...]]

    def __init__(
        self, name: str, scale: str, preprocessing: Preparation, config: Qwen2VLConfig, chat: Chat
    ) -> None:
        super().__init__(name, scale, preprocessing)
        self.config = config
        self.chat = chat
        self.network = Qwen2VL(config, chat.vocabulary_size)
        self.head: nn.Module

    @property
    def towers(self) -> list[nn.ModuleList]:
        return self.network.towers

    @property
    def has_gradient(self) -> bool:
        """No: images are resized by Pillow, each to a size of its own."""
        return False

    def set_precision(self, precision: str) -> Self:
        """Let the blocks compute in `bf16` or leave them in `fp32`; the head and what lies between blocks stay float32.

        Raises `TgoError` for fp16, whose numbers Qwen2-VL exceeds, and for fp32 after bf16.
        """
        if precision not in ("fp32", "bf16"):
            raise TgoError(
                f"reward {self.name} computes in bf16 or fp32: {precision} cannot hold what its network computes. "
                "Leave dtype at auto, which is bf16 on a GPU."
            )
        if precision == "fp32" and self.precision == "bf16":
            raise TgoError(
                f"reward {self.name}: its weights are rounded to bf16; load it again to have it in fp32."
            )
        if precision == "bf16":
            rounded(self.towers, torch.bfloat16)
        return self

    def compile_towers(self, backend: str = "inductor") -> Self:
        """As it is: sequences of ever different lengths would be compiled again and again."""
        return self

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids of what follows the image, padded with 0, int64 (B, L)."""
        tails = [torch.tensor(self.chat.tail(prompt)) for prompt in prompts]
        return nn.utils.rnn.pad_sequence(tails, batch_first=True)

    def encode_prompts(self, prompts: Sequence[str]) -> Any:
        """Token ids of what follows the image, a tuple for each prompt, (B,); of one that cannot be read, why not."""
        return as_objects(self.chat.refusal(prompt) or self.chat.tail(prompt) for prompt in prompts)

    def combine(self, images: Any, prompts: Any) -> Tensor:
        """The first column of `combine_parts`, (B,)."""
        return self.combine_parts(images, prompts)[:, 0]

    def combine_parts(self, images: Any, prompts: Any) -> Tensor:
        """What the head gives, (B, 1 + P); NaN, with a reason, where the prompt cannot be read."""
        self.reasons = [prompt if isinstance(prompt, str) else None for prompt in prompts]
        rows = [row for row, reason in enumerate(self.reasons) if reason is None]
        found = torch.full((len(prompts), 1 + len(self.parts)), torch.nan, device=self.device)
        if rows:
            with torch.autocast(self.device.type, enabled=False):
                found[rows] = self.numbers([images[row] for row in rows], [prompts[row] for row in rows])
        return found

    @abstractmethod
    def numbers(self, images: Sequence[Tensor], tails: Sequence[Sequence[int]]) -> Tensor:
        """What the head gives for encoded images and tails, (B, 1 + P)."""

    def states(self, features: Sequence[Tensor], tails: Sequence[Sequence[int]]) -> Tensor:
        """Hidden states at the reward tokens, (B, K, D). Rows of one image have one and the same tensor of features."""
        rows = [self._row(*pair) for pair in zip(features, tails, strict=True)]
        return self.network.read(self.chat.head, rows)

    def _row(self, features: Tensor, tail: Sequence[int]) -> TextRow:
        places = self.chat.places(tail)
        return TextRow(features, tail[: places[-1] + 1], places)

    @classmethod
    def _filled(
        cls, reward_of: Any, files: Files, chat: Chat, precision: Precision, lora: Lora | None = None
    ) -> Self:
        """The reward with the weights of `files`; `reward_of` builds it from a configuration and the weights."""
        path = files.path(CONFIG)
        config = read_config(path)
        state = read_state(files, chat.vocabulary_size, lora)
        rows = len(state.get(EMBEDDING, ()))
        if rows and rows != chat.vocabulary_size:
            raise TgoError(
                f"reward {files.name}: its tokenizer has {chat.vocabulary_size} tokens with those for scores, its "
                f"weights embed {rows}: the files in base/ belong to another model."
            )
        with described_by(path):
            reward = empty(lambda: reward_of(config, state)).set_precision(precision)
        load_state(reward, state, files.weights)
        return reward

    def official_state_dict(self) -> dict[str, Tensor]:
        return official_state_dict(self)

    @property
    @abstractmethod
    def weight_file(self) -> str:
        """Where the weights lie in a folder."""

    def save(self, folder: Path, metadata: dict[str, str] | None = None) -> None:
        """The weights and the base model's files; the instruction as `instruction.txt`."""
        write_weights(folder / self.weight_file, self.official_state_dict(), metadata)
        write_json(folder / CONFIG, self.config.to_dict())
        self.chat.save(folder)
