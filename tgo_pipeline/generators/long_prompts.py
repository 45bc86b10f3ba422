"""Prompts that are longer than a text encoder takes: counted in one line, not listed as the libraries do."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

log = logging.getLogger("tgo")
LISTS = ("part of your input was truncated", "Token indices sequence length is longer")
"""What a pipeline of diffusers, and a tokenizer, log at every batch with a long prompt."""
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
T5_LIMIT = "max_sequence_length"
"""The argument by which a pipeline reads less of a prompt with T5 than its tokenizer would allow."""


def hide_lists(pipeline: Any) -> None:
    """Keep the library from listing the ends of long prompts; `warn_of_long` counts them instead."""
    for name in (type(pipeline).__module__, "transformers.tokenization_utils_base"):
        logging.getLogger(name).addFilter(_is_no_list)


def _is_no_list(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(each in message for each in LISTS)


def warn_of_long(pipeline: Any, prompts: Sequence[str]) -> None:
    """Log how many distinct prompts are longer than the text encoders take; nothing if none is."""
    distinct = list(dict.fromkeys(prompts))
    cut: dict[int, int] = {}
    for name in TOKENIZERS:
        tokenizer = getattr(pipeline, name, None)
        if tokenizer is not None:
            limit = _limit(pipeline, tokenizer)
            lengths = map(len, tokenizer(distinct)["input_ids"])
            cut[limit] = max(cut.get(limit, 0), sum(length > limit for length in lengths))
    counts = [f"{count:,} have more than {limit} tokens" for limit, count in cut.items() if count]
    if counts:
        log.warning(
            "of %s prompts %s, whose rest a text encoder does not read",
            *(f"{len(distinct):,}", " and ".join(counts)),
        )


def _limit(pipeline: Any, tokenizer: Any) -> int:
    """The tokens that are read of a prompt."""
    named = inspect.signature(type(pipeline).__call__).parameters
    if T5_LIMIT in named and "T5" in type(tokenizer).__name__:
        return min(tokenizer.model_max_length, named[T5_LIMIT].default)
    return tokenizer.model_max_length
