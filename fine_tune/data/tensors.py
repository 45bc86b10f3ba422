"""Named tensors in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.reproducible import order_metadata


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write to exactly `path`; call it inside an atomic write."""
    described = dict(metadata) if tensors or metadata else None  # of two empty ones the library makes no JSON
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, described)
    order_metadata(path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, mapped into memory and read when they are used, and its metadata.

    Raises `TgoError` if the file is missing or damaged.
    """
    digests.verify(path)
    try:
        with safe_open(path, "pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}, stream.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def read_texts(path: Path) -> dict[str, str]:
    """The metadata of a file of tensors, which is not mapped into memory for it.

    Raises `TgoError` as `read_tensors`.
    """
    digests.verify(path)
    try:
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(size, path.stat().st_size)))
        return header.get("__metadata__", {})
    except (OSError, ValueError, AttributeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> TgoError:
    return TgoError(f"{path} cannot be read as safetensors ({error}): delete it and run the stage again.")


def of_one_length(parts: Sequence[Tensor], axis: int) -> list[Tensor]:
    """Tensors with zeros behind the shorter ones along an axis: states of prompts that have fewer tokens."""
    longest = max((part.shape[axis] for part in parts if part.ndim > axis), default=0)
    return [
        functional.pad(part, (0, 0) * (part.ndim - axis - 1) + (0, longest - part.shape[axis]))
        if part.ndim > axis and part.shape[axis] < longest
        else part
        for part in parts
    ]
