"""Scoring any number of images with several rewards at once, in bounded memory, without doing anything twice.

Images are decoded and prepared ahead of the networks (`workers.py`); each prepared tensor, each image encoding and
each distinct prompt is computed once for all rewards that share it.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tgo_pipeline.devices import is_out_of_memory, to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.engine.batching import BatchSize
from tgo_pipeline.rewards.engine.images import ImageInput, check_input
from tgo_pipeline.rewards.engine.ring import joined
from tgo_pipeline.rewards.engine.scorable import Scorable
from tgo_pipeline.rewards.engine.workers import CHUNK, Chunk, Preparer
from tgo_pipeline.rewards.specs import part_columns

log = logging.getLogger("tgo")
BLOCK = 256
"""Samples whose prompts are encoded together, rounded to whole batches: prompts repeat among neighbours."""
PROMPTS = 4096
"""Distinct prompts whose encodings are kept for samples to come: some megabytes a reward."""

Sample = tuple[ImageInput, str]


@dataclass
class Scores:
    """One float32 column (N,) per reward, NaN where `errors` has the reason that the sample could not be scored."""

    columns: dict[str, np.ndarray]
    errors: dict[int, str] = field(default_factory=dict)


@dataclass
class ScoredBatch:
    """Consecutive samples: a float32 column per reward with NaN where `errors` has a reason, else None."""

    columns: dict[str, np.ndarray]
    errors: list[str | None]


@dataclass
class _Prompts:
    """Distinct prompts, their places, and what each reward made of them."""

    places: dict[str, int]
    encoded: dict[str, Any]


@dataclass
class _Samples:
    """Samples of one part that a worker prepares together, and the place of each one's prompt.

    So many samples are `following` them in the same batch, as far as its size is known. Those after the `last` of a
    block have other prompts.
    """

    part: int
    places: np.ndarray
    prompts: _Prompts
    following: int
    last: bool


@dataclass
class _Batch:
    """Samples that the networks see together, prepared."""

    samples: list[_Samples] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(samples.places) for samples in self.samples)

    def add(self, samples: _Samples, chunk: Chunk) -> None:
        self.samples.append(samples)
        self.chunks.append(chunk)


@dataclass
class _Scored:
    """What the rewards gave to a part of a batch, and why images have no score, where a reward knows."""

    scores: dict[str, Tensor]
    reasons: dict[str, Sequence[str | None]]


def score_all(
    rewards: Mapping[str, Scorable] | Sequence[Scorable],
    images: Sequence[ImageInput],
    prompts: Sequence[str] | None = None,
    *,
    prompt: str | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    parts: bool = False,
) -> Scores:
    """Score pairs of image and prompt with several rewards; an image that cannot be read costs its row, not the call.

    Images and prompts as in `Reward.score`. Decoding, the prepared images, equal CLIP towers and distinct prompts
    are shared. Columns are the keys of a mapping, or the names of a list of rewards, and with `parts` also NAME.part
    for each further number of a reward. Raises `TgoError` if the numbers differ, two rewards have one name, or an
    image is of a kind that holds no image.
    """
    named = dict(rewards) if isinstance(rewards, Mapping) else _named(rewards)
    paired = pair(images, prompts, prompt, any(reward.needs_prompt for reward in named.values()))
    with Scorer(named, batch_size=batch_size, workers=workers, parts=parts) as scorer:
        return scorer.score(images, paired)


def _named(rewards: Sequence[Scorable]) -> dict[str, Scorable]:
    named: dict[str, Scorable] = {}
    for reward in rewards:
        if named.setdefault(reward.name, reward) is not reward:
            raise TgoError(
                f"two rewards are named {reward.name!r}: give a dict with a name of its own for each."
            )
    return named


def pair(
    images: Sequence[Any], prompts: Sequence[str] | None, prompt: str | None, needed: bool
) -> Sequence[str]:
    """One prompt for each image. Raises `TgoError` if there are none, or two kinds of them."""
    if isinstance(images, (str, bytes)) or not hasattr(images, "__len__"):
        raise TgoError(f"images is one {type(images).__name__}: give a list of images.")
    if isinstance(prompts, str):
        raise TgoError(
            f"prompts is one text, {prompts[:40]!r}: give a list with one for each image, or ask for one prompt for "
            "all of them with `prompt=`."
        )
    if prompts is not None and prompt is not None:
        raise TgoError(
            "prompts and prompt are both given: the first is one for each image, the second one for all."
        )
    if prompts is None and prompt is None and needed:
        raise TgoError("no prompts: give `prompts` (one for each image) or `prompt` (one for all of them).")
    given = [prompt or ""] * len(images) if prompts is None else prompts
    for place, text in enumerate(given):
        if not isinstance(text, str):
            raise TgoError(f"prompt {place} is {text!r:.40}, not text: leave out images without a prompt.")
    return given


class Scorer:
    """Scores images under several rewards, each on its own device. Use it in a `with`, or `close` it.

    `batch_size` is the number of images a network sees at once; without one it is measured on a GPU, and it is
    halved when memory runs out. `workers` processes decode and resize; without them threads of this process do. With
    `parts` each further number of a reward has a column, NAME.part.
    """

    def __init__(
        self,
        rewards: Mapping[str, Scorable],
        *,
        batch_size: int | None = None,
        workers: int = 0,
        threads: int | None = None,
        parts: bool = False,
    ) -> None:
        self.rewards = dict(rewards)
        self._parts: dict[str, tuple[str, ...]] = {
            name: tuple(getattr(reward, "parts", ())) if parts else ()
            for name, reward in self.rewards.items()
        }
        self.columns = [column for name in self.rewards for column in self._columns(name)]
        share_towers(list(self.rewards.values()))
        devices = {reward.device for reward in self.rewards.values()}
        self.batch_size = BatchSize(batch_size, devices)
        preparations = dict.fromkeys(reward.preprocessing for reward in self.rewards.values())
        self._gpus = [device for device in devices if device.type == "cuda"]
        self._preparer = Preparer(preparations, workers, threads, batch=self.batch_size.most, gpus=self._gpus)

    def _columns(self, name: str) -> list[str]:
        """The columns of a reward: its score, then its parts."""
        return [name, *part_columns(name, self._parts[name])]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        self._preparer.close()

    def score(self, images: Sequence[ImageInput], prompts: Sequence[str]) -> Scores:
        """Score each image with the prompt of the same place. Raises `TgoError` if their numbers differ."""
        if len(images) != len(prompts):
            raise TgoError(f"{len(images)} images and {len(prompts)} prompts: give one prompt per image.")
        empty = ScoredBatch({name: np.empty(0, np.float32) for name in self.columns}, [])
        batches = [empty, *self.stream(zip(images, prompts, strict=True))]
        columns = {name: np.concatenate([batch.columns[name] for batch in batches]) for name in self.columns}
        reasons = itertools.chain.from_iterable(batch.errors for batch in batches)
        return Scores(columns, {row: reason for row, reason in enumerate(reasons) if reason is not None})

    def stream(self, samples: Iterable[Sample]) -> Iterator[ScoredBatch]:
        """Score (image, prompt) pairs as they come, batch by batch in their order.

        Only some hundred samples are held at once, however many there are.
        """
        return (batch for _, batch in self.stream_parts([samples]))

    def stream_parts(self, parts: Iterable[Iterable[Sample]]) -> Iterator[tuple[int, ScoredBatch]]:
        """As `stream`, for samples that come in parts: yields the number of the part with each of its batches.

        A batch never reaches into the next part, so that the scores of a part are the same to the last bit whatever
        was scored before it (on a GPU with a `batch_size`, which is measured otherwise); but the next part is decoded
        while this one is with the networks. An error comes after the batches that were scored before it.
        """
        # Scores are fetched one batch late, so that a GPU has the next one before it ends this.
        waiting: deque[tuple[int, Callable[[], ScoredBatch]]] = deque()
        try:
            for batch in self._batches(parts):
                waiting.append((batch.samples[0].part, self._launch(batch)))
                if len(waiting) > 1:
                    yield _fetched(waiting)
        except Exception:
            while waiting:
                yield _fetched(waiting)
            raise
        while waiting:
            yield _fetched(waiting)

    def _batches(self, parts: Iterable[Iterable[Sample]]) -> Iterator[_Batch]:
        """Prepared samples, as many as the networks see at once by now: those that were cut before memory was measured
        fill batches of the measured size, too."""
        batch = _Batch()
        prepared = self._preparer.stream(self._chunks(parts), lambda samples: samples.following)
        for samples, chunk in prepared:
            if len(batch) and len(batch) + len(samples.places) > self.batch_size.current:
                yield batch
                batch = _Batch()
            batch.add(samples, chunk)
            if samples.last or len(batch) >= self.batch_size.current:
                yield batch
                batch = _Batch()

    def _chunks(self, parts: Iterable[Iterable[Sample]]) -> Iterator[tuple[_Samples, list[ImageInput]]]:
        """Cut samples into what a worker prepares at a time; encodes the prompts."""
        for number, samples in enumerate(parts):
            prompts = _Prompts({}, {})
            row = 0
            samples = iter(samples)
            while block := list(itertools.islice(samples, self.batch_size.block(BLOCK))):
                for place, (image, _) in enumerate(block):
                    check_input(image, row + place)
                row += len(block)
                prompts = self._encode_prompts([prompt for _, prompt in block], prompts)
                places = np.array([prompts.places[prompt] for _, prompt in block])
                for start, stop, end in self.batch_size.cut(len(block), CHUNK):
                    cut = _Samples(number, places[start:stop], prompts, end - stop, last=stop == len(block))
                    yield cut, [image for image, _ in block[start:stop]]

    @torch.inference_mode()
    def _encode_prompts(self, prompts: Sequence[str], known: _Prompts) -> _Prompts:
        """What every reward makes of the distinct prompts, of which only new ones are encoded."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known.places]
        if not new:
            return known
        if len(known.places) + len(new) > PROMPTS:
            new, known = list(dict.fromkeys(prompts)), _Prompts({}, {})
        encoded = {name: reward.encode_prompts(new) for name, reward in self.rewards.items()}
        if known.encoded:
            encoded = {name: _append(known.encoded[name], part) for name, part in encoded.items()}
        places = {prompt: place for place, prompt in enumerate([*known.places, *new])}
        return _Prompts(places, encoded)

    def _launch(self, batch: _Batch) -> Callable[[], ScoredBatch]:
        """Start the networks on a batch; the result is fetched by calling what is returned."""
        errors = list(itertools.chain.from_iterable(chunk.errors for chunk in batch.chunks))
        rows = np.flatnonzero([error is None for error in errors])
        pixels, shared = _join(batch.chunks)
        places = np.concatenate([samples.places for samples in batch.samples])[rows]
        encoded = batch.samples[0].prompts.encoded
        parts = self._score(pixels, shared, places, encoded) if len(rows) else []
        copies = {
            name: _copied(torch.cat([part.scores[name].float() for part in parts]))
            for name in self.columns
            if parts
        }
        if not self._gpus:  # which may be copying pixels until the scores are there
            batch.chunks.clear()

        def fetch() -> ScoredBatch:
            """Wait for the scores; what is not finite becomes the row's reason."""
            columns = {name: np.full(len(errors), np.nan, dtype=np.float32) for name in self.columns}
            for name, copied in copies.items():
                found = copied()
                columns[name][rows] = found
                said = list(itertools.chain.from_iterable(part.reasons[name] for part in parts))
                for place in np.flatnonzero(~np.isfinite(found)):
                    row, reason = rows[place], said[place] or f"{name} gave {found[place]}"
                    if reason not in (errors[row] or "").split(
                        "; "
                    ):  # a reward's own is one for all of its columns
                        errors[row] = "; ".join(filter(None, (errors[row], reason)))
                    columns[name][row] = np.nan
            batch.chunks.clear()
            return ScoredBatch(columns, errors)

        return fetch

    @torch.inference_mode()
    def _score(
        self,
        pixels: Sequence[Any],
        shared: Mapping[Any, int],
        places: np.ndarray,
        encoded: Mapping[str, Any],
    ) -> list[_Scored]:
        """Scores of a batch, in as many parts as memory made necessary."""
        try:
            with self.batch_size.measure(len(places)):
                return [self._forward(pixels, shared, places, encoded)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(places) == 1:
                raise
            half = len(places) // 2
        self.batch_size.shrink(half)
        log.warning("memory ran out with %d images at once: going on with %d", len(places), half)
        first = self._score([part[:half] for part in pixels], shared, places[:half], encoded)
        return first + self._score([part[half:] for part in pixels], shared, places[half:], encoded)

    def _forward(
        self,
        pixels: Sequence[Any],
        shared: Mapping[Any, int],
        places: np.ndarray,
        encoded: Mapping[str, Any],
    ) -> _Scored:
        finished: dict[tuple[int, torch.device], Any] = {}
        images: dict[tuple[int, int], Any] = {}
        result = _Scored({}, {})
        compiled = all(getattr(reward, "compiled", False) for reward in self.rewards.values())
        missing = max(0, self.batch_size.current - len(places)) if compiled else 0
        filled = np.pad(places, (0, missing), mode="edge")
        for name, reward in self.rewards.items():
            part = shared[reward.preprocessing]
            if (part, reward.device) not in finished:
                moved = _moved(pixels[part], reward.device)
                finished[part, reward.device] = _filled(reward.preprocessing.finish(moved), missing)
            key = (id(reward.image_encoder), part)
            if key not in images:
                images[key] = reward.encode_images(finished[part, reward.device])
            given = images[key], _chosen(encoded[name], filled)
            if self._parts[name]:
                numbers = reward.combine_parts(*given)[: len(places)]  # type: ignore[attr-defined]
                result.scores.update(zip(self._columns(name), numbers.unbind(1), strict=True))
            else:
                result.scores[name] = reward.combine(*given)[: len(places)]
            said = getattr(reward, "reasons", None) or [None] * len(places)
            own = [reason and f"{name} {reason}" for reason in said]
            result.reasons |= dict.fromkeys(self._columns(name), own)
        return result


def _fetched(waiting: deque[tuple[int, Callable[[], ScoredBatch]]]) -> tuple[int, ScoredBatch]:
    """The batch that was launched first, with the number of its part."""
    part, fetch = waiting.popleft()
    return part, fetch()


def _filled(images: Any, missing: int) -> Any:
    """Images with the last one so many times more: compiled networks see batches of one size."""
    if not missing:
        return images
    return torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])


