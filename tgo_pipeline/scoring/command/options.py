"""What `tgo score` is asked for, checked before anything is loaded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.limits import MEGAPIXELS, MEMORY_GB
from tgo_pipeline.hub.address import PREFIX
from tgo_pipeline.rewards.specs import Spec, parse


@dataclass(frozen=True)
class Call:
    """The arguments of `tgo score`, under the names of its options; its help says what they mean."""

    paths: Sequence[str]
    rewards: Sequence[str]
    out: Path
    prompts: Path | None = None
    prompt: str | None = None
    image_column: str | None = None
    prompt_column: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    max_image_megapixels: float = MEGAPIXELS
    image_memory_gb: float = MEMORY_GB
    overwrite: bool = False

    def inputs(self) -> dict[str, Any]:
        """What is scored, under the names of the options; calls that share an output must agree in it."""
        named = [path if path.startswith(PREFIX) else os.path.normpath(path) for path in self.paths]
        return {
            "PATH": [path for path in named if path != os.path.normpath(self.out)],
            "--prompts": os.path.normpath(self.prompts) if self.prompts else None,
            "--prompt": self.prompt,
            "--image-column": self.image_column,
            "--prompt-column": self.prompt_column,
        }

    def specs(self) -> dict[str, Spec]:
        """The rewards by column. Raises `TgoError` for none, an unknown one, and two under one name."""
        specs: dict[str, Spec] = {}
        listed = [text.strip() for texts in self.rewards for text in texts.split(",")]
        for spec in map(parse, filter(None, listed)):
            if spec.column in specs:
                raise TgoError(f"--rewards has {spec.column!r} twice: name each reward once.")
            specs[spec.column] = spec
        if not specs:
            raise TgoError("--rewards names no reward: for instance --rewards hpsv2.1,aesthetic.")
        return specs

    def check_out(self) -> None:
        """Raise `TgoError` unless a file can be written at `out`."""
        folder = self.out.parent
        if self.out.is_dir():
            example = self.out / "scores.parquet"
            raise TgoError(f"--out {self.out} is a folder: name a file in it, such as {example}.")
        if not folder.is_dir():
            raise TgoError(f"--out {self.out}: the folder {folder} does not exist; make it first.")
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise TgoError(
                f"--out {self.out}: nothing can be written in {folder}: {error.strerror}."
            ) from error
