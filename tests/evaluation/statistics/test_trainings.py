"""TrainingGroups of trainings: which may be compared, and their table against loops over models and samples."""

import numpy as np
import pytest

from tests.evaluation.worlds import scores
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.compare import evaluation_table
from tgo_pipeline.evaluation.statistics.intervals import crossed_t_interval
from tgo_pipeline.evaluation.statistics.scores import ModelScores
from tgo_pipeline.evaluation.statistics.trainings import TRAININGS, TrainingGroups, trainings_table
from tgo_pipeline.params import EvaluateParams

NAMES = ("base", "tuned", "a", "b", "x", "y", "z")
PARAMS = EvaluateParams(bootstrap=300)
GAINS = {"tuned": [0.2] * 3, "a": [0.6] * 3, "b": [1.0] * 3, "x": [0.1] * 3, "y": [0.1] * 3, "z": [0.4] * 3}


def world(missing: float = 0.0, images: int = 1) -> ModelScores:
    return scores(GAINS, models=NAMES, images=images, missing=missing)


def rows_of(groups: TrainingGroups, found: ModelScores) -> list[dict]:
    table = trainings_table(found, groups, "target", PARAMS, 0)
    assert table.schema.equals(TRAININGS)
    return table.to_pylist()


@pytest.mark.parametrize(
    ("seeds", "against", "message"),
    [
        ("tuned", None, "names one training, tuned"),
        ("tuned,a,tuned", None, "names tuned twice"),
        ("tuned,base", None, "names base, which is no training"),
        (
            "tuned,nobody,else",
            None,
            "names 'nobody', 'else': the trainings of this evaluation are tuned, a, b",
        ),
        ("tuned,", None, "names ''"),
        ("tuned,a", "x,a", "a stands in --seeds and in --against"),
        ("tuned,a", "x,q", "--against names 'q'"),
    ],
)
def test_what_cannot_be_compared_is_refused(seeds: str, against: str | None, message: str) -> None:
    with pytest.raises(TgoError, match=message):
        TrainingGroups.named(seeds, against, NAMES)


def test_equally_many_trainings_are_paired_by_position() -> None:
    assert TrainingGroups.named("a, b", "y,x", NAMES).pairs == [("a", "y"), ("b", "x")]
    assert TrainingGroups.named("a,b", "x", NAMES).pairs == [("a", "x"), ("b", "x")]
    assert len(TrainingGroups.named("a,b,tuned", "x,y", NAMES).pairs) == 6


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("against", [None, "x,y,z", "x,y", "x"])
def test_means_are_those_of_a_loop(against: str | None, images: int) -> None:
    found = world(missing=0.03, images=images)
    groups = TrainingGroups.named("tuned,a,b", against, NAMES)
    for row in rows_of(groups, found):
        index = found.rewards.index(row["reward"])
        one, other = (row[side].split(",") for side in ("models", "against"))
        values = {name: found.values[NAMES.index(name), :, index] for name in NAMES}
        kept = [
            place
            for place in range(len(found.sample_ids))
            if row["test_set"] in ("all", found.test_sets[place])
            and all(not np.isnan(values[name][place]) for name in groups.models)
        ]
        pairs = [pair for pair in groups.pairs if pair[0] in one]
        each = [values[a][place] - values[b][place] for a, b in pairs for place in kept]
        assert (row["n_trainings"], row["n_against"]) == (len(one), len(other))
        assert row["n"] == len(kept) and row["n_prompts"] == len(set(found.prompt_ids[kept]))
        assert row["difference"] == pytest.approx(np.mean(each))
        assert row["win_rate"] == pytest.approx(np.mean(np.array(each) > 0))
        assert row["effect"] == pytest.approx(np.mean(each) / values["base"][kept].std(ddof=1))
        assert row["mean"] == pytest.approx(np.mean([values[name][kept].mean() for name in one]))
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_a_single_training_has_the_interval_that_the_evaluation_gives_it() -> None:
    found = world()
    own = next(
        row for row in rows_of(TrainingGroups.named("tuned,a", None, NAMES), found) if row["models"] == "a"
    )
    plain = evaluation_table(found.pairs("base", "a"), "target", PARAMS, 0).to_pylist()[0]
    for name in ("difference", "difference_low", "difference_high", "effect", "win_rate", "n", "base_std"):
        assert own[name] == pytest.approx(plain[name], rel=1e-12)
    assert own["difference_t_low"] is None


def test_trainings_that_differ_widen_both_intervals() -> None:
    first = rows_of(TrainingGroups.named("tuned,a,b", None, NAMES), world())[0]
    alike = scores(dict.fromkeys(GAINS, [0.6] * 3), models=NAMES, images=1)
    second = rows_of(TrainingGroups.named("tuned,a,b", None, NAMES), alike)[0]
    for ends in ("difference_", "difference_t_"):
        widths = [row[f"{ends}high"] - row[f"{ends}low"] for row in (first, second)]
        assert widths[0] > 1.5 * widths[1]


def test_students_interval_counts_a_prompt_as_often_as_it_has_images() -> None:
    """Equal images of a prompt are its mean; twice as many images of every prompt change nothing."""
    found = world()
    groups = TrainingGroups.named("tuned,a,b", "x,y", NAMES)
    row = rows_of(groups, found)[0]
    sides = [
        np.stack([found.values[NAMES.index(name), :, :1] for name in names])
        for names in (groups.ours, groups.theirs)
    ]
    low, high = crossed_t_interval(sides, 0.95)
    assert (row["difference_t_low"], row["difference_t_high"]) == pytest.approx((low.item(), high.item()))
    twice = np.tile(np.arange(len(found.sample_ids)), 2)
    doubled = ModelScores(
        sample_ids=np.array([f"{place}" for place in range(len(twice))]),
        prompt_ids=found.prompt_ids[twice],
        prompts=found.prompts[twice],
        test_sets=found.test_sets[twice],
        groupings={name: column[twice] for name, column in found.groupings.items()},
        models=found.models,
        rewards=found.rewards,
        values=found.values[:, twice],
    )
    again = rows_of(groups, doubled)[0]
    for name in ("difference_t_low", "difference_t_high", "difference_low"):
        assert again[name] == pytest.approx(row[name], rel=1e-9)
