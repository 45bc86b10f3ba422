"""How many files and bytes a run writes: exact where the content's size does not depend on its values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from tgo_pipeline.formats.video_files import PREVIEW_SIDE

Tensors = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of tensors by name."""
NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
FINGERPRINT = "0" * 16
INPUTS = "0" * 32
"""As long as the real ones."""
PARQUET_BYTES, COLUMN_BYTES = 8_192, 2_048
"""What a score or label shard has besides its rows, at most, in all and for each reward: schema, indexes, sources."""
CLIP_OVERHEAD = 1.05
"""Of noise that cannot be compressed."""
ROW_BYTES = 48
"""Of a row's numbers and offsets, at most."""


def safetensors_bytes(tensors: Tensors, metadata: Mapping[str, str]) -> int:
    """The size of the safetensors file that holds these tensors: 8 bytes, a header in JSON padded to 8, the data."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    order = sorted(tensors.items(), key=lambda item: (-item[1][1].itemsize, item[0]))
    for name, (shape, dtype) in order:
        end = start + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return 8 + math.ceil(len(text) / 8) * 8 + start


def encoded_bytes(
    parts: Iterable[Sequence[tuple[str, str]]],
    prompts: Iterable[tuple[Sequence[str], Tensors]],
    image: Tensors,
) -> int:
    """The cache of encoded samples: one file for each part, (sample id, prompt) of its rows, and of the prompts.

    Each file of prompts is given with the tensors of one of them.
    """
    total = 0
    for rows in parts:
        texts = {
            "sample_ids": json.dumps([sample_id for sample_id, _ in rows]),
            "prompts": json.dumps([text for _, text in rows]),
        }
        mark = {"fingerprint": FINGERPRINT, "inputs": INPUTS}
        total += safetensors_bytes(_of_rows(image, len(rows)), mark | texts)
    for chunk, prompt in prompts:
        texts = {"prompts": json.dumps(list(chunk))}
        total += safetensors_bytes(_of_rows(prompt, len(chunk)), {"fingerprint": FINGERPRINT, **texts})
    return total


def _of_rows(tensors: Tensors, rows: int) -> Tensors:
    return {name: ((rows, *shape), dtype) for name, (shape, dtype) in tensors.items()}


def shard_count(prompts: int, images_per_prompt: int, shard_size: int) -> int:
    """How many shards hold the images: those of a prompt stay together where they fit into one."""
    if images_per_prompt > shard_size:
        return prompts * math.ceil(images_per_prompt / shard_size)
    return math.ceil(prompts / (shard_size // images_per_prompt))


def png_most_bytes(width: int, height: int) -> int:
    """No PNG of 8-bit RGB is larger: a filter byte a row, 5 bytes for each 16 kB that cannot be compressed, chunks."""
    raw = (3 * width + 1) * height
    return raw + 5 * math.ceil(raw / 16_000) + 12 * math.ceil(raw / 8_000) + 1_024


def clip_most_bytes(width: int, height: int, frames: int) -> int:
    """No master with its preview is larger: levels as they are, with what blocks that H.264 leaves uncoded add."""
    small = min(1.0, PREVIEW_SIDE / max(width, height))
    preview = (
        3 * math.ceil(width * small) * math.ceil(height * small) // 2
    )  # luma, and a quarter of both chromas
    return math.ceil(CLIP_OVERHEAD * (3 * width * height + preview) * frames) + 16_384


def table_most_bytes(rows: int, id_bytes: int, shards: int, columns: int) -> int:
    """No folder of score or label shards is larger."""
    return rows * (id_bytes + ROW_BYTES + 8 * columns) + shards * (PARQUET_BYTES + columns * COLUMN_BYTES)


def network_bytes(network: torch.nn.Module) -> int:
    """The weight file of one network, as the libraries write it (in float32; one file)."""
    state = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}
    return safetensors_bytes(state, {"format": "pt"})
