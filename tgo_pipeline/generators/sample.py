"""Draw images or clips with a pipeline, each from a seed of its own, and store them as PNG or as video."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.memory import Halving

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from tgo_pipeline.params import GenerateParams

log = logging.getLogger("tgo")
PNG_COMPRESSION = 3
"""zlib's level: about 5 % larger than the default of 6, and several times faster to write."""
CLIP_PIPELINES = {"WanPipeline": 16.0}
"""Classes of pipelines that draw clips, and the frames a second that their models were trained at."""


class Sampler:
    """A pipeline with its sampling parameters; the batch size halves whenever the device runs out of memory.

    Every image starts from a generator of its own on the CPU, so it does not depend on what else is in its batch,
    nor on the device's random numbers.
    """

    def __init__(
        self, pipeline: Any, params: GenerateParams, batch_size: int, hints: Mapping[str, str] | None = None
    ) -> None:
        """`hints` are what a tuned model asks for: `prompt_prefix` and `negative_prompt` (see `sampling_hints`)."""
        advice = "choose a smaller width and height or another device"
        self._size = Halving(batch_size, "runtime.generate_batch_size", "image", advice)
        self._pipeline = pipeline
        slice_decoder(pipeline)
        self._hints = hints or {}
        self._options = {"guidance_scale": params.guidance_scale, "num_inference_steps": params.steps}
        size = {"width": params.width, "height": params.height}
        self._options |= {name: value for name, value in size.items() if value is not None}
        own_fps = CLIP_PIPELINES.get(type(pipeline).__name__)
        self.fps = None if own_fps is None else params.fps or own_fps
        """Frames a second of the clips that are drawn; None where images are."""
        if self.fps is not None:
            self._options |= _clip_options(pipeline, params.frames)
        elif params.frames or params.fps:
            raise TgoError(
                f"generate.frames and fps are for models that draw clips, and {type(pipeline).__name__} draws images: "
                "leave them out."
            )

    def images(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Any]:
        """Yield one RGB image, or one clip as an array uint8 (T, H, W, 3), per (prompt, seed), in order.

        Raises `TgoError` if not even one image fits into memory, or if the pipeline refuses the parameters.
        """
        for batch in self.batches(prompts, seeds):
            yield from batch

    def warn_of_long(self, prompts: Sequence[str]) -> None:
        """Log how many of the prompts, as they are drawn, are longer than the text encoders take."""
        from tgo_pipeline.generators.long_prompts import warn_of_long

        warn_of_long(self._pipeline, self._texts(prompts))

    def _texts(self, prompts: Sequence[str]) -> list[str]:
        return [self._hints.get("prompt_prefix", "") + prompt for prompt in prompts]

    def batches(
        self, prompts: Sequence[str], seeds: Sequence[int], start: int = 0
    ) -> Iterator[Sequence[Any]]:
        """Yield what `images` does in the batches that are drawn, without the first `start` images."""
        wanted = itertools.islice(zip(prompts, seeds, strict=True), start, None)
        yield from self._size.batches(wanted, self._draw)

    def read(self, prompts: Sequence[str]) -> None:
        """Let the text encoders read what `images` would draw, in the same batches, and draw nothing.

        For a pipeline whose encoders are put aside (`networks.read_texts`); its network need not be on the device.
        """
        from tgo_pipeline.generators.adapters import network_name
        from tgo_pipeline.generators.networks.read_texts import Read, reading

        def work(wanted: Sequence[tuple[str, int]]) -> None:
            with contextlib.suppress(Read):
                self._draw(wanted)

        with reading(self._pipeline, getattr(self._pipeline, network_name(self._pipeline))):
            for _ in self._size.batches([(prompt, 0) for prompt in prompts], work):
                pass

    def _draw(self, wanted: Sequence[tuple[str, int]]) -> list[Any]:
        import torch

        from tgo_pipeline.generators.masked import seeded_by_image
        from tgo_pipeline.generators.networks.finite import watched

        prompts, seeds = zip(*wanted, strict=True)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        texts = {"prompt": self._texts(prompts)}
        if negative := self._hints.get("negative_prompt"):
            texts["negative_prompt"] = [negative] * len(prompts)
        try:
            with seeded_by_image(self._pipeline), watched(self._pipeline):
                drawn = self._pipeline(**texts, generator=generators, **self._options)
        except (TypeError, ValueError) as error:
            options = ", ".join(f"{name}={value}" for name, value in self._options.items())
            raise TgoError(
                f"{type(self._pipeline).__name__} cannot sample with {options}: {error}"
            ) from error
        return drawn.images if self.fps is None else _levels(drawn.frames)


