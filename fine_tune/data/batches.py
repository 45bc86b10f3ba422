"""Batches: labels joined with encoded samples, in an order that depends on the seed and the step alone.

A batch is made of units: a sample, or for objectives on pairs the winner and the loser of one prompt.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fine_tune.data.cache import PROMPTS
from fine_tune.data.labels import Labels
from fine_tune.data.tensors import of_one_length, read_tensors, read_texts
from fine_tune.data.texts import Texts, release
from fine_tune.data.units import FixedUnits, Units
from tgo_pipeline.devices import to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.seeds import SEEDS, derive_seed
from tgo_pipeline.storage.shards import Shard


class Encoded:
    """The cache of encoded samples, mapped into memory shard by shard; they are numbered through all shards."""

    def __init__(self, folder: Path, planned: Sequence[Shard]) -> None:
        self._images, self._conditions = _EncodedRows(), _EncodedRows()
        self._prompt_at: dict[str, int] = {}
        sample_ids: list[Texts] = []
        prompts: list[Texts] = []
        for shard in planned:
            path = folder / shard.name
            metadata = read_texts(path)
            texts = json.loads(metadata["prompts"])
            if shard.split == PROMPTS:
                self._prompt_at.update(zip(texts, itertools.count(len(self._conditions))))
                self._conditions.add(path, len(texts))
                continue
            sample_ids.append(Texts(json.loads(metadata["sample_ids"])))
            prompts.append(Texts(texts, repeat=True))
            self._images.add(path, len(texts))
        self._sample_ids, self._prompts = Texts.joined(sample_ids), Texts.joined(prompts)
        del sample_ids, prompts
        release()

    def rows(self, sample_ids: Texts) -> np.ndarray:
        """(N,) the numbers of these samples; -1 for one that is not there."""
        return sample_ids.places_in(self._sample_ids)

    def prompt(self, row: int) -> str:
        """The prompt of a sample."""
        return self._prompts[row]

    def images(self, rows: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """The encoded images of these samples, stacked."""
        return {name: torch.stack(values) for name, values in self._images.take(rows).items()}

    def conditions(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """These prompts as encoded, stacked, with zeros behind those that were cached with fewer tokens."""
        rows = self._conditions.take([self._prompt_at[prompt] for prompt in prompts])
        return {name: torch.stack(of_one_length(values, 0)) for name, values in rows.items()}


class _EncodedRows:
    """Named tensors of many files as if they were joined; each file is mapped when it is first needed.

    A mapped file keeps its metadata in memory too, which is a gigabyte of ten million ids and prompts.
    """

    def __init__(self) -> None:
        self._paths: list[Path] = []
        self._parts: dict[int, dict[str, Tensor]] = {}
        self._starts = [0]

    def __len__(self) -> int:
        return self._starts[-1]

    def add(self, path: Path, rows: int) -> None:
        """Append those of a file that has so many rows."""
        self._paths.append(path)
        self._starts.append(len(self) + rows)

    def take(self, rows: Sequence[int] | np.ndarray) -> dict[str, list[Tensor]]:
        """Each tensor of these rows."""
        parts = [bisect.bisect_right(self._starts, row) - 1 for row in rows]
        return {
            name: [
                self._part(part)[name][row - self._starts[part]]
                for row, part in zip(rows, parts, strict=True)
            ]
            for name in self._part(parts[0])
        }

    def _part(self, part: int) -> dict[str, Tensor]:
        if part not in self._parts:
            self._parts[part], _ = read_tensors(self._paths[part])
        return self._parts[part]


@dataclass(frozen=True)
class TrainingBatch:
    """Samples of one step; the members of a unit follow each other."""

    images: dict[str, Tensor]
    """Named tensors of B rows."""
    conditions: dict[str, Tensor]
    other_conditions: dict[str, Tensor]
    """Of another prompt of the batch, or of the empty one; without tensors where no objective asks for it."""
    label: Tensor
    weight: Tensor
    score: Tensor
    seeds: list[list[int]]
    """(B, draws): of each sample's corruptions."""
    prompts: list[str] = field(default_factory=list)
    """Of each sample."""
    step_seed: int = 0
    """For draws that the whole batch of a step shares, however it is cut."""

    def __len__(self) -> int:
        return len(self.seeds)

    def split(self, size: int) -> Iterator[TrainingBatch]:
        """Cut into parts of at most `size` samples; give a multiple of the members of a unit."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self._each(lambda t, part=part: t[part], part)

    def to(self, device: torch.device) -> TrainingBatch:
        """The same batch with its tensors on `device`."""
        return self._each(lambda t: to_device(t, device), slice(None))

    def _each(self, change: Callable[[Tensor], Tensor], part: slice) -> TrainingBatch:
        def changed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: change(tensor) for name, tensor in tensors.items()}

        return TrainingBatch(
            changed(self.images),
            changed(self.conditions),
            changed(self.other_conditions),
            change(self.label),
            change(self.weight),
            change(self.score),
            self.seeds[part],
            self.prompts[part],
            self.step_seed,
        )


class BatchItem(NamedTuple):
    """One unit of a batch: which one, and what distinguishes its draws of noise and dropout."""

    unit: int
    turn: str


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How batches are made of the data; `batch_size` counts units."""

    seed: int
    batch_size: int
    caption_dropout: float = 0.0
    draws: int = 1
    positive_share: float | None = None
    by_prompt: bool = False
    prefixes: Mapping[int, str] | None = None
    mismatched: bool = False
    unprompted: bool = False
    """Whether batches come with the empty prompt's conditions, which guidance starts from."""