def _join(chunks: Sequence[Chunk]) -> tuple[list[Any], dict[Any, int]]:
    """The pixels of a batch's chunks, and which of them each preparation has: shared if they are in every chunk."""
    kept: dict[tuple[int, ...], int] = {}
    shared: dict[Any, int] = {}
    for preparation in chunks[0].shared:
        sources = tuple(chunk.shared[preparation] for chunk in chunks)
        shared[preparation] = kept.setdefault(sources, len(kept))
    parts = [[chunk.pixels[index] for chunk, index in zip(chunks, sources, strict=True)] for sources in kept]
    return [_concatenate([pixels for pixels in part if len(pixels)]) for part in parts], shared


def _concatenate(parts: Sequence[Any]) -> Any:
    if not parts or isinstance(parts[0], list):
        return list(itertools.chain.from_iterable(parts))
    return torch.from_numpy(joined(parts))


def _append(known: Any, new: Any) -> Any:
    return torch.cat([known, new]) if isinstance(known, Tensor) else np.concatenate([known, new])


def _moved(pixels: Any, device: torch.device) -> Any:
    return to_device(pixels, device) if isinstance(pixels, Tensor) else pixels


def _chosen(prompts: Any, places: np.ndarray) -> Any:
    """Encoded prompts by their places."""
    if not isinstance(prompts, Tensor):
        return prompts[places]
    return prompts[to_device(torch.from_numpy(places), prompts.device)]


def _copied(scores: Tensor) -> Callable[[], np.ndarray]:
    """Begin to copy scores from their device; what is returned waits for that, and not for what came after it."""
    if not scores.is_cuda:
        return lambda: scores.cpu().numpy()
    copy = scores.to("cpu", non_blocking=True)  # to pinned memory
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(scores.device))

    def wait() -> np.ndarray:
        done.synchronize()
        return copy.numpy()

    return wait


def share_towers(rewards: Sequence[Scorable]) -> None:
    """Let rewards whose CLIP image towers are bit-identical use one object, so that it runs once per batch."""
    towers: list[Any] = []
    for reward in rewards:
        tower = getattr(reward, "tower", None)
        if tower is None:
            continue
        twin = next((other for other in towers if other.equals(tower)), None)
        if twin is None:
            towers.append(tower)
        else:
            reward.tower = twin  # type: ignore[attr-defined]
