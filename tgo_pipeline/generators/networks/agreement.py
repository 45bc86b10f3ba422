"""Whether the parts of a pipeline folder agree: a library loads one that lacks files, and draws other images with it.

A tokenizer without its vocabulary, for one, is loaded empty and reads every prompt as the same unknown words.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError

NEEDED = ("unet", "transformer", "vae", "vqvae", "scheduler")
"""Parts that no pipeline draws without, if its class has them."""
TOKENIZERS = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2", "tokenizer_3": "text_encoder_3"}
"""And the parts that read what each gives."""
SHARE = 0.98
"""Of an encoder's rows, those that a tokenizer has words for: some models round them up to a multiple of 128."""
PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction")


def require_agreement(pipeline: Any, folder: Path, without: Collection[str]) -> None:
    """Raise `TgoError` naming the first part of a loaded pipeline that cannot draw with the others."""
    for part, reason in _faults(pipeline, without):
        raise TgoError(f"{folder / part}: {reason}; copy the model again, complete.")


def _faults(pipeline: Any, without: Collection[str]) -> Iterator[tuple[str, str]]:
    parts = pipeline.components
    for name in NEEDED:
        if name in parts and parts[name] is None and name not in without:
            yield "model_index.json", f"it leaves out {name}, which a {type(pipeline).__name__} draws with"
    for name, reader in TOKENIZERS.items():
        encoder = parts.get(reader)
        if parts.get(name) is not None and encoder is not None:
            rows = encoder.get_input_embeddings().num_embeddings
            yield from ((name, reason) for reason in misread(parts[name], rows, encoder.config))
    for name in ("vae", "vqvae"):
        if parts.get(name) is not None:
            yield from ((f"{name}/config.json", reason) for reason in _wrong_numbers(parts[name].config))
    if (unet := parts.get("unet")) is not None and not _is_size(unet.config.sample_size):
        yield "unet/config.json", f"sample_size is {unet.config.sample_size!r}, not the size of its latents"
    if (kind := _prediction(parts.get("scheduler"))) not in (None, *PREDICTIONS):
        allowed = ", ".join(PREDICTIONS)
        yield "scheduler/scheduler_config.json", f"prediction_type is {kind!r}, and must be one of {allowed}"


def misread(tokenizer: Any, rows: int, config: Any) -> Iterator[str]:
    """Why a text encoder with `rows` words and this configuration cannot read what a tokenizer gives it."""
    from transformers import CLIPTokenizer

    words = tokenizer.get_vocab()
    if len(words) < SHARE * rows:
        yield (
            f"it knows {len(words):,} words and its text encoder {rows:,}: its vocabulary lacks (tokenizer.json, or "
            "vocab.json and merges.txt, or spiece.model)"
        )
    elif max(words.values()) >= rows:
        yield f"it numbers words up to {max(words.values()):,}, and its text encoder has {rows:,}"
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(tokenizer, CLIPTokenizer) and positions and tokenizer.model_max_length > positions:
        yield (
            f"it has no model_max_length of at most {positions} in its tokenizer_config.json, the words that its text "
            "encoder reads"
        )


def _wrong_numbers(config: Any) -> Iterator[str]:
    scale, shift = config.get("scaling_factor", 1.0), config.get("shift_factor")
    if not _is_number(scale) or scale == 0:
        yield f"scaling_factor is {scale!r}, not a number that latents can be divided by"
    if shift is not None and not _is_number(shift):
        yield f"shift_factor is {shift!r}, not a number"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, (list, tuple)) else (value,)
    return all(isinstance(side, int) and side > 0 for side in sides)


def _prediction(scheduler: Any) -> str | None:
    return None if scheduler is None else scheduler.config.get("prediction_type")
