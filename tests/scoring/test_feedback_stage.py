"""The score folder with columns of feedback beside rewards, and without any reward."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.rewards import tiny
from tests.scoring.test_stage import BROKEN, ROWS, SHARDS, computed, contents, shard, write_generations
from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.ratings_file import Judgement
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.rating.store import append_all
from tgo_pipeline.scoring.stage import plan, score_folder
from tgo_pipeline.storage.shards import Status
from tgo_pipeline.storage.tables import read_folder, read_metadata

SAMPLES = [f"p{index:02d}-{row:04d}" for index in range(SHARDS) for row in range(ROWS)]


@pytest.fixture
def generations(tmp_path: Path) -> Path:
    return write_generations(tmp_path / "generations")


def stars(folder: Path, name: str = "stars", skip: int = 0, **keys: Any) -> FeedbackParams:
    """Ratings 1 to 5 of the samples, but of the first `skip`."""
    lines = [f"{sample},{1 + number % 5}" for number, sample in enumerate(SAMPLES)][skip:]
    (folder / f"{name}.csv").write_text("\n".join(["file_name,rating", *lines]))
    return FeedbackParams(source=str(folder / f"{name}.csv"), kind="rating", **keys)


def score(
    generations: Path,
    feedback: Mapping[str, FeedbackParams],
    rewards: Mapping[str, str] | None = None,
    **keys: Any,
) -> Status:
    return score_folder(
        generations,
        generations.parent / "scores",
        rewards or {},
        runtime=RuntimeParams(device="cpu", score_batch_size=3),
        max_error_rate=keys.pop("max_error_rate", 0.0),
        feedback=feedback,
        metrics=generations.parent / "score.json",
        **keys,
    )


def test_the_file_of_tgo_rate_is_taken_by_its_kinds_and_scored_again_when_it_grows(
    generations: Path, tmp_path: Path
) -> None:
    file = tmp_path / "ratings.jsonl"
    first, second, third = SAMPLES[:3]
    append_all(
        file,
        [
            Judgement("1", "rating", (first,), 4, "ann"),
            Judgement("2", "rating", (first,), 2, "bob"),
            Judgement("3", "rating", (second,), None, "ann"),
            Judgement("4", "pair", (second, third), 1, "ann"),
        ],
    )
    given = {
        "stars": FeedbackParams(source=str(file), kind="rating", low=1, high=5),
        "choices": FeedbackParams(source=str(file), kind="pair"),
    }
    score(generations, given)
    frame = read_folder(tmp_path / "scores")
    assert frame["stars"].to_list() == [3.0, *[None] * (len(SAMPLES) - 1)]
    assert frame["choices"].to_list() == [None, 1.0, 0.0, *[None] * (len(SAMPLES) - 3)]
    assert json.loads((tmp_path / "score.json").read_text())["stars"]["empty"] == 1
    append_all(file, [Judgement("5", "rating", (third,), 5, "ann")])
    assert score(generations, given).to_do == 0
    assert read_folder(tmp_path / "scores")["stars"].to_list()[:3] == [3.0, None, 5.0]


def test_feedback_alone_scores_without_any_model(generations: Path, tmp_path: Path) -> None:
    assert score(generations, {"stars": stars(tmp_path, skip=2)}) == Status(SHARDS, 0, 0, 0)
    frame = read_folder(tmp_path / "scores")
    assert frame.columns == ["sample_id", "prompt_id", "stars", "error"]
    assert frame["stars"].to_list() == [
        None,
        None,
        *(float(1 + number % 5) for number in range(2, len(SAMPLES))),
    ]
    assert frame["error"].null_count() == len(SAMPLES)
    metrics = json.loads((tmp_path / "score.json").read_text())
    assert metrics["stars"] | {"mean": 0} == {
        "n": 10,
        "null": 2,
        "mean": 0,
        "rows": 10,
        "empty": 0,
        "images": 10,
        "images_not_generated": 0,
    }
    described = read_metadata(tmp_path / "scores" / shard(0))["rewards"]["stars"]
    assert (described["reward"], described["aggregate"]) == ("feedback (rating)", "mean")


def test_columns_come_side_by_side_and_others_are_kept_bit_for_bit(
    generations: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewards = {"clip": str(tiny.write("clip", tmp_path / "clip"))}
    caplog.clear()
    caplog.set_level(logging.INFO, "tgo")
    score(generations, {}, rewards)
    assert computed(caplog) == ["computed clip"] * SHARDS
    before = read_folder(tmp_path / "scores")["clip"].to_list()
    both = {"stars": stars(tmp_path), "best": stars(tmp_path, "best", aggregate="median")}
    score(generations, {"stars": both["stars"]}, rewards)
    assert computed(caplog) == ["computed stars"] * SHARDS
    score(generations, both, rewards)
    assert computed(caplog) == ["computed best"] * SHARDS
    frame = read_folder(tmp_path / "scores")
    assert frame.columns == ["sample_id", "prompt_id", "clip", "stars", "best", "error"]
    assert frame["clip"].to_list() == before
    files = contents(tmp_path / "scores")
    assert score(generations, both, rewards).done == SHARDS
    assert computed(caplog) == [] and contents(tmp_path / "scores") == files
    score(generations, {"stars": stars(tmp_path, skip=1), "best": both["best"]}, rewards)
    assert computed(caplog) == ["computed stars"] * SHARDS
    assert set(json.loads((tmp_path / "score.json").read_text())) == {"clip", "stars", "best"}


def test_a_reward_and_feedback_at_once_are_what_they_are_one_after_the_other(
    generations: Path, tmp_path: Path
) -> None:
    rewards, feedback = {"clip": str(tiny.write("clip", tmp_path / "clip"))}, {"stars": stars(tmp_path)}
    score(generations, feedback, rewards)
    at_once = read_folder(tmp_path / "scores")
    for file in (tmp_path / "scores").iterdir():
        file.unlink()
    score(generations, feedback)
    score(generations, feedback, rewards)
    assert read_folder(tmp_path / "scores").equals(at_once)


def test_no_feedback_is_no_error_but_an_image_that_cannot_be_scored_is(tmp_path: Path) -> None:
    generations = write_generations(tmp_path / "generations", broken=(BROKEN,))
    rewards = {"clip": str(tiny.write("clip", tmp_path / "clip"))}
    feedback = {"stars": stars(tmp_path, skip=3)}
    with pytest.raises(TgoError, match="1 of 12 images could not be scored"):
        score(generations, feedback, rewards)
    frame = read_folder(tmp_path / "scores")
    assert frame.filter(frame["error"].is_not_null())["sample_id"].to_list() == [BROKEN]
    assert frame.filter(frame["sample_id"] == BROKEN)["stars"].to_list() == [1.0]
    assert frame["stars"].null_count() == 3
    assert score(generations, feedback).failed == 0


def test_a_source_that_is_missing_or_on_other_images_writes_nothing(
    generations: Path, tmp_path: Path
) -> None:
    missing = {"stars": FeedbackParams(source=str(tmp_path / "none.csv"), kind="rating")}
    for refused in (lambda: score(generations, missing), lambda: plan(generations, {}, feedback=missing)):
        with pytest.raises(TgoError, match=r"none\.csv does not exist"):
            refused()
    (tmp_path / "others.csv").write_text("file_name,rating\nother,5\n")
    with pytest.raises(TgoError, match="not one of the 1 images of"):
        score(generations, {"stars": FeedbackParams(source=str(tmp_path / "others.csv"), kind="rating")})
    assert not (tmp_path / "scores").exists()


def test_feedback_alone_imports_no_torch(generations: Path, tmp_path: Path) -> None:
    stars(tmp_path)
    program = (
        "import sys; from pathlib import Path; from tgo_pipeline.params import RuntimeParams;"
        "from tgo_pipeline.params.feedback import FeedbackParams; from tgo_pipeline.scoring.stage import score_folder;"
        f"score_folder(Path({str(generations)!r}), Path('scores'), {{}}, runtime=RuntimeParams(), max_error_rate=0,"
        "feedback={'stars': FeedbackParams(source='stars.csv', kind='rating')});"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
