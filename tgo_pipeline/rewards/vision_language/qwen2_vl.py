"""Qwen2-VL as HPSv3 and VideoReward use it: positions 0, 1, 2 … on all three axes of its rotary embedding.

Their official class calls the text network with embeddings and no positions, which are then sequential.
`Qwen2VLModel` of transformers 5 would compute three-dimensional ones, for which these rewards were not trained; so the
image network and the text network are built here one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLTextModel,
)

from tgo_pipeline.devices import to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.json_files import read_json
from tgo_pipeline.rewards.networks.precision import autocast, exactly
from tgo_pipeline.rewards.networks.preprocessing import normalised

PATCH, MERGED, PAIR = 14, 2, 2
"""Pixels of a patch's side; patches of a token's side; frames of a patch."""
TOKENS = {"cpu": 1024, "cuda": 16_384}
"""How many tokens the text network reads together: on a GPU 20 images of HPSv3. A CPU is no faster with more."""
PATCHES = 4
"""As many patches as tokens are read together, times this: four become one token."""

THETA = 10_000.0
"""Of the image network's rotary embedding."""
Grid = tuple[int, int, int]
"""Pairs of frames, rows and columns of patches."""


@dataclass
class TextRow:
    """One text about an image: the features of the image (N, D), shared by rows of one image, and the tail's ids.

    `places` are the positions in the tail whose hidden states are wanted.
    """

    features: Tensor
    tail: Sequence[int]
    places: Sequence[int]


