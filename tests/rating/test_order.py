"""What comes next: seeded, blind, the fewest answers, near tau, and where rewards disagree."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.thresholds.shards import flat, params, write_scores
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rating import order
from tgo_pipeline.rating.gallery import RatableImage
from tgo_pipeline.rating.session import RatingSession
from tgo_pipeline.rating.store import opened
from tgo_pipeline.thresholds.stage import fit_folder

QUICK = {"bootstrap": 20}
CLIP = params(["clip"], target={"reward": "clip"}, threshold=QUICK)
TWO = params(["clip", "aesthetic"], threshold=QUICK)


def made(count: int, per_prompt: int = 3) -> list[RatableImage]:
    """Samples as `write_scores` names them."""
    names = [f"prompt{n // per_prompt:06d}-{n % per_prompt:04d}" for n in range(count)]
    return [RatableImage(name, name[:12], Path(f"{name}.png")) for name in names]


def walk(session: RatingSession, rater: str, steps: int) -> list[str]:
    """The names that a rater is shown, one after the other."""
    names = []
    for step in range(steps):
        question = session.next(rater)["question"]
        names.append(session.images[int(question["id"].split("-")[0])].name)
        session.answer(rater, question["id"], 1, f"{rater}{step:010d}", 1.0)
    return names


def test_random_is_the_same_for_all_raters_and_another_for_another_seed(tmp_path: Path) -> None:
    seen = {}
    for seed, rater in itertools.product((0, 1), ("ann", "bob")):
        with opened(tmp_path / f"{seed}{rater}.jsonl") as store:
            seen[seed, rater] = walk(
                RatingSession(order.shuffled(made(30), seed), store, "stars", False, seed), rater, 30
            )
    assert sorted(seen[0, "ann"]) == [image.name for image in made(30)]
    assert seen[0, "ann"] == seen[0, "bob"] != seen[1, "ann"] != sorted(seen[1, "ann"])


def test_the_fewest_answers_come_first(tmp_path: Path) -> None:
    with opened(tmp_path / "r.jsonl") as store:
        session = RatingSession(order.shuffled(made(30), 0), store, "stars", True, 0)
        first, second = walk(session, "ann", 20), walk(session, "bob", 20)
    assert set(second[:10]) == {image.name for image in made(30)} - set(first)
    assert Counter(first + second).most_common()[0][1] == 2


def test_two_images_of_one_prompt_on_sides_that_chance_gives() -> None:
    images = made(30)
    questions = order.pairs(images)
    assert len(questions) == 10 * 3
    assert all(images[a].prompt == images[b].prompt and a < b for a, b in questions)
    left = [
        order.first_left(question, images, rater, 0) == question for question in questions for rater in "ab"
    ]
    assert 20 < sum(left) < 40


def test_pairs_of_many_images_grow_with_them_and_hang_together() -> None:
    images = made(50, per_prompt=50)
    questions = order.pairs(images)
    assert len(set(questions)) == 50 * order.NEIGHBOURS
    reached = {0}
    for _ in range(50):
        reached |= {other for pair in questions if reached & set(pair) for other in pair}
    assert len(reached) == 50


def test_pairs_need_two_images_of_a_prompt() -> None:
    alone = [*made(3, per_prompt=1), RatableImage("x", None, Path("x")), RatableImage("y", None, Path("y"))]
    with pytest.raises(TgoError, match="no two of the 5 images have the same prompt"):
        order.pairs(alone)


def test_nearest_to_tau_first(tmp_path: Path) -> None:
    workspace, images = flat(tmp_path), made(6)
    write_scores(workspace.scores, {"clip": [0.1, 0.9, 0.5, 0.3, None, 0.45]}, per_prompt=3)
    fit_folder(CLIP, workspace)  # tau is the median, 0.45
    singles, pairs = order.singles(images), order.pairs(images)
    found = order.urgency("tau", images, singles, CLIP, workspace)
    assert order.ranked(singles, found).tolist() == [5, 2, 3, 0, 1, 4]
    found = order.urgency("tau", images, pairs, CLIP, workspace)
    assert pairs[order.ranked(pairs, found)[0]] == (3, 5)
    assert np.isnan(found).sum() == 2


def test_where_rewards_disagree_first(tmp_path: Path) -> None:
    workspace, images = flat(tmp_path), made(6)
    columns = {"clip": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "aesthetic": [0.0, 10.0, 20.0, 50.0, 40.0, 30.0]}
    write_scores(workspace.scores, columns, per_prompt=3)
    singles, pairs = order.singles(images), order.pairs(images)
    found = order.urgency("disagree", images, singles, TWO, workspace)
    assert {*order.ranked(singles, found)[:2].tolist()} == {3, 5}
    found = order.urgency("disagree", images, pairs, TWO, workspace)
    assert {pairs[place] for place in order.ranked(pairs, found)[:3]} == {(3, 4), (3, 5), (4, 5)}
    assert found.tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("kind", ["tau", "disagree"])
def test_an_order_that_needs_scores_says_so(tmp_path: Path, kind: str) -> None:
    workspace, images = flat(tmp_path), made(6)
    with pytest.raises(TgoError, match=rf"--order {kind}: .*(does not exist: run|run the score stage)"):
        order.urgency(kind, images, order.singles(images), TWO, workspace)
    write_scores(workspace.scores, {"clip": np.arange(6.0), "aesthetic": np.arange(6.0)}, per_prompt=3)
    fit_folder(TWO, workspace)
    others = [RatableImage(f"{n}.png", None, Path(f"{n}.png")) for n in range(6)]
    with pytest.raises(TgoError, match="not one of the images has a score in data/scores"):
        order.urgency(kind, others, order.singles(others), TWO, workspace)


def test_one_reward_cannot_disagree(tmp_path: Path) -> None:
    workspace, images = flat(tmp_path), made(6)
    with pytest.raises(TgoError, match=r"score\.rewards names 1: it takes two"):
        order.urgency("disagree", images, order.singles(images), CLIP, workspace)
