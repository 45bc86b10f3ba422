"""What `tgo score` is asked for, checked before anything is loaded."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.files import open_regular
from tgo_pipeline.formats.limits import MEGAPIXELS, MEMORY_GB
from tgo_pipeline.formats.object_stores import is_store_url
from tgo_pipeline.formats.remote import is_url
from tgo_pipeline.hub.address import PREFIX
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards.specs import Spec, of_images, parse

TEXTS = (".csv", ".jsonl")
"""What `out` may be besides Parquet: text that is written from it."""
KINDS = (".parquet", *TEXTS, ".pq", "")
PAGES = (".html", ".htm")
HEAD_BYTES = 1 << 16
"""Where the first line of a text of scores ends at the latest."""


@dataclass(frozen=True)
class Call:
    """The arguments of `tgo score`, under the names of its options; its help says what they mean."""

    paths: Sequence[str]
    rewards: Sequence[str]
    out: Path
    prompts: str | Path | None = None
    prompt: str | None = None
    image_column: str | None = None
    prompt_column: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    frames: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    max_image_megapixels: float = MEGAPIXELS
    image_memory_gb: float = MEMORY_GB
    overwrite: bool = False
    report: Path | None = None
    processes: int = 1
    executor: str = "local"

    @property
    def table(self) -> Path:
        """The Parquet file of the scores: `out`, or what lies beside it under the same name where `out` is text."""
        return self.out.with_suffix(".parquet") if self.out.suffix.lower() in TEXTS else self.out

    @property
    def written(self) -> list[Path]:
        """Every file that the call writes."""
        return list(dict.fromkeys([self.table, self.out, *([self.report] if self.report else [])]))

    def inputs(self) -> dict[str, Any]:
        """What is scored, under the names of the options; calls that share an output must agree in it."""
        named = list(map(_normal, self.paths))
        return {
            "PATH": [path for path in named if path not in map(os.path.normpath, self.written)],
            "--prompts": _normal(str(self.prompts)) if self.prompts else None,
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

    def runtime(self) -> RuntimeParams:
        """How the rewards run. Raises `TgoError` for an executor whose processes would share OUT."""
        if self.executor == "ranks":
            raise TgoError(
                "--executor ranks: one call writes --out, and its processes are its own. Give each machine paths and "
                "an --out of its own, or use --executor ray, or the score stage of a project."
            )
        return RuntimeParams(
            device=self.device,
            score_batch_size=self.batch_size,
            workers=self.workers,
            max_image_megapixels=self.max_image_megapixels,
            image_memory_gb=self.image_memory_gb,
            processes=self.processes,
            executor=self.executor,
        )

    def check_kind(self, clips: bool) -> None:
        """Raise `TgoError` for rewards of clips, and a number of frames, where images are scored."""
        if clips:
            return
        for spec in self.specs().values():
            of_images(spec)
        if self.frames is not None:
            raise TgoError(
                f"--frames is {self.frames}, which is for clips, and images are named: leave it out."
            )

    def check_out(self) -> None:
        """Raise `TgoError` unless files can be written at `out` and `report`, of a kind that their names say."""
        if self.out.suffix.lower() not in KINDS:
            raise TgoError(f"--out {self.out}: name a file that ends in {', '.join(filter(None, KINDS))}.")
        _check_place("--out", self.out, "scores.parquet")
        if self.out != self.table and self.out.exists() and not self.overwrite:
            self._check_text()
        if self.report is not None:
            if self.report.suffix.lower() not in PAGES:
                raise TgoError(f"--report {self.report}: name a file that ends in {' or '.join(PAGES)}.")
            _check_place("--report", self.report, "scores.html")

    def _check_text(self) -> None:
        """Raise `TgoError` unless the text at `out` is of scores: nobody's own table is replaced."""
        with open_regular(self.out) as stream:
            head = stream.read(HEAD_BYTES).decode("utf-8", "replace").partition("\n")[0]
        names: list[str] = []
        with contextlib.suppress(ValueError, TypeError):
            names = (
                list(json.loads(head))
                if self.out.suffix.lower() == ".jsonl"
                else next(csv.reader([head]), [])
            )
        if not self.table.exists() or names[:2] != ["image", "prompt"] or names[-1:] != ["error"]:
            raise TgoError(
                f"{self.out} exists and is not as `tgo score` writes it: name another --out, or replace it with "
                "--overwrite."
            )


def _check_place(option: str, path: Path, example: str) -> None:
    folder = path.parent
    if path.is_dir():
        raise TgoError(f"{option} {path} is a folder: name a file in it, such as {path / example}.")
    if not folder.is_dir():
        raise TgoError(f"{option} {path}: the folder {folder} does not exist; make it first.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise TgoError(f"{option} {path}: nothing can be written in {folder}: {error.strerror}.") from error


def _normal(address: str) -> str:
    """One spelling of a path; addresses stay as they are."""
    elsewhere = address.startswith(PREFIX) or is_url(address) or is_store_url(address)
    return address if elsewhere else os.path.normpath(address)
