"""Batches: labels joined with encoded samples, in an order that depends on the seed and the step alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fine_tune.encode import PROMPTS
from fine_tune.labels import Labels
from fine_tune.tensors import read_tensors
from tgo_pipeline.errors import TgoError
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.shards import Shard

SEEDS = 2**63


class Encoded:
    """The cache of encoded samples, mapped into memory."""

    def __init__(self, folder: Path, planned: Sequence[Shard]) -> None:
        self._tensors: list[dict[str, Tensor]] = []
        self._image_at: dict[str, tuple[int, int]] = {}
        self._prompt_of: dict[str, str] = {}
        self._prompt_at: dict[str, tuple[int, int]] = {}
        for shard in planned:
            self._add(folder / shard.name, is_prompts=shard.split == PROMPTS)

    def _add(self, path: Path, is_prompts: bool) -> None:
        tensors, metadata = read_tensors(path)
        prompts = json.loads(metadata["prompts"])
        number = len(self._tensors)
        self._tensors.append(tensors)
        if is_prompts:
            self._prompt_at.update({prompt: (number, row) for row, prompt in enumerate(prompts)})
            return
        sample_ids = json.loads(metadata["sample_ids"])
        self._image_at.update({sample_id: (number, row) for row, sample_id in enumerate(sample_ids)})
        self._prompt_of.update(zip(sample_ids, prompts, strict=True))

    def __contains__(self, sample_id: str) -> bool:
        return sample_id in self._image_at

    def images(self, sample_ids: Sequence[str]) -> dict[str, Tensor]:
        """The encoded images of these samples, stacked."""
        return self._gather([self._image_at[sample_id] for sample_id in sample_ids])

    def conditions(self, sample_ids: Sequence[str], dropped: Sequence[bool]) -> dict[str, Tensor]:
        """The encoded prompts of these samples, the empty one where it is dropped, stacked."""
        prompts = [
            "" if drop else self._prompt_of[sample_id]
            for sample_id, drop in zip(sample_ids, dropped, strict=True)
        ]
        return self._gather([self._prompt_at[prompt] for prompt in prompts])

    def _gather(self, places: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        names = self._tensors[places[0][0]]
        return {
            name: torch.stack([self._tensors[shard][name][row] for shard, row in places]) for name in names
        }


@dataclass(frozen=True)
class TrainingBatch:
    """One step's samples; all of its fields have the same length."""

    images: dict[str, Tensor]
    conditions: dict[str, Tensor]
    label: Tensor
    weight: Tensor
    seeds: list[int]
    """Of each sample's corruption."""

    def __len__(self) -> int:
        return len(self.seeds)

    def split(self, size: int) -> Iterator[TrainingBatch]:
        """Cut into parts of at most `size` samples."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield TrainingBatch(
                {name: t[part] for name, t in self.images.items()},
                {name: t[part] for name, t in self.conditions.items()},
                self.label[part],
                self.weight[part],
                self.seeds[part],
            )

    def to(self, device: torch.device) -> TrainingBatch:
        """The same batch with its tensors on `device`."""
        return TrainingBatch(
            {name: t.to(device) for name, t in self.images.items()},
            {name: t.to(device) for name, t in self.conditions.items()},
            self.label.to(device),
            self.weight.to(device),
            self.seeds,
        )


class TrainingData:
    """Batches by step: the data in a new seeded permutation each epoch, one epoch after the other without a gap.

    Each epoch holds every sample once; a batch may span two epochs, or several when it is larger than the data.
    A sample's corruption and caption dropout depend on (seed, sample id, epoch) alone.
    """

    def __init__(
        self, labels: Labels, encoded: Encoded, *, seed: int, batch_size: int, caption_dropout: float = 0.0
    ) -> None:
        missing = [sample_id for sample_id in labels.sample_ids if sample_id not in encoded]
        if missing:
            raise TgoError(
                f"{len(missing)} of {len(labels.sample_ids)} labelled samples have no encoded image, the first is "
                f"{missing[0]}: the labels are not those of these generations. Run score, threshold and label again."
            )
        self._labels = labels
        self._encoded = encoded
        self._seed = seed
        self._batch_size = batch_size
        self._caption_dropout = caption_dropout

    def __len__(self) -> int:
        return len(self._labels.sample_ids)

    def positions(self, step: int) -> list[tuple[int, int]]:
        """The (epoch, sample number) of each place in the batch of a step, counted from 0."""
        first = step * self._batch_size
        places = (divmod(place, len(self)) for place in range(first, first + self._batch_size))
        return [(epoch, int(self._permutation(epoch)[offset])) for epoch, offset in places]

    def epochs(self, step: int) -> float:
        """How often the data has been passed over after `step` steps."""
        return step * self._batch_size / len(self)

    def batch(self, step: int) -> TrainingBatch:
        """The batch of a step, counted from 0, on the CPU."""
        positions = self.positions(step)
        ids = [self._labels.sample_ids[number] for _, number in positions]
        epochs = [epoch for epoch, _ in positions]
        numbers = np.array([number for _, number in positions])
        dropped = [self._drops(sample_id, epoch) for sample_id, epoch in zip(ids, epochs, strict=True)]
        return TrainingBatch(
            self._encoded.images(ids),
            self._encoded.conditions(ids, dropped),
            torch.from_numpy(self._labels.label[numbers].astype(np.float32)),
            torch.from_numpy(self._labels.weight[numbers].astype(np.float32)),
            [derive_seed(self._seed, i, f"noise-{epoch}") for i, epoch in zip(ids, epochs, strict=True)],
        )

    def _drops(self, sample_id: str, epoch: int) -> bool:
        draw = derive_seed(self._seed, sample_id, f"caption-{epoch}") / SEEDS
        return draw < self._caption_dropout

    @functools.lru_cache(maxsize=8)  # noqa: B019  # an instance lives as long as its process
    def _permutation(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self._seed, f"epoch-{epoch}", "order"))
        return generator.permutation(len(self))
