"""HPSv3: how much people like an image for a prompt, as mean and spread, by Qwen2-VL 7B (arXiv:2508.03789).

Folder: `HPSv3.safetensors`; `base/` with `config.json`, `tokenizer.json` and `tokenizer_config.json` of the base model;
`data_collator_qwen.py` of the official package, whose instruction does not ship (`instruction.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from PIL import Image
from torch import Tensor, nn
from transformers import Qwen2VLConfig

from tgo_pipeline.devices import to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.files.layouts import Files
from tgo_pipeline.rewards.networks.precision import Precision
from tgo_pipeline.rewards.specs import PARTS
from tgo_pipeline.rewards.vision_language.chat import Chat
from tgo_pipeline.rewards.vision_language.reward import VisionLanguageReward
from tgo_pipeline.rewards.vision_language.sizes import FACTOR, resized

WIDTHS = (1024, 16, 2)
"""Of the head's layers."""
_LAYERS = (0, 3, 5)
"""Their places in the official head, between which are ReLU and dropout."""


@dataclass(frozen=True)
class WholeImage:
    """Resize by Pillow to some `pixels` in multiples of 28, whatever the size was before."""

    pixels: int = 256 * FACTOR * FACTOR

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image to uint8 (3, h, w). Raises `UnreadableImage` if it is too long."""
        height, width = resized(image.height, image.width, self.pixels, self.pixels)
        levels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        return np.ascontiguousarray(levels.transpose(2, 0, 1))

    def finish(self, pixels: list[np.ndarray]) -> list[np.ndarray]:
        """The same: images of different sizes are normalised when they are cut into patches."""
        return pixels

    def differentiable(self, images: Tensor) -> Tensor:
        """Raises `TgoError`: there is no gradient."""
        raise TgoError("reward hpsv3 has no gradient: its images are resized by Pillow.")


class HPSv3(VisionLanguageReward):
    """A head of three layers on the state at one token: mu, the score, and sigma as the head gives it."""

    parts = PARTS["hpsv3"]
    reward_tokens = ("<|Reward|>",)

    def __init__(self, config: Qwen2VLConfig, chat: Chat, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__(
            "hpsv3", "HPSv3: mu, unbounded; .sigma as the head gives it", WholeImage(), config, chat
        )
        self.head = _head(self.network.language.config.hidden_size, *widths)

    @classmethod
    def load(cls, name: str, files: Files, precision: Precision = "fp32") -> HPSv3:
        """Build from files. Raises `TgoError` if they do not fit together or the instruction is missing."""
        chat = Chat.read(files, "image", cls.reward_tokens)

        def build(config: Qwen2VLConfig, state: Mapping[str, Tensor]) -> HPSv3:
            layers = [state.get(f"rm_head.{layer}.weight") for layer in _LAYERS]
            return cls(config, chat, [len(layer) for layer in layers if layer is not None] or WIDTHS)

        return cls._filled(build, files, chat, precision)

    @property
    def weight_file(self) -> str:
        return "HPSv3.safetensors"

    def encode_images(self, pixels: list[np.ndarray]) -> list[Tensor]:
        """Features (N, D) of each image; equal images have one and the same tensor."""
        keys = [(image.shape, xxhash.xxh3_128_digest(image.data)) for image in pixels]
        distinct = dict(zip(keys, pixels, strict=True))
        levels = [to_device(torch.from_numpy(image)[None], self.device) for image in distinct.values()]
        seen = dict(zip(distinct, self.network.see(levels), strict=True))
        return [seen[key] for key in keys]

    def numbers(self, images: Sequence[Tensor], tails: Sequence[Sequence[int]]) -> Tensor:
        """(B, 2): mu and sigma."""
        return self.head(self.states(images, tails)[:, 0])


def _head(width: int, first: int, second: int, last: int) -> nn.Sequential:
    """As the official `ranknet` names its layers; the dropout does nothing here, and keeps their places."""
    return nn.Sequential(
        nn.Linear(width, first),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, last),
    )
