"""Draw images with a pipeline, each from a seed of its own, and store them as PNG."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tgo_pipeline.devices import is_out_of_memory
from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    from PIL.Image import Image

    from tgo_pipeline.params import GenerateParams

log = logging.getLogger("tgo")
PNG_COMPRESSION = 3
"""zlib's level: about 5 % larger than the default of 6, and several times faster to write."""


class Sampler:
    """A pipeline with its sampling parameters; the batch size halves whenever the device runs out of memory.

    Every image starts from a generator of its own on the CPU, so it does not depend on what else is in its batch,
    nor on the device's random numbers.
    """

    def __init__(
        self, pipeline: Any, params: GenerateParams, batch_size: int, hints: Mapping[str, str] | None = None
    ) -> None:
        """`hints` are what a tuned model asks for: `prompt_prefix` and `negative_prompt` (see `sampling_hints`)."""
        self.batch_size = batch_size
        self._pipeline = pipeline
        self._hints = hints or {}
        self._options = {"guidance_scale": params.guidance_scale, "num_inference_steps": params.steps}
        size = {"width": params.width, "height": params.height}
        self._options |= {name: value for name, value in size.items() if value is not None}

    def images(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Image]:
        """Yield one RGB image per (prompt, seed), in order.

        Raises `TgoError` if not even one image fits into memory, or if the pipeline refuses the parameters.
        """
        start = 0
        while start < len(prompts):
            end = start + self.batch_size
            try:
                batch = self._draw(prompts[start:end], seeds[start:end])
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
                continue
            yield from batch
            start = end

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image]:
        import torch

        from tgo_pipeline.generators.masked import seeded_by_picture
        from tgo_pipeline.generators.networks.finite import watched

        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        texts = {"prompt": [self._hints.get("prompt_prefix", "") + prompt for prompt in prompts]}
        if negative := self._hints.get("negative_prompt"):
            texts["negative_prompt"] = [negative] * len(prompts)
        try:
            with seeded_by_picture(self._pipeline), watched(self._pipeline):
                return self._pipeline(**texts, generator=generators, **self._options).images
        except (TypeError, ValueError) as error:
            options = ", ".join(f"{name}={value}" for name, value in self._options.items())
            raise TgoError(
                f"{type(self._pipeline).__name__} cannot sample with {options}: {error}"
            ) from error

    def _halve(self, error: RuntimeError) -> None:
        import torch

        if self.batch_size == 1:
            raise TgoError(
                f"not even one image fits into memory ({error}): choose a smaller width and height or another device."
            ) from error
        self.batch_size //= 2
        log.warning(
            "out of memory: going on with batches of %d (runtime.generate_batch_size)", self.batch_size
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def png(image: Image) -> bytes:
    """The bytes of an RGB PNG."""
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "PNG", compress_level=PNG_COMPRESSION)
    return stream.getvalue()
