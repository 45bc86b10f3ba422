"""How much of the text that a prompt quotes can be read in the image: 1 − edit distance / length, by RapidOCR.

    a shop with the sign "Open Late"      # 1.0 where the image says Open Late; 0.0 where it says nothing alike

The measure is flow_grpo's (arXiv:2505.05470): case and blanks count for nothing, what is read is joined, and a quoted
text that appears among other text counts as read. Needs the extra `ocr`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.base import Reward, as_objects
from tgo_pipeline.rewards.custom import AsIs

_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»|「([^」]+)」')


class QuotedText(Reward):
    """From 0 to 1; prompts that quote nothing have no score, and say so."""

    typical_range = (0.0, 1.0)

    def __init__(self) -> None:
        super().__init__("ocr", "share of the quoted text that is read, 0 to 1", AsIs())

    @cached_property
    def _reader(self) -> Any:
        try:
            from rapidocr import RapidOCR  # type: ignore[import-not-found]
        except ImportError as error:
            raise TgoError("reward ocr reads text with RapidOCR: pip install 'tgo-pipeline[ocr]'") from error
        return RapidOCR(params={"Global.log_level": "error"})

    def encode_images(self, pixels: Sequence[Image.Image]) -> np.ndarray:
        """What is read in each image, joined without blanks, (B,)."""
        return as_objects(_plain("".join(self._read(image))) for image in pixels)

    def _read(self, image: Image.Image) -> Sequence[str]:
        return self._reader(np.asarray(image)[..., ::-1]).txts or ()

    def encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """What each prompt quotes, joined without blanks, (B,)."""
        return as_objects(_plain("".join(quoted(prompt))) for prompt in prompts)

    def combine(self, images: np.ndarray, prompts: np.ndarray) -> Tensor:
        """The share that is read of what is quoted; `reasons` names prompts that quote nothing."""
        self.reasons = [None if asked else "gave no score: the prompt quotes no text" for asked in prompts]
        pairs = zip(images, prompts, strict=True)
        return torch.tensor([share_read(read, asked) for read, asked in pairs], dtype=torch.float32)


def quoted(prompt: str) -> list[str]:
    """The texts that a prompt has in double quotation marks of any kind, in order."""
    return [next(filter(None, found)) for found in _QUOTED.findall(prompt)]


def share_read(read: str, asked: str) -> float:
    """1 − edit distance / length, at least 0; 1 if all that is asked appears somewhere. NaN if nothing is asked."""
    if not asked:
        return float("nan")
    return 1.0 if asked in read else max(0.0, 1 - edit_distance(read, asked) / len(asked))


def edit_distance(one: str, other: str) -> int:
    """Insertions, deletions and substitutions that make one text of the other (Levenshtein)."""
    row = list(range(len(other) + 1))
    for number, symbol in enumerate(one, 1):
        before, row[0] = row[0], number
        for place, each in enumerate(other, 1):
            before, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, before + (symbol != each)),
            )
    return row[-1]


def _plain(text: str) -> str:
    return "".join(text.split()).casefold()