class Qwen2VL(nn.Module):
    """The image network `visual` and the text network `language`, without what predicts words."""

    def __init__(self, config: Qwen2VLConfig, vocabulary: int) -> None:
        super().__init__()
        vision, text = cast(Any, config.vision_config), cast(Any, config.text_config)
        text.vocab_size, text.pad_token_id, text.bos_token_id, text.eos_token_id = (
            vocabulary,
            None,
            None,
            None,
        )
        self.visual = Qwen2VisionTransformerPretrainedModel(vision)
        self.visual.patch_embed = _Patches(PAIR * 3 * PATCH * PATCH, vision.embed_dim)  # type: ignore[assignment]
        self.language = Qwen2VLTextModel(text)

    @property
    def towers(self) -> list[nn.ModuleList]:
        """The blocks of the image network and of the text network."""
        return [self.visual.blocks, self.language.layers]

    @property
    def at_once(self) -> int:
        """How many tokens are read together."""
        return TOKENS.get(self.language.norm.weight.device.type, TOKENS["cpu"])

    def see(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Features (N, D), float32, of each of several uint8 clips (T, 3, h, w); an image is a clip of one frame."""
        found: list[Tensor] = []
        sizes = [clip.shape[0] * clip.shape[2] * clip.shape[3] // PATCH**2 for clip in clips]
        for part in _parts(sizes, PATCHES * self.at_once):
            patches, grids = zip(*(_patches(clips[index]) for index in part), strict=True)
            seen = self._seen(torch.cat(patches), grids)
            found += seen.split([t * h * w // MERGED**2 for t, h, w in grids])
        return found

    def _seen(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """As the image network's own `forward`, which reads sizes from the device: it waits for a GPU in each block."""
        turns = _turns(grids, self.visual.config.embed_dim // self.visual.config.num_heads, patches.device)
        ends = [rows * columns for times, rows, columns in grids for _ in range(times)]
        lengths = torch.tensor([0, *ends]).cumsum(0)
        hidden = self.visual.patch_embed(patches)
        with autocast(self.visual.blocks, patches.device):
            for block in self.visual.blocks:
                hidden = block(hidden, cu_seqlens=lengths, position_embeddings=turns)
            return self.visual.merger(hidden).float()

    def read(self, head: Sequence[int], rows: Sequence[TextRow]) -> Tensor:
        """Hidden states at the places of each row, (B, K, D), after the final norm.

        Rows of one image read the beginning that they share once.
        """
        by_image: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            by_image.setdefault(id(row.features), []).append(index)
        found: dict[int, Tensor] = {}
        alone = [group[0] for group in by_image.values() if len(group) == 1]
        for part in _parts([_length(head, rows[index]) for index in alone], self.at_once, padded=True):
            chosen = [alone[index] for index in part]
            found |= zip(chosen, self._read(head, [rows[index] for index in chosen]), strict=True)
        for group in by_image.values():
            if len(group) > 1:
                found |= zip(group, self._read_shared(head, [rows[index] for index in group]), strict=True)
        return torch.stack([found[index] for index in range(len(rows))])

    def _read(self, head: Sequence[int], rows: Sequence[TextRow]) -> Iterator[Tensor]:
        """Rows side by side, each from its beginning, padded at the end."""
        start = [len(head) + len(row.features) for row in rows]
        embedded = [self._embedded(head, row.features, row.tail) for row in rows]
        hidden = self._hidden(_padded(embedded))
        for index, row in enumerate(rows):
            yield hidden[index, [start[index] + place for place in row.places]]

    def _read_shared(self, head: Sequence[int], rows: Sequence[TextRow]) -> Iterator[Tensor]:
        """Rows of one image: what all of them begin with is read once, and its keys and values are used again."""
        shared = _common([row.tail for row in rows])
        cache = DynamicCache()
        features = rows[0].features
        prefix = self._hidden(self._embedded(head, features, rows[0].tail[:shared])[None], cache)[0]
        ends = [self.language.embed_tokens(self._ids(row.tail[shared:])) for row in rows]
        start = len(head) + len(features)
        found: dict[int, Tensor] = {}
        for part in _parts([len(end) for end in ends], self.at_once, padded=True):
            hidden = self._hidden(_padded([ends[index] for index in part]), _repeated(cache, len(part)))
            for place, index in enumerate(part):
                own = torch.cat([prefix[start:], hidden[place]])
                found[index] = own[list(rows[index].places)]
        yield from (found[index] for index in range(len(rows)))

    def _hidden(self, embedded: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """(B, L, D) to (B, L, D). Nothing masks what pads a row: it stands behind all that is wanted."""
        with autocast(self.language.layers, embedded.device):
            out = self.language(inputs_embeds=embedded, past_key_values=cache, use_cache=cache is not None)
        return out.last_hidden_state.float()

    def _embedded(self, head: Sequence[int], features: Tensor, tail: Sequence[int]) -> Tensor:
        words = self.language.embed_tokens(self._ids([*head, *tail]))
        return torch.cat([words[: len(head)], features, words[len(head) :]])

    def _ids(self, ids: Sequence[int]) -> Tensor:
        return to_device(torch.tensor(ids, dtype=torch.long), self.language.norm.weight.device)


class _Patches(nn.Module):
    """The image network's first layer, whose convolution over whole patches is one product of matrices.

    It stays in float32 whatever surrounds it, as embeddings do.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(size, width, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        with exactly(patches.device):
            return self.proj(patches)


def read_config(path: Path) -> Qwen2VLConfig:
    """The base model's `config.json`. Raises `TgoError` if it is not one of Qwen2-VL."""
    raw = read_json(path)
    if raw.get("model_type") != "qwen2_vl":
        raise TgoError(f"{path} is of {raw.get('model_type')!r}: the base model must be a Qwen2-VL.")
    if raw.get("use_sliding_window"):
        raise TgoError(f"{path} asks for a sliding window, which these rewards were not trained with.")
    return Qwen2VLConfig(**raw)


def _turns(grids: Sequence[Grid], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles that each patch's place turns the features of a head by, (P, width) each."""
    rates = THETA ** -(torch.arange(0, width // 2, 2) / (width // 2))
    found = []
    for times, rows, columns in grids:
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        blocks = places.reshape(rows // MERGED, MERGED, columns // MERGED, MERGED, 2).transpose(1, 2)
        found.append((blocks.reshape(-1, 2, 1) * rates).flatten(1).repeat(times, 2))
    angles = to_device(torch.cat(found), device)
    return angles.cos(), angles.sin()


def _patches(frames: Tensor) -> tuple[Tensor, Grid]:
    """uint8 (T, 3, h, w) to normalised patches (P, 1176) in the order of Qwen2-VL, and their grid.

    Four patches that become a token follow each other. One frame is doubled.
    """
    if len(frames) == 1:
        frames = frames.expand(PAIR, -1, -1, -1)
    times, rows, columns = len(frames) // PAIR, frames.shape[2] // PATCH, frames.shape[3] // PATCH
    pixels = normalised(frames)
    sides = (rows // MERGED, MERGED, PATCH, columns // MERGED, MERGED, PATCH)
    cut = pixels.reshape(times, PAIR, 3, *sides).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return cut.reshape(times * rows * columns, -1), (times, rows, columns)


def _parts(sizes: Sequence[int], most: int, *, padded: bool = False) -> Iterator[list[int]]:
    """Indices in parts of at most so many in sum, at least one each; `padded` counts the longest of a part for all.

    Then those of similar size are together.
    """
    order = sorted(range(len(sizes)), key=lambda index: sizes[index]) if padded else range(len(sizes))
    part: list[int] = []
    total = 0
    for index in order:
        total = sizes[index] * (len(part) + 1) if padded else total + sizes[index]
        if part and total > most:
            yield part
            part, total = [], sizes[index]
        part.append(index)
    if part:
        yield part


def _length(head: Sequence[int], row: TextRow) -> int:
    return len(head) + len(row.features) + len(row.tail)


def _common(tails: Sequence[Sequence[int]]) -> int:
    """How many ids all tails begin with; each keeps one of its own, as a network reads at least one."""
    shortest = min(map(len, tails)) - 1
    first = tails[0]
    return next((n for n in range(shortest) if any(tail[n] != first[n] for tail in tails)), shortest)


def _padded(embedded: Sequence[Tensor]) -> Tensor:
    longest = max(map(len, embedded))
    return torch.stack([nn.functional.pad(each, (0, 0, 0, longest - len(each))) for each in embedded])


def _repeated(cache: DynamicCache, times: int) -> DynamicCache:
    """A cache for several rows that go on from one; the given one stays as it is."""
    repeated = DynamicCache()
    for number, layer in enumerate(cast(Any, cache.layers)):
        repeated.update(layer.keys.expand(times, -1, -1, -1), layer.values.expand(times, -1, -1, -1), number)
    return repeated
