"""What is asked, and in which order: questions about one image, or about two of one prompt."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.rating.gallery import RatableImage
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.workspace import Workspace

Question = tuple[int, ...]
"""Places of the image, or of the two images, in the list."""
ALL_PAIRS = 8
"""Up to so many images of a prompt every two are compared, in 28 questions at most."""
NEIGHBOURS = 4
"""Of more images, each is compared with the so many that follow it around a ring: pairs grow with the images then, not
with their square, and every image meets twice as many others."""


def singles(images: Sequence[RatableImage]) -> list[Question]:
    """A question about each image."""
    return [(place,) for place in range(len(images))]


def pairs(images: Sequence[RatableImage]) -> list[Question]:
    """Questions about two images of one prompt. Raises `TgoError` if no prompt has two images."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, image in enumerate(images):
        if image.prompt:
            groups[image.prompt].append(place)
    found = [pair for group in groups.values() for pair in _pairs(group)]
    if not found:
        raise TgoError(
            f"no two of the {len(images)} images have the same prompt: pairs compare images of one prompt; rate them "
            "one by one (--ask stars), or sample several images a prompt (generate.images_per_prompt)."
        )
    return found


def _pairs(group: Sequence[int]) -> Iterator[Question]:
    if len(group) <= ALL_PAIRS:
        yield from itertools.combinations(group, 2)
        return
    for place, image in enumerate(group):
        for step in range(1, NEIGHBOURS + 1):
            yield tuple(sorted((image, group[(place + step) % len(group)])))


def shuffled(images: Sequence[RatableImage], seed: int) -> list[RatableImage]:
    """The images in an order of which nothing can be guessed, the same for the same images and seed."""
    chance = np.random.default_rng(derive_seed(seed, "images", "rate"))
    return [images[place] for place in chance.permutation(len(images))]


def first_left(question: Question, images: Sequence[RatableImage], rater: str, seed: int) -> Question:
    """The images of a question from left to right: by chance, another one for each rater."""
    identity = "\x1f".join([rater, *(images[place].name for place in question)])
    return question[::-1] if derive_seed(seed, identity, "rate left") % 2 else question


def ranked(questions: Sequence[Question], urgency: np.ndarray | None) -> np.ndarray:
    """Places of the questions, the lowest urgency first, (Q,); equal ones, and NaN at the end, as they come."""
    if urgency is None:
        return np.arange(len(questions))
    return np.argsort(urgency, kind="stable")


def counted(questions: Sequence[Question], answers: np.ndarray) -> np.ndarray:
    """How many answers there are about the images of each question, (Q,); `answers` are those of each image."""
    return np.array([sum(answers[place] for place in question) for question in questions])


def urgency(
    order: str,
    images: Sequence[RatableImage],
    questions: Sequence[Question],
    params: Params,
    workspace: Workspace,
) -> np.ndarray:
    """What `tau` and `disagree` sort questions by, lowest first, (Q,).

    `tau`: how far the target's scores are from tau, added up. `disagree`: of one image minus the spread of its rewards
    in standard deviations; of two how far the share of the rewards that prefer the first is from a half. Raises
    `TgoError` if the scores or thresholds that it needs are not there.
    """
    measure = {"tau": _distances, "disagree": _disagreement}[order]
    try:
        return measure(images, questions, params, workspace)
    except TgoError as error:
        raise TgoError(f"--order {order}: {error}") from error


def _distances(
    images: Sequence[RatableImage], questions: Sequence[Question], params: Params, workspace: Workspace
) -> np.ndarray:
    from tgo_pipeline.thresholds.table import read_thresholds, taus, threshold_row
    from tgo_pipeline.thresholds.targets import read_scores, reference_folder, target_scores

    table = read_thresholds(workspace.thresholds)
    target, rewards = params.target.reward, params.target_rewards
    tau = threshold_row(table, target)["tau"]
    frame = read_scores(workspace.scores, rewards)
    folder = reference_folder(params.threshold, workspace.scores)
    reference = frame if folder == workspace.scores else read_scores(folder, rewards)
    scores = target_scores(frame, target, rewards, reference, taus(table))
    distance = _by_image(images, frame["sample_id"].to_list(), np.abs(scores - tau)[:, None])[:, 0]
    return np.array([sum(distance[place] for place in question) for question in questions])


def _disagreement(
    images: Sequence[RatableImage], questions: Sequence[Question], params: Params, workspace: Workspace
) -> np.ndarray:
    from tgo_pipeline.thresholds.targets import column, read_scores

    rewards = list(params.score.rewards)
    if len(rewards) < 2:
        raise TgoError(f"score.rewards names {len(rewards)}: it takes two rewards to disagree.")
    frame = read_scores(workspace.scores, rewards)
    columns = np.stack([column(frame, name) for name in rewards], axis=1)
    spread = np.nanstd(columns, axis=0)
    units = (columns - np.nanmean(columns, axis=0)) / np.where(spread > 0, spread, 1)
    values = _by_image(images, frame["sample_id"].to_list(), units)
    if len(questions[0]) == 1:
        return -values.std(axis=1)[[place for (place,) in questions]]
    first, second = (values[[question[side] for question in questions]] for side in (0, 1))
    return np.abs(np.sign(first - second).mean(axis=1))


def _by_image(images: Sequence[RatableImage], samples: Sequence[str], values: np.ndarray) -> np.ndarray:
    """The row of `values` (N, C) of each image, NaN where the scores lack it, (I, C). Raises `TgoError` if all are."""
    places = {sample: place for place, sample in enumerate(samples)}
    found = np.full((len(images), values.shape[1]), np.nan)
    for row, image in enumerate(images):
        if image.name in places:
            found[row] = values[places[image.name]]
    if np.isnan(found).all():
        raise TgoError(
            "not one of the images has a score in data/scores: it needs scored samples of this project "
            "(tgo rate data/generations)."
        )
    return found