class TrainingData:
    """Batches by step: the units in a new seeded permutation each epoch, one epoch after the other without a gap.

    Each epoch holds every unit once, or units dealt for it; a batch may span several epochs. With
    `positive_share` every place is drawn again, with replacement. A unit's corruption and caption dropout depend on
    (seed, its samples, epoch or place) alone; the members of a pair share both, and with `by_prompt` all samples of a
    prompt, which then follow each other.
    """

    def __init__(
        self, labels: Labels, encoded: Encoded, sampling: Sampling, units: Units | None = None
    ) -> None:
        """`units` are by default the single samples."""
        self._encoded_rows = encoded.rows(labels.sample_ids)
        missing = np.flatnonzero(self._encoded_rows < 0)
        if missing.size:
            raise TgoError(
                f"{missing.size} of {len(labels)} labelled samples have no encoded image, the first is "
                f"{labels.sample_ids[missing[0]]}: the labels are not those of these generations. Run score, threshold "
                "and label again."
            )
        self._labels = labels
        self.encoded = encoded
        self._sampling = sampling
        self._relabelled: Mapping[int, Labels] = {}
        self._units = FixedUnits.singles(labels) if units is None else units
        self._sides = [np.flatnonzero(~labels.positive), np.flatnonzero(labels.positive)]

    def __len__(self) -> int:
        """The number of units."""
        return len(self._units)

    @property
    def members(self) -> int:
        """Samples in a unit."""
        return self._units.members

    def places(self, step: int) -> list[BatchItem]:
        """The units of the batch of a step, counted from 0."""
        first = step * self._sampling.batch_size
        return [self._place(number) for number in range(first, first + self._sampling.batch_size)]

    def _place(self, number: int) -> BatchItem:
        share = self._sampling.positive_share
        if share is not None:
            rng = np.random.default_rng(derive_seed(self._sampling.seed, f"place-{number}", "order"))
            side = self._sides[int(rng.random() < share)]
            return BatchItem(int(rng.choice(side)), f"place-{number}")
        epoch, offset = divmod(number, len(self))
        return BatchItem(int(self._permutation(epoch)[offset]), str(epoch))

    def epochs_of(self, step: int) -> range:
        """The epochs, from 0, that the batch of a step, counted from 0, has units of."""
        first = step * self._sampling.batch_size
        return range(first // len(self), (first + self._sampling.batch_size - 1) // len(self) + 1)

    def relabel(self, by_epoch: Mapping[int, Labels]) -> None:
        """Take label, weight and score of the units of these epochs from other labels of the same samples."""
        self._relabelled = by_epoch

    def epochs(self, step: int) -> float:
        """How often the data has been passed over after `step` steps."""
        return step * self._sampling.batch_size / len(self)

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> TrainingBatch:
        """A rank's equal share of the batch of a step, counted from 0, on the CPU."""
        places = self.places(step)
        size = len(places) // ranks
        others = [*places[1:], places[0]]
        part = slice(rank * size, (rank + 1) * size)
        return self._batch(places[part], others[part] if self._sampling.mismatched else [], step)

    def _batch(self, places: Sequence[BatchItem], others: Sequence[BatchItem], step: int) -> TrainingBatch:
        rows = self._rows(places)
        label = self._values("label", places)
        if self.members > 1 and not self._units.is_dealt:  # of a pair, whose scores may be on one side
            label = np.tile(np.array([1, 0], np.float32), len(places))
        prompts = self._prompts(places)
        other_prompts = [""] * len(prompts) if self._sampling.unprompted else self._prompts(others)
        return TrainingBatch(
            self.encoded.images(self._encoded_rows[rows].tolist()),
            self.encoded.conditions(prompts),
            self.encoded.conditions(other_prompts) if other_prompts else {},
            torch.from_numpy(label),
            torch.from_numpy(self._values("weight", places)),
            torch.from_numpy(self._values("score", places)),
            [seeds for place in places for seeds in [self._seeds(place)] * self.members],
            prompts,
            derive_seed(self._sampling.seed, f"step-{step}", "batch"),
        )

    def _rows(self, places: Sequence[BatchItem]) -> np.ndarray:
        return np.concatenate([self._samples(place) for place in places])

    def _samples(self, place: BatchItem) -> np.ndarray:
        """The rows of the labels that a unit is made of."""
        epoch = int(place.turn) if self._units.is_dealt else 0
        return self._units.of_epoch(epoch, self._labels_of(place))[place.unit]

    def _values(self, name: str, places: Sequence[BatchItem]) -> np.ndarray:
        """A number of each sample, float32, as the labels of its epoch have it."""
        values = [getattr(self._labels_of(place), name)[self._samples(place)] for place in places]
        return np.concatenate(values).astype(np.float32)

    def _labels_of(self, place: BatchItem) -> Labels:
        return self._relabelled.get(int(place.turn), self._labels) if self._relabelled else self._labels

    def _prompts(self, places: Sequence[BatchItem]) -> list[str]:
        """The prompt of every sample: empty where it is dropped, else with its side's prefix."""
        prefixes = self._sampling.prefixes or {}
        texts = []
        for place in places:
            dropped = self._drops(place)
            for row in self._samples(place):
                prefix = prefixes.get(int(self._labels_of(place).label[row] >= 0.5), "")
                prompt = self.encoded.prompt(int(self._encoded_rows[row]))
                texts.append("" if dropped else prefix + prompt)
        return texts

    def _seeds(self, place: BatchItem) -> list[int]:
        purposes = [f"noise-{place.turn}{f'-{draw}' * (draw > 0)}" for draw in range(self._sampling.draws)]
        return [derive_seed(self._sampling.seed, self._key(place), purpose) for purpose in purposes]

    def _drops(self, place: BatchItem) -> bool:
        draw = derive_seed(self._sampling.seed, self._key(place), f"caption-{place.turn}") / SEEDS
        return draw < self._sampling.caption_dropout

    def _key(self, place: BatchItem) -> str:
        """What distinguishes the draws of a unit."""
        rows = self._samples(place)
        if self._sampling.by_prompt:
            return self._labels.prompt_ids[rows[0]]
        own = [str(place.unit)] if self._units.is_dealt else []  # the same samples may be dealt twice
        return "/".join([*own, *(self._labels.sample_ids[row] for row in rows)])

    # A batch goes from one epoch to the next; each takes 80 MB where there are ten million units.
    @functools.lru_cache(maxsize=2)  # noqa: B019  # an instance lives as long as its process
    def _permutation(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self._sampling.seed, f"epoch-{epoch}", "order"))
        if not self._sampling.by_prompt:
            return generator.permutation(len(self))
        first = self._units.of_epoch(epoch, self._labels)[:, 0]
        numbers = self._labels.prompt_ids.take(first).numbers
        place_of_prompt = generator.permutation(numbers.max() + 1)
        return np.argsort(place_of_prompt[numbers], kind="stable")
