"""The reward `judge`: what a model behind a URL says of an image and a prompt, as a number."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image
from torch import Tensor

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.custom import PlainReward
from tgo_pipeline.rewards.judge.answers import NoScore, number
from tgo_pipeline.rewards.judge.client import Client
from tgo_pipeline.rewards.judge.settings import Settings
from tgo_pipeline.storage.stores.inputs import local_path

log = logging.getLogger("tgo")
SAID_EVERY_S = 60.0


class Judge(PlainReward):
    """Asks about the images of a batch at the same time; what got no usable answer has NaN and a reason."""

    def __init__(self, settings: Settings) -> None:
        low, high = (0.0, 1.0) if settings.answer == "yes" else (settings.low, settings.high)
        super().__init__("judge", f"{settings.model}, {low:g} to {high:g}")
        self.typical_range = (low, high)
        self.settings = settings
        self.client = Client(settings)
        self._said_s = time.monotonic()

    @classmethod
    def of_source(cls, source: str | None, device: torch.device) -> Judge:
        """From the file that describes it. Raises `TgoError` if there is none, or it cannot be used."""
        if source is None or not local_path(source).is_file():
            given = "no source" if source is None else f"{source}, which is no file"
            raise TgoError(
                f"reward judge was given {given}: name a file that describes it, judge=judge.yaml."
            )
        return cls(Settings.read(local_path(source)))

    def combine(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Ask about all images at a time, as many at once as the settings allow; `reasons` says what failed."""
        with ThreadPoolExecutor(min(self.settings.concurrency, len(images))) as pool:
            answers = list(pool.map(self._answer, images, prompts))
        self.reasons = [f"gave no score: {each}" if isinstance(each, str) else None for each in answers]
        self._say()
        return torch.tensor([float("nan") if isinstance(each, str) else each for each in answers])

    def _answer(self, image: Image.Image, prompt: str) -> float | str:
        try:
            return number(self.client.ask(image, prompt), self.settings)
        except NoScore as error:
            return str(error)

    def _say(self) -> None:
        """What answers have taken, now and then."""
        if time.monotonic() - self._said_s < SAID_EVERY_S:
            return
        self._said_s = time.monotonic()
        used = self.client.usage
        cost = f", {used.cost(self.settings):.4g} by your prices" if used.cost(self.settings) else ""
        log.info(
            "%s: %d answers (and %d kept from earlier), %d without; %d tokens read and %d written%s",
            *(self.name, used.answers, used.kept, used.failures, used.tokens_in, used.tokens_out),
            cost,
        )