def _clip_options(pipeline: Any, frames: int | None) -> dict[str, Any]:
    """What a pipeline of clips is told besides. Raises `TgoError` for frames that it would round."""
    check_frames(frames, pipeline.vae_scale_factor_temporal, type(pipeline).__name__)
    return {"output_type": "np"} | ({} if frames is None else {"num_frames": frames})


def check_frames(frames: int | None, scale: int, kind: str) -> None:
    """Raise `TgoError` for a number of frames that a pipeline of class `kind` would round."""
    if frames is not None and (frames - 1) % scale:
        raise TgoError(
            f"generate.frames is {frames}: {kind} draws a multiple of {scale} and one more, such as "
            f"{frames - (frames - 1) % scale}."
        )


def _levels(clips: np.ndarray) -> list[np.ndarray]:
    """Clips of shades from 0 to 1, (N, T, H, W, 3), as 8 bits, rounded as the library rounds images."""
    return [(clip * 255).round().astype("uint8") for clip in clips]


def slice_decoder(pipeline: Any) -> None:
    """On a GPU let the VAE take one image at a time: a batch of large ones takes more than the rest of a pipeline.

    Not on a CPU: products of other shapes round differently there, and what was drawn before should be drawn again.
    """
    vae = getattr(pipeline, "vae", None)
    if vae is not None and hasattr(vae, "use_slicing") and vae.device.type != "cpu":
        vae.enable_slicing()


def lay_out_networks(pipeline: Any) -> None:
    """On a GPU put the convolutions of a pipeline that is not trained into the order that its kernels want."""
    from torch import nn

    from tgo_pipeline.generators.networks.held import lay_out

    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            lay_out(part)


def compile_network(pipeline: Any) -> None:
    """From now on run the network that denoises as compiled by torch, unless it is guided."""
    from tgo_pipeline.generators.adapters import network_name
    from tgo_pipeline.generators.guided_network import GuidedNetwork

    network = getattr(pipeline, network_name(pipeline))
    if isinstance(
        network, GuidedNetwork
    ):  # adapters go to their rows by hooks, which compiled code would leave out
        log.info("runtime.compile is of no effect on a guided model: it is drawn with as it is")
    else:
        network.compile()


def png(image: Image) -> bytes:
    """The bytes of an RGB PNG."""
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "PNG", compress_level=PNG_COMPRESSION)
    return stream.getvalue()


def stored(name: str, drawn: Any, fps: float | None) -> dict[str, Any]:
    """What a table has of a drawn sample: an image as PNG, or a clip as a master without loss and a small preview."""
    if fps is None:
        size = {"width": drawn.width, "height": drawn.height}
        return {"image": {"bytes": png(drawn), "path": f"{name}.png"}, **size}
    from tgo_pipeline.formats.video_files import lossless, preview

    (master, suffix), small = lossless(drawn, fps), preview(drawn, fps)
    return {
        "video": {"bytes": master, "path": f"{name}{suffix}"},
        "preview": small and {"bytes": small, "path": f"{name}-preview.mp4"},
        "frames": len(drawn),
        "fps": fps,
        "width": drawn.shape[2],
        "height": drawn.shape[1],
    }
