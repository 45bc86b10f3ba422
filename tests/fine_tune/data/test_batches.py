"""The order of the data, its join with labels, and what wrong labels say."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fine_tune.data.batches import BatchItem, Encoded, Sampling, TrainingData
from fine_tune.data.cache import EncodingSource, encode_folder, plan
from fine_tune.data.labels import Labels, read_labels
from fine_tune.data.texts import Texts
from fine_tune.data.units import FixedUnits
from tests.fine_tune import world
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import RuntimeParams


class EverySample:
    """Stands where the cache does when only the order matters."""

    def rows(self, sample_ids: Texts) -> np.ndarray:
        return np.arange(len(sample_ids))


def ordered(samples: int, batch_size: int, seed: int = 0) -> TrainingData:
    ids = [f"s{number}" for number in range(samples)]
    labels = some_labels(ids, np.ones(samples, np.int8))
    return TrainingData(labels, EverySample(), Sampling(seed=seed, batch_size=batch_size))  # type: ignore[arg-type]


def some_labels(ids: list[str], label: np.ndarray) -> Labels:
    ones = np.ones(len(ids))
    return Labels(Texts(ids), Texts(["p"] * len(ids)), label, ones, ones, ones)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 5))
def test_every_epoch_holds_every_sample_once(samples: int, batch_size: int, seed: int) -> None:
    data = ordered(samples, batch_size, seed)
    steps = -(-3 * samples // batch_size)
    places = [place for step in range(steps) for place in data.places(step)][: 3 * samples]
    assert places == sorted(places, key=lambda place: place.turn)
    for epoch in range(3):
        assert sorted(place.unit for place in places if place.turn == str(epoch)) == list(range(samples))


def test_the_order_follows_from_seed_and_step_alone() -> None:
    first, second = ordered(50, 8), ordered(50, 8)
    assert [first.places(step) for step in range(20)] == [
        second.places(step) for step in reversed(range(20))
    ][::-1]
    assert first.places(0) != ordered(50, 8, seed=1).places(0)
    order = [place.unit for step in range(13) for place in first.places(step)]
    assert order[:50] != order[50:100] and order[:50] != sorted(order[:50])


@pytest.fixture(scope="module")
def cache(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    folder = tmp_path_factory.mktemp("encoded")
    origin = EncodingSource(source / "generations", str(source / "model"), None, (None, None))
    encode_folder(folder, origin, plan(origin), RuntimeParams(device="cpu"))
    return Encoded(folder, plan(origin))


@pytest.fixture
def labels(source: Path) -> Labels:
    return read_labels(source / "labels")


def test_a_batch_joins_labels_with_the_cache(cache: Encoded, labels: Labels) -> None:
    data = TrainingData(labels, cache, Sampling(seed=3, batch_size=5))
    batch = data.batch(2)
    ids = [labels.sample_ids[place.unit] for place in data.places(2)]
    for row, sample_id in enumerate(ids):
        number = labels.sample_ids.index(sample_id)
        assert batch.label[row] == labels.label[number]
        assert batch.weight[row] == np.float32(labels.weight[number])
        (at,) = cache.rows(Texts([sample_id])).tolist()
        assert torch.equal(batch.images["latents"][row], cache.images([at])["latents"][0])
        assert torch.equal(
            batch.conditions["embeddings"][row], cache.conditions([cache.prompt(at)])["embeddings"][0]
        )


def test_draws_of_a_sample_do_not_depend_on_the_batch_size(cache: Encoded, labels: Labels) -> None:
    def draws(batch_size: int) -> dict[BatchItem, tuple[int, torch.Tensor]]:
        data = TrainingData(labels, cache, Sampling(seed=3, batch_size=batch_size, caption_dropout=0.3))
        found = {}
        for step in range(2 * world.SAMPLES // batch_size):
            batch = data.batch(step)
            for row, place in enumerate(data.places(step)):
                found[place] = (batch.seeds[row][0], batch.conditions["embeddings"][row])
        return found

    small, large = draws(4), draws(12)
    assert small.keys() == large.keys() and len(small) == 2 * world.SAMPLES
    assert all(small[k][0] == large[k][0] and torch.equal(small[k][1], large[k][1]) for k in small)
    assert len({seed for seed, _ in small.values()}) == len(small)


def test_a_dropped_caption_is_the_empty_prompt(cache: Encoded, labels: Labels) -> None:
    data = TrainingData(labels, cache, Sampling(seed=3, batch_size=world.SAMPLES, caption_dropout=0.25))
    empty = cache.conditions([""])["embeddings"][0]
    batches = [data.batch(step).conditions["embeddings"] for step in range(40)]
    dropped = [torch.equal(row, empty) for batch in batches for row in batch]
    assert np.mean(dropped) == pytest.approx(0.25, abs=0.05)


def test_parts_make_up_the_batch(cache: Encoded, labels: Labels) -> None:
    batch = TrainingData(labels, cache, Sampling(seed=3, batch_size=8)).batch(0)
    parts = list(batch.split(3))
    assert [len(part) for part in parts] == [3, 3, 2]
    assert torch.equal(torch.cat([part.images["latents"] for part in parts]), batch.images["latents"])
    assert [seed for part in parts for seed in part.seeds] == batch.seeds


def test_a_side_can_be_asked_for(labels: Labels) -> None:
    positive = labels.only({1})
    assert 0 < len(positive.sample_ids) < len(labels.sample_ids)
    assert positive.label.all()


@pytest.mark.parametrize(("label", "side"), [(0, "positive"), (1, "negative")])
def test_an_empty_side_is_an_error(label: int, side: str) -> None:
    labels = some_labels(["a", "b"], np.full(2, label, np.int8))
    with pytest.raises(TgoError, match=f"none of the 2 labelled samples is {side}.*percentile"):
        labels.only({0, 1})


def rows(**changes: object) -> dict[str, object]:
    row = {"sample_id": "a", "prompt_id": "p", "reward": "r", "score": 0.0, "relative_score": 0.0}
    return row | {"label": 1, "weight": 1.0} | changes


def test_labels_that_cannot_be_used_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="label stage first"):
        read_labels(tmp_path)
    file = tmp_path / "train-00000-of-00001.parquet"
    world.write_labels(file, [rows(), rows()])
    with pytest.raises(TgoError, match="sample a twice"):
        read_labels(tmp_path)
    world.write_labels(file, [rows(), rows(sample_id="b", prompt_id=None)])
    with pytest.raises(TgoError, match="rows without a sample_id or prompt_id"):
        read_labels(tmp_path)
    for weight in (float("nan"), float("inf"), -1.0):
        world.write_labels(file, [rows(weight=weight)])
        with pytest.raises(TgoError, match="negative or not finite"):
            read_labels(tmp_path)


def test_a_label_without_image_is_an_error(cache: Encoded) -> None:
    labels = some_labels(["p0-0000", "stranger"], np.ones(2, np.int8))
    with pytest.raises(TgoError, match=r"1 of 2 labelled samples .* stranger"):
        TrainingData(labels, cache, Sampling(seed=0, batch_size=1))


def test_labels_have_a_fingerprint(labels: Labels) -> None:
    ids = "\n".join([*labels.sample_ids, *labels.prompt_ids]).encode()
    numbers = (labels.label, labels.weight, labels.score, labels.relative_score)
    stored = hashlib.sha256(ids + b"".join(values.tobytes() for values in numbers)).hexdigest()[:16]
    assert labels.fingerprint == stored, "every finished training is of another fingerprint"
    everything = np.arange(len(labels))
    assert labels.fingerprint == labels.take(everything).fingerprint
    changed = (
        labels.weighted(labels.weight * 2),
        labels.labelled(1 - labels.label),
        labels.scored(labels.score + 1),
        labels.take(everything[1:]),
    )
    assert all(labels.fingerprint != other.fingerprint for other in changed)


PAIRS = np.array([[0, 1], [3, 2], [7, 5]])


def test_the_members_of_a_pair_share_their_draws(cache: Encoded, labels: Labels) -> None:
    sampling = Sampling(seed=3, batch_size=3, draws=2, caption_dropout=0.5)
    data = TrainingData(labels, cache, sampling, FixedUnits(PAIRS))
    batch = data.batch(1)
    assert len(data) == 3 and len(batch) == 6
    assert batch.label.tolist() == [1, 0] * 3
    for row, place in enumerate(data.places(1)):
        winner, loser = 2 * row, 2 * row + 1
        assert batch.seeds[winner] == batch.seeds[loser] and len(set(batch.seeds[winner])) == 2
        for at, number in zip((winner, loser), PAIRS[place.unit], strict=True):
            assert batch.score[at] == np.float32(labels.score[number])
            latents = cache.images(cache.rows(labels.sample_ids[number : number + 1]))["latents"][0]
            assert torch.equal(batch.images["latents"][at], latents)


def test_a_positive_share_draws_with_replacement(labels: Labels) -> None:
    sampling = Sampling(seed=3, batch_size=2000, positive_share=0.8)
    data = TrainingData(labels, EverySample(), sampling)  # type: ignore[arg-type]
    units = [place.unit for place in data.places(0)]
    assert np.mean(labels.label[units]) == pytest.approx(0.8, abs=0.03)
    counts = np.bincount(units, minlength=len(labels))
    for side, share in ((1, 0.8), (0, 0.2)):
        expected = share * 2000 / np.sum(labels.label == side)
        assert np.abs(counts[labels.label == side] - expected).max() < 5 * np.sqrt(expected)
    assert len({place.turn for place in data.places(0)}) == 2000
    assert data.places(0)[-5:] == TrainingData(labels, EverySample(), sampling).places(0)[-5:]  # type: ignore[arg-type]


def test_samples_of_a_prompt_can_share_their_draws(labels: Labels) -> None:
    sampling = Sampling(seed=3, batch_size=world.PER_PROMPT, by_prompt=True)
    data = TrainingData(labels, EverySample(), sampling)  # type: ignore[arg-type]
    steps = [data.places(step) for step in range(2 * world.PROMPT_COUNT)]
    prompts = [{labels.prompt_ids[place.unit] for place in places} for places in steps]
    assert all(len(each) == 1 for each in prompts)
    seeds = [{tuple(data._seeds(place)) for place in places} for places in steps]
    assert all(len(each) == 1 for each in seeds) and len(set.union(*seeds)) == len(steps)
    units = [place.unit for places in steps for place in places]
    assert sorted(units[: len(labels)]) == sorted(units[len(labels) :]) == list(range(len(labels)))
    assert prompts[: world.PROMPT_COUNT] != prompts[world.PROMPT_COUNT :]


def test_ranks_share_out_the_batch(cache: Encoded, labels: Labels) -> None:
    data = TrainingData(labels, cache, Sampling(seed=3, batch_size=8, mismatched=True))
    whole, parts = data.batch(2), [data.batch(2, rank, 2) for rank in range(2)]
    assert [seed for part in parts for seed in part.seeds] == whole.seeds
    for name in ("conditions", "other_conditions", "images"):
        for key, tensor in getattr(whole, name).items():
            assert torch.equal(torch.cat([getattr(part, name)[key] for part in parts]), tensor)


def test_mismatched_conditions_are_those_of_the_next_sample(cache: Encoded, labels: Labels) -> None:
    batch = TrainingData(labels, cache, Sampling(seed=3, batch_size=8, mismatched=True)).batch(0)
    own, other = batch.conditions["embeddings"], batch.other_conditions["embeddings"]
    assert torch.equal(other, own.roll(-1, 0))


def test_a_prefix_stands_before_the_prompts_of_its_side(source: Path, labels: Labels, tmp_path: Path) -> None:
    prefixes = {1: "good ", 0: "bad "}
    origin = EncodingSource(
        source / "generations", str(source / "model"), None, (None, None), ("bad ", "good ")
    )
    encode_folder(tmp_path, origin, plan(origin), RuntimeParams(device="cpu"))
    cache = Encoded(tmp_path, plan(origin))
    data = TrainingData(labels, cache, Sampling(seed=3, batch_size=8, prefixes=prefixes))
    batch = data.batch(0)
    for row, place in enumerate(data.places(0)):
        prompt = cache.prompt(cache.rows(labels.sample_ids)[place.unit])
        expected = cache.conditions([prefixes[int(labels.label[place.unit])] + prompt])
        assert torch.equal(batch.conditions["embeddings"][row], expected["embeddings"][0])
