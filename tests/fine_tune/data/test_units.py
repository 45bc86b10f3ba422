"""How samples are dealt across the threshold, and what their batches hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from fine_tune.data.batches import Sampling, TrainingData
from fine_tune.data.texts import Texts
from fine_tune.data.units import AcrossThreshold
from tests.fine_tune.objectives.evaluate import labels

SCORES = np.array([-3.0, -2.0, -1.0, -0.5, 0.5, 1.0, 4.0, 0.25])
LABELS = labels(SCORES)


class AnyEncoded:
    """Stands where the cache does when only the choice of samples matters."""

    def rows(self, sample_ids: Texts) -> np.ndarray:
        return np.arange(len(sample_ids))

    def prompt(self, row: int) -> str:
        return ""

    def images(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        return {}

    def conditions(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        return {}


POSITIVE = np.flatnonzero(SCORES >= 0)
NEGATIVE = np.flatnonzero(SCORES < 0)


def dealt(epochs: int, negatives: int = 1, by_distance: bool = True) -> list[np.ndarray]:
    units = AcrossThreshold(LABELS, negatives=negatives, by_distance=by_distance, seed=5)
    assert units.members == 1 + negatives and len(units) == len(POSITIVE)
    return [units.of_epoch(epoch, LABELS) for epoch in range(epochs)]


@pytest.mark.parametrize("negatives", [1, 3])
def test_a_unit_is_a_positive_sample_and_negatives(negatives: int) -> None:
    for rows in dealt(20, negatives):
        assert rows.shape == (len(POSITIVE), 1 + negatives)
        assert np.isin(rows[:, 0], POSITIVE).all() and np.isin(rows[:, 1:], NEGATIVE).all()


@pytest.mark.parametrize("by_distance", [True, False])
def test_a_sample_comes_up_in_proportion_to_its_distance_from_the_threshold(by_distance: bool) -> None:
    epochs = 400
    rows = np.concatenate(dealt(epochs, 2, by_distance))
    for side, columns in ((POSITIVE, rows[:, :1]), (NEGATIVE, rows[:, 1:])):
        share = np.abs(SCORES[side]) if by_distance else np.ones(len(side))
        places = columns.size / epochs
        expected = share / share.sum() * places
        counts = np.array([np.count_nonzero(columns == row) for row in side])
        # systematic sampling: an epoch's count is the expected one rounded down or up, of variance at most 1/4
        assert np.abs(counts / epochs - expected).max() < 4 * 0.5 / np.sqrt(epochs)
        for epoch in np.split(columns, epochs):
            each = np.array([np.count_nonzero(epoch == row) for row in side])
            assert ((each == np.floor(expected)) | (each == np.ceil(expected))).all()


def test_epochs_differ_and_come_again() -> None:
    first, second = dealt(2)
    assert not np.array_equal(first, second)
    assert np.array_equal(dealt(2)[1], second)


def test_a_side_that_lies_on_the_threshold_is_dealt_uniformly() -> None:
    flat = labels([0.0, 0.0, -1.0])
    rows = AcrossThreshold(flat, negatives=1, by_distance=True, seed=0).of_epoch(0, flat)
    assert sorted(rows[:, 0]) == [0, 1]


def data(batch_size: int = 3, negatives: int = 2) -> TrainingData:
    units = AcrossThreshold(LABELS, negatives=negatives, by_distance=True, seed=5)
    sampling = Sampling(seed=5, batch_size=batch_size)
    return TrainingData(LABELS, AnyEncoded(), sampling, units)  # type: ignore[arg-type]


def test_members_share_their_corruption_and_keep_their_labels() -> None:
    batch = data().batch(4)
    assert len(batch) == 9 and batch.label.tolist() == [1, 0, 0] * 3
    for unit in np.array(batch.seeds).reshape(3, 3):
        assert len(set(unit.tolist())) == 1
    assert len({seeds[0] for seeds in batch.seeds}) == 3
    assert (batch.score.numpy()[0::3] >= 0).all() and (batch.score.numpy()[1::3] < 0).all()


def test_the_same_samples_dealt_twice_in_an_epoch_are_corrupted_in_two_ways() -> None:
    few = labels([1.0, 0.001, 0.001, -1.0])
    units = AcrossThreshold(few, negatives=1, by_distance=True, seed=1)
    batch = TrainingData(few, AnyEncoded(), Sampling(seed=1, batch_size=3), units).batch(0)  # type: ignore[arg-type]
    assert batch.score.tolist()[::2].count(1.0) >= 2
    assert len({seeds[0] for seeds in batch.seeds}) == 3


def test_a_step_is_the_same_whatever_came_before_it() -> None:
    walked = data()
    for step in range(5):
        walked.batch(step)
    again, whole = data().batch(5), walked.batch(5)
    assert again.seeds == whole.seeds and again.score.tolist() == whole.score.tolist()


def test_ranks_share_a_batch() -> None:
    whole, parts = data(4).batch(2), [data(4).batch(2, rank, 2) for rank in range(2)]
    assert [seed for part in parts for seed in part.seeds] == whole.seeds
    assert np.concatenate([part.score.numpy() for part in parts]).tolist() == whole.score.tolist()


def test_labels_of_a_later_epoch_deal_that_epoch() -> None:
    moved = labels(SCORES, tau=0.75)
    training = data(batch_size=len(POSITIVE), negatives=1)
    training.relabel({1: moved})
    later = training.batch(1)
    assert (later.score.numpy()[0::2] >= 0.75).all() and (later.score.numpy()[1::2] < 0.75).all()
    assert (training.batch(2).score.numpy()[1::2] < 0).all()
