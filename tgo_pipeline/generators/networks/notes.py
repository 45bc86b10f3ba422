"""What the libraries say at every load although all is as it should be: hidden while a block lasts."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

NOTES = (
    "diffusers.pipelines.pipeline_utils",
    "diffusers.models.modeling_utils",
    "transformers.modeling_utils",
)
"""Where the libraries log notes that a user can do nothing about."""

LOADERS = ("diffusers.loaders.lora_base", "diffusers.loaders.peft", "diffusers.utils.peft_utils")
"""Where `diffusers` logs what it makes of an adapter's file."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' progress bars of loading and saving, and notes that a user can do nothing about."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    bars = [each for each in (diffusers_log, transformers_log) if each.is_progress_bar_enabled()]
    loggers = [logging.getLogger(name) for name in NOTES]
    for each in bars:
        each.disable_progress_bar()
    for logger in loggers:
        logger.addFilter(_is_of_use)
    try:
        yield
    finally:
        for each in bars:
            each.enable_progress_bar()
        for logger in loggers:
            logger.removeFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    """aMUSEd's pipeline is called deprecated at every load, its network warns of an empty list of modules.

    What a file lacks is an error here, which says it in one line.
    """
    message = record.getMessage()
    return not any(note in message for note in ("has been deprecated", "kept in float32: []", "LOAD REPORT"))


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Without what the libraries say of adapters: several of them, none for the text, all the names that do not fit.

    What does not fit is an error here, which says it in one line.
    """
    loaders = [logging.getLogger(name) for name in LOADERS]
    levels = [each.level for each in loaders]
    for each in loaders:
        each.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            yield
    finally:
        for each, level in zip(loaders, levels, strict=True):
            each.setLevel(level)
