"""From a file of feedback to one score per image: every kind, and the partition rule of Pick-a-Pic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.datasets.public import uid, write_pickapic
from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.scores import image_scores
from tgo_pipeline.params.feedback import FeedbackParams


def scores(source: Path | str, kind: str, **keys: Any) -> dict[str, float]:
    found = image_scores(FeedbackParams(source=str(source), kind=kind, **keys))  # type: ignore[arg-type]
    return dict(zip(found.images, found.scores.tolist(), strict=True))


def counts(source: Path | str, kind: str, **keys: Any) -> dict[str, int]:
    return image_scores(FeedbackParams(source=str(source), kind=kind, **keys)).counts  # type: ignore[arg-type]


@pytest.fixture
def stars(tmp_path: Path) -> Path:
    rows = ["a,5,x", "b,1,x", "a,3,y", "a,1,z", "b,,y", "c,4,z", "c,5,x"]
    path = tmp_path / "stars.csv"
    path.write_text("\n".join(["file_name,rating,rater", *rows]))
    return path


def test_ratings_by_mean_and_median(stars: Path) -> None:
    assert scores(stars, "rating") == {"a": 3, "b": 1, "c": 4.5}
    assert scores(stars, "rating", aggregate="median") == {"a": 3, "b": 1, "c": 4.5}
    assert counts(stars, "rating", rater="rater") == {"rows": 6, "empty": 1, "images": 3, "raters": 3}


def test_shrunk_ratings_depend_on_raters_only_where_they_are_named(stars: Path) -> None:
    alone, known = (scores(stars, "rating", aggregate="shrunk", rater=rater) for rater in (None, "rater"))
    assert alone != known
    assert 1 < alone["b"] < alone["a"] < alone["c"] < 4.5


def test_thumbs_are_the_share_that_is_up(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file_name,rating\na,up\na,down\na,up\na,up\nb,down\n")
    assert scores(tmp_path / "t.csv", "thumb") == {"a": 0.75, "b": 0.0}


def test_a_score_is_taken_as_it_is_once_for_each_image(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("file_name,rating\na,0.25\nb,-3\na,0.25\n")
    assert scores(path, "score") == {"a": 0.25, "b": -3.0}
    path.write_text("file_name,rating\na,0.25\nb,-3\na,0.5\n")
    with pytest.raises(TgoError, match=r"image 'a' has several scores \(0.25, 0.5\).*use kind: rating"):
        scores(path, "score")


RULES = {
    "any_win": [1, 0, 1, 0, 0, 1],
    "wins": [1, 0, 1, 0, 0, 1],
    "win_rate": [0.5, 0, 1, 0.5, 0.25, 1],
    "wins_minus_losses": [0, -1, 1, 0, -1, 1],
}


@pytest.mark.parametrize("rule", RULES)
def test_choices_of_pick_a_pic(tmp_path: Path, rule: str) -> None:
    source = f"pickapic:{write_pickapic(tmp_path / 'set')}/train"
    assert scores(source, "pair", rule=rule) == {uid(i): value for i, value in enumerate(RULES[rule])}
    assert counts(source, "pair") == {
        "rows": 4,
        "empty": 0,
        "images": 6,
        "ties": 1,
        "images_both_win_and_lose": 1,
        "images_only_tied": 1,
        "compared_with_itself": 0,
        "raters": 3,
    }


def test_any_win_parts_images_as_exclusive_wins_and_intersections_against_exclusive_losses(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        (f"{a}", f"{b}", rng.choice([0.0, 0.5, 1.0])) for a, b in rng.integers(0, 200, (400, 2)) if a != b
    ]
    pl.DataFrame(rows, ["image_0_uid", "image_1_uid", "label_0"], orient="row").write_parquet(
        tmp_path / "p.parquet"
    )
    winners = {a if label else b for a, b, label in rows if label != 0.5}
    losers = {b if label else a for a, b, label in rows if label != 0.5}
    found = scores(tmp_path / "p.parquet", "pair", rule="any_win")
    desirable = {image for image, score in found.items() if score == 1}
    assert desirable == (winners - losers) | (winners & losers)
    assert losers - winners <= set(found) - desirable
    assert counts(tmp_path / "p.parquet", "pair")["images_both_win_and_lose"] == len(winners & losers)


def test_bradley_terry_ranks_the_one_that_beat_a_winner_higher(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("image_0_uid,image_1_uid,label_0\na,b,1\nb,c,1\nd,d,1\n")
    found = scores(path, "pair", rule="bradley_terry", shrinkage=1.0)
    assert found["a"] > found["b"] == pytest.approx(0, abs=1e-6) and found["c"] == pytest.approx(-found["a"])
    assert counts(path, "pair")["compared_with_itself"] == 1


def test_images_compared_with_themselves_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("image_0_uid,image_1_uid,label_0\na,a,1\n")
    with pytest.raises(TgoError, match="every row compares an image with itself"):
        scores(tmp_path / "p.csv", "pair")
