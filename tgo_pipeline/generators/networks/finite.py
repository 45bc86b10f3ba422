"""No image of numbers that are none: a network that answers NaN or infinity ends the drawing, or is asked in float32.

Libraries turn NaN into black pixels, which would be stored, scored and trained on as an image.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tgo_pipeline.errors import TgoError

log = logging.getLogger("tgo")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
DECODERS = ("vae", "vqvae")


@contextlib.contextmanager
def watched(pipeline: Any) -> Iterator[None]:
    """While it lasts, drawing with the pipeline raises `TgoError` where a network answers NaN or infinity.

    Whether one did is asked of the device once a batch, before decoding. Rows whose decoding leaves the range of fp16
    are decoded in float32.
    """
    watch = _Watch(pipeline)
    with contextlib.ExitStack() as stack:
        for name in TEXT_ENCODERS:
            if (encoder := getattr(pipeline, name, None)) is not None:
                hook = functools.partial(watch.note_text, name)
                stack.callback(encoder.register_forward_hook(hook).remove)
        if (scheduler := getattr(pipeline, "scheduler", None)) is not None:
            stack.enter_context(_replaced(scheduler, "step", watch.step))
        for name in DECODERS:
            if (decoder := getattr(pipeline, name, None)) is not None:
                stack.enter_context(_replaced(decoder, "decode", functools.partial(watch.decode, name)))
        yield


class _Watch:
    """What was seen of the networks since the last decoding; flags stay on their device."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._flags: dict[str, Tensor] = {}

    def note_text(self, name: str, _module: Any, _args: Any, output: Any) -> None:
        """Forward hook of a text encoder: it is to blame if the network below it fails."""
        self._note(name, output[0])

    def step(self, step: Any, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's step, which is given what the network said after guidance."""
        self._note(_network_name(self._pipeline), args[0] if args else kwargs["model_output"])
        return step(*args, **kwargs)

    def decode(self, name: str, decode: Any, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The decoder's answer to latents that are numbers."""
        self._require(latents)
        output = decode(latents, *args, **kwargs)
        pixels = output[0]
        decoder = getattr(self._pipeline, name)
        rows = _broken_rows(pixels)
        if len(rows) and decoder.dtype == torch.float16:
            log.warning("the %s leaves the range of fp16: decoding such images in float32", name)
            pixels[rows] = _in_float32(decoder, decode, latents[rows], kwargs).to(pixels.dtype)
            rows = _broken_rows(pixels)
        if len(rows):
            raise _error(name, decoder, "decoding")
        return output

    def _note(self, name: str, answer: Tensor) -> None:
        finite = torch.isfinite(answer).all()
        self._flags[name] = self._flags[name] & finite if name in self._flags else finite

    def _require(self, latents: Tensor) -> None:
        network = _network_name(self._pipeline)
        fine = {name: bool(flag) for name, flag in self._flags.items()}
        self._flags.clear()
        if fine.get(network, True) and bool(torch.isfinite(latents).all()):
            return
        name = next((each for each, right in fine.items() if not right), network)
        doing = "denoising" if name == network else "reading the prompts"
        raise _error(name, getattr(self._pipeline, name), doing)


def require_numbers(answer: Tensor, name: str, network: Any, doing: str) -> None:
    """Raise `TgoError` naming the network unless its answer is numbers."""
    if not torch.isfinite(answer).all():
        raise _error(name, network, doing)


def _error(name: str, network: Any, doing: str) -> TgoError:
    dtype = getattr(network, "dtype", None)
    cure = "its weights, or those of an adapter on it, are damaged or have diverged: copy or train the model again"
    if dtype == torch.float16 and name not in DECODERS:  # which were asked in float32 too
        cure = "it may leave the range of fp16: set generate.precision to bf16 or fp32"
    return TgoError(
        f"the {name} ({type(network).__name__}, {str(dtype).removeprefix('torch.')}) answered with NaN or infinity "
        f"while {doing}, so there is no image: {cure}."
    )


def _network_name(pipeline: Any) -> str:
    return "unet" if getattr(pipeline, "unet", None) is not None else "transformer"


def _broken_rows(pixels: Tensor) -> Tensor:
    """The places of images (B, C, H, W) that are not all numbers."""
    return torch.isfinite(pixels).flatten(1).all(1).logical_not().nonzero()[:, 0]


def _in_float32(decoder: Any, decode: Any, latents: Tensor, options: dict[str, Any]) -> Tensor:
    """Some rows decoded by the decoder in float32, for as long as it takes."""
    options = {**options, **({"shape": (len(latents), *options["shape"][1:])} if "shape" in options else {})}
    decoder.float()
    try:
        return decode(latents.float() if latents.is_floating_point() else latents, **options)[0]
    finally:
        decoder.half()


@contextlib.contextmanager
def _replaced(owner: Any, method: str, by: Any) -> Iterator[None]:
    """Let `by(original, ...)` answer for a method of one object."""
    original = getattr(owner, method)

    @functools.wraps(original)  # pipelines look at the parameters of a scheduler's step
    def replacement(*args: Any, **kwargs: Any) -> Any:
        return by(original, *args, **kwargs)

    setattr(owner, method, replacement)
    try:
        yield
    finally:
        delattr(owner, method)
