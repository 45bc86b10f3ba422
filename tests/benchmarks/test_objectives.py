"""The study of objectives: keys, plans and tables from made results, and one real unit of each kind at toy size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.objectives import figure as objectives_figure
from benchmarks.objectives import report as objectives_report
from benchmarks.objectives import work as objectives
from benchmarks.objectives.kept import pack, unpack
from benchmarks.objectives.plan import (
    LEADERS,
    LEVELS,
    MORE_SEEDS,
    RATE,
    RESTRICTED,
    SCALE,
    STRENGTH,
    TEMPERATURE,
    TRIALS,
    TUNING_SEEDS,
    Plan,
    Trials,
)
from benchmarks.objectives.run import LOW, Job, make_data, make_labels, run_unit
from benchmarks.objectives.tables import (
    by_method,
    contrast,
    cost,
    find,
    named,
    pooled,
    samples_of,
    standardised,
)
from benchmarks.objectives.units import (
    BASE,
    CONDITIONS,
    TAU,
    TEST,
    VALIDATION,
    Result,
    Study,
    Unit,
    with_settings,
)
from tests.fine_tune import runs
from tests.tiny import tiny_diffusion_pipeline
from tgo_pipeline import demo
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.compare import evaluation_table
from tgo_pipeline.evaluation.statistics.scores import pairs_from_samples
from tgo_pipeline.params import EvaluateParams, parse

HERE = {"processor": "a processor", "accelerator": "none", "torch": "2", "commit": "0"}
SMALL = {"evaluate.bootstrap": 50}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    demo = Study.of_demo(tmp_path)
    return dataclasses.replace(demo, raw=with_settings(demo.raw, SMALL))


def made(study: Study, unit: Unit, shift: float, failed: str | None = None) -> Result:
    """A result whose tuned scores are `shift` base deviations above the base's, 12 prompts, target and oracle."""
    path = study.result_path(unit).with_suffix(".parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    base = np.random.default_rng(unit.seed).normal(size=12)
    base = (base - base.mean()) / base.std(ddof=1)
    rows = [
        {
            "sample_id": f"p{i}-0000",
            "prompt_id": f"p{i}",
            "prompt": f"prompt {i}",
            "test_set": "plain",
            "reward": reward,
            "base": value,
            "tuned": value + scale * shift,
        }
        for reward, scale in (("mean_z", 1.0), ("oracle", 0.5))
        for i, value in enumerate(base)
    ]
    samples = pl.DataFrame(rows)
    samples.write_parquet(path)
    params = parse(EvaluateParams, study.raw["evaluate"])
    table = evaluation_table(pairs_from_samples(samples), "mean_z", params).to_pylist()
    metrics = {"accuracy": 0.6, LOW: 0.25}
    result = Result(unit, [] if failed else table, metrics, {"training": 2.0}, path, failed)
    study.write(result)
    return result


def tune(study: Study, plan: Plan) -> None:
    """Make every trial that the plan knows of; a higher rate and T are better, some levels, strength 1.5 is best."""
    for _ in range(2):  # guidance knows its trials when its modules are chosen
        for unit in plan.tune():
            settings = unit.settings
            closeness = abs(settings.get(STRENGTH, 1.5) - 1.5) / 10
            shift = 1e3 * settings[RATE] + settings.get(TEMPERATURE, 0.0) - closeness
            made(study, unit, shift + 0.1 * (LEVELS in settings))


def test_a_result_is_kept_by_all_that_its_numbers_depend_on(study: Study) -> None:
    unit = Unit("demo", "tgo", 0, TEST, {RATE: 1e-4})
    others = [
        dataclasses.replace(unit, seed=1),
        dataclasses.replace(unit, split=VALIDATION),
        dataclasses.replace(unit, method="kto"),
        dataclasses.replace(unit, settings={RATE: 2e-4}),
        dataclasses.replace(unit, settings={RATE: 1e-4, TAU: "prompt_mean"}),
        dataclasses.replace(unit, method=BASE, settings={SCALE: 1.0}),
    ]
    paths = {study.result_path(each) for each in (unit, *others)}
    assert len(paths) == 1 + len(others)
    elsewhere = dataclasses.replace(study, raw=with_settings(study.raw, {"runtime.threads": 2}))
    assert study.result_path(unit) == elsewhere.result_path(unit)


def test_what_is_not_a_method_or_a_parameter_is_refused(study: Study) -> None:
    with pytest.raises(TgoError, match="there is no method 'ppo'"):
        study.params(Unit("demo", "ppo", 0, TEST))
    with pytest.raises(TgoError, match="learning_rat"):
        study.params(Unit("demo", "tgo", 0, TEST, {"fine_tune.learning_rat": 1.0}))


def test_every_method_sees_equally_many_samples_and_the_same_conditions(study: Study) -> None:
    for method in TRIALS["demo"].by_method:
        tuning = study.params(Unit("demo", method, 0, TEST)).fine_tune
        members = 2 if method in ("dpo", "dspo", "threshold_contrast") else 1
        assert tuning.steps * tuning.batch_size * members == 78 * 32
        assert tuning.guard.negative_error is None and tuning.guard.both_errors is None
    assert study.params(Unit("demo", "tgo-unweighted", 0, TEST)).label.c == 0
    assert study.params(Unit("demo", "sft", 0, VALIDATION)).prompts.test == {"validation": "demo:validation"}
    assert study.params(Unit("demo", "sft", 0, TEST)).prompts.limit == CONDITIONS["prompts.limit"]


def test_trials_are_equally_many_for_every_method_on_all_levels_and_on_some(study: Study) -> None:
    for family in TRIALS:
        plan = Plan(study, family, family)
        trained = [unit for unit in plan.tune() if unit.seed == TUNING_SEEDS[0]]
        for restricted in (False, True):
            counts = {
                method: sum(
                    (LEVELS in unit.settings) == restricted for unit in trained if unit.method == method
                )
                for method in TRIALS[family].by_method
            }
            assert set(counts.values()) == {4}
        assert {tuple(unit.settings.get(LEVELS, RESTRICTED[family])) for unit in trained} == {
            tuple(RESTRICTED[family])
        }
    with pytest.raises(ValueError, match="as many trials"):
        Trials({"tgo": ({},), "sft": ({}, {})})


def test_hyperparameters_are_chosen_by_the_target_once_all_trials_have_run(study: Study) -> None:
    plan = Plan(study, "demo", "demo", seeds=(0, 1))
    assert plan.chosen("tgo") is None
    assert {unit.method for unit in plan.main()} == {BASE}
    assert list(plan.ablate()) == [] and plan.leaders() == []
    tune(study, plan)
    greatest = max(TRIALS["demo"].by_method["tgo"], key=lambda each: 1e3 * each[RATE] + each[TEMPERATURE])
    assert plan.chosen("tgo") == {**greatest, LEVELS: RESTRICTED["demo"]}
    assert plan.chosen("tgo", restricted=False) == greatest
    strongest = plan.chosen("cpgd")
    assert strongest is not None and strongest[STRENGTH] == 1.5 and LEVELS in strongest
    assert strongest[RATE] == (plan.chosen("sft") or {})[RATE]
    seeds = {unit.seed for unit in plan.main() if unit.method == plan.leaders()[0]}
    assert len(plan.leaders()) == LEADERS and seeds == {0, 1, *MORE_SEEDS}
    assert not set(plan.leaders()) & {"pgd", "cpgd", "pgd-contrast"}
    assert list(objectives.waiting([plan], ["tune"])) == []
    names = {named(unit) for unit in plan.main()}
    assert {"cpgd", "tgo", "base, guidance 1.5"} <= names
    varied = {unit.method: unit.settings for unit in plan.ablate()}
    assert varied["tgo+c-0, percentile-.3"] == {
        **greatest,
        LEVELS: RESTRICTED["demo"],
        "label.c": 0.0,
        "threshold.percentile": 0.3,
    }
    ideas = {unit.method: unit.settings for unit in plan.search()}
    assert (
        ideas["tgo+safeguard"]["fine_tune.safeguard"] == 0.0
        and ideas["tgo+safeguard"][RATE] == greatest[RATE]
    )
    ranges = {unit.method: unit.settings[LEVELS] for unit in plan.levels()}
    assert ranges["tgo+from 0"] == [0.0, 1.0] and ranges["tgo+auto"] == "auto" and len(ranges) == 6
    assert all(study.params(unit) for unit in (*plan.search(), *plan.levels(), *plan.ablate(), *plan.main()))


def test_a_setting_is_chosen_by_its_mean_over_the_seeds(study: Study) -> None:
    plan = Plan(study, "demo", "demo")
    trials = [unit for unit in plan.tune() if unit.method == "sft"]
    for number, unit in enumerate(trials):  # the first is far ahead on one seed alone
        lucky = number < 2 and unit.seed == TUNING_SEEDS[0]
        made(study, unit, 1.0 if lucky else -1.0 if number < 2 else 0.1 + 0.05 * (number in (4, 5)))
    assert plan.chosen("sft") == trials[4].settings
    best = plan.best("sft")
    assert best is not None and best.value("mean_z") == pytest.approx(0.15)


def test_a_failed_trial_counts_as_run_and_is_not_chosen(study: Study) -> None:
    plan = Plan(study, "demo", "demo", seeds=(0,))
    trials = [unit for unit in plan.tune() if unit.method == "dpo"]
    for number, unit in enumerate(trials):
        made(study, unit, float(number), failed="not finite" if number == len(trials) - 1 else None)
    assert plan.chosen("dpo") == trials[-3].settings


def test_pooled_effects_are_those_of_all_seeds_together(study: Study) -> None:
    shifts = {0: 0.2, 1: 0.4}
    results = {seed: made(study, Unit("demo", "tgo", seed, TEST), shift) for seed, shift in shifts.items()}
    params = parse(EvaluateParams, study.raw["evaluate"])
    row = find(pooled(samples_of(results), "mean_z", params), "mean_z")
    frame = samples_of(results).filter(pl.col("reward") == "mean_z")
    assert row["n"] == 24 and row["n_prompts"] == 12
    assert row["difference"] == pytest.approx(0.3)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((0.2, 0.4))  # seeds are resampled
    values = standardised(row)
    assert values["effect"] == pytest.approx(0.3 / frame["base"].to_numpy().std(ddof=1))
    assert values["low"] <= values["effect"] <= values["high"]


def test_a_contrast_pairs_two_methods_on_the_seeds_of_both(study: Study) -> None:
    ours = {seed: made(study, Unit("demo", "tgo", seed, TEST), 0.5) for seed in (0, 1)}
    theirs = {0: made(study, Unit("demo", "kto", 0, TEST), 0.2)}
    params = parse(EvaluateParams, study.raw["evaluate"])
    between = contrast(ours, theirs, "mean_z", params)
    assert between is not None
    assert between["mean_z"]["effect"] == pytest.approx(0.3) and between["mean_z"]["wins"] == 1
    assert contrast(ours, {}, "mean_z", params) is None
    theirs[1] = made(study, Unit("demo", "kto", 1, TEST), 0.4)
    both = contrast(ours, theirs, "mean_z", params)
    assert both is not None
    assert both["mean_z"]["low"] / both["mean_z"]["high"] == pytest.approx(
        0.1 / 0.3
    )  # seeds differ, prompts do not


def test_costs_name_trainings_and_network_calls() -> None:
    assert cost("cpgd") == "2 trainings, 3x sampling"
    assert cost("tgo+c-2") == "1 training, 1x sampling"
    assert cost("base, guidance 1") == "0 trainings, 1x sampling"


def test_the_report_shows_what_has_run_and_names_what_has_not(study: Study, tmp_path: Path) -> None:
    plan = Plan(study, "demo", "demo", seeds=(0, 1))
    tune(study, plan)
    for number, unit in enumerate(plan.main()):
        if (unit.method, unit.seed) != ("kto", 1):
            made(study, unit, 0.1 + 0.01 * number)
    for phase in ("ablate", "search", "levels", "budget"):
        for unit in objectives.units(plan, phase):
            made(study, unit, 0.3)
    numbers = objectives_report.collect(study, [plan], objectives.units, HERE)
    text = objectives_report.markdown(study, [plan], objectives.units, numbers)
    assert "Not run on every seed: kto." in text
    for part in ("tgo+c-0, percentile-.3", "base, guidance 1.5", "2 trainings, 3x sampling", "tgo+safeguard"):
        assert part in text
    for part in ("begins at 0.25, 0.25, seed by seed", "tgo+from 0.35", "tgo+importance", "to tgo+auto"):
        assert part in text
    assert "With 64 samples an update" in text and "to tgo+64, all levels" in text
    sizes = {unit.method: study.params(unit).fine_tune.batch_size for unit in plan.budget()}
    assert sizes == {"tgo+64": 64, "threshold_contrast+64": 32, "tgo+64, all levels": 64}
    assert by_method(study.results(plan.main())).keys() >= {"tgo", "kto"}
    objectives_figure.write(numbers["families"], "mean_z", tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text().count("cpgd") >= 1


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of a tiny pipeline with random weights on a few captions, two updates a training."""
    root = tmp_path_factory.mktemp("toy")
    tiny_diffusion_pipeline(root / "model")
    captions = {"train": demo.prompts("train")[:4], "few": demo.prompts("plain")[:3]}
    for name, texts in captions.items():
        (root / f"{name}.txt").write_text("\n".join(texts))
    small = {
        "prompts.train": str(root / "train.txt"),
        "generate.steps": 2,
        "score.rewards": {"clip": "demo", "aesthetic": "demo"},
        "fine_tune.steps": 2,
        "fine_tune.batch_size": 4,
        "fine_tune.temperature": 0.01,
        "threshold.bootstrap": 20,
        **SMALL,
    }
    start = Study.of_demo(root / "work")
    tests = {"few": str(root / "few.txt")}
    return Study(with_settings(start.raw, small), root / "work", {TEST: tests, VALIDATION: tests})


def test_real_units_share_data_and_trainings_and_give_paired_samples(toy: Study) -> None:
    model = str(toy.work.parent / "model")
    units = [
        Unit(model, BASE, 0, TEST, {SCALE: 1.0}),
        Unit(model, "sft", 0, TEST, {RATE: 1e-3}),
        Unit(model, "cpgd", 0, TEST, {RATE: 1e-3, STRENGTH: 0.0}),
        Unit(model, "tgo", 0, TEST, {RATE: 1e-3, TAU: "prompt_mean"}),
    ]
    scale, sft, cpgd, tgo = (run_unit(toy, unit) for unit in units)
    assert [result.failed for result in (scale, sft, cpgd, tgo)] == [None] * 4
    home = toy.home(units[0])
    assert (
        len(list((home / "trained").glob("*/model"))) == 3
    )  # the positive module is the plain method's training
    assert cpgd.value("oracle", "difference") == 0.0  # strength 0 is the base
    assert sft.value("oracle", "n") == 3 and sft.value("mean_z", "difference") != 0.0
    assert {"accuracy", "log_ratio_negative", "negative_error_ratio"} <= tgo.metrics.keys()
    assert len(list((home / "labelled").glob("*/complete"))) == 2
    assert toy.result(units[3]) == tgo


def test_levels_are_measured_once_for_all_that_begin_alike(
    toy: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for (module, name), value in runs.LITTLE.items():
        monkeypatch.setattr(module, name, value)
    caplog.set_level("INFO")
    model = str(toy.work.parent / "model")
    auto, importance = (
        run_unit(toy, Unit(model, f"tgo+{levels}", 0, TEST, {RATE: rate, LEVELS: levels}))
        for levels, rate in (("auto", 1e-3), ("importance", 2e-3))
    )
    assert auto.failed is None and importance.failed is None
    assert caplog.text.count("the first batch is measured") == 1
    assert 0 <= auto.metrics[LOW] < 1 and auto.value("mean_z") != importance.value("mean_z")


def test_labels_at_prompt_means_split_every_prompt(toy: Study) -> None:
    """Independent of the library's own labels: the label is the sign of the score less the mean of its prompt."""
    unit = Unit(str(toy.work.parent / "model"), "tgo", 0, TEST, {TAU: "prompt_mean"})
    job = Job(unit, toy.params(unit), toy.home(unit))
    make_data(job)
    make_labels(job)
    table = pl.read_parquet(job.labelled / "labels/*.parquet")
    spread = table["score"].std()
    assert isinstance(spread, float)
    expected = table.with_columns(distance=pl.col("score") - pl.col("score").mean().over("prompt_id"))
    assert (expected["label"] == (expected["distance"] >= 0).cast(pl.Int8)).all()
    np.testing.assert_allclose(expected["relative_score"], expected["distance"], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(expected["weight"], 1 + 5 * expected["distance"].abs() / spread, rtol=1e-5)


def test_what_is_finished_is_not_run_again(toy: Study) -> None:
    plan = Plan(toy, "demo", str(toy.work.parent / "model"), seeds=(0,))
    unit = Unit(plan.model, BASE, 0, TEST, {SCALE: 1.5})
    run_unit(toy, unit)
    assert unit not in list(objectives.waiting([plan], ["main"]))


def test_another_work_folder_begins_with_the_results_that_were_packed(study: Study, tmp_path: Path) -> None:
    trial, shown = (
        Unit("demo", "tgo", 100, VALIDATION, {RATE: 1e-4}),
        Unit("demo", "tgo", 0, TEST, {RATE: 1e-4}),
    )
    results = [made(study, trial, 0.5), made(study, shown, 0.7)]
    study.write(dataclasses.replace(results[0], metrics={"accuracy": 1.0}))
    assert pack(study, tmp_path / "packed") == 2
    other = dataclasses.replace(study, work=tmp_path / "other")
    unpack(other.work, tmp_path / "packed")
    begun, begun_shown = other.results([trial, shown])
    assert begun.metrics == {"accuracy": 1.0}
    assert [each.value("mean_z") for each in (begun, begun_shown)] == pytest.approx([0.5, 0.7])
    assert samples_of({0: begun_shown}).equals(samples_of({0: results[1]}))
    assert (other.work / "params.yaml").read_text() == (study.work / "params.yaml").read_text()
    made(other, trial, 0.9)
    unpack(other.work, tmp_path / "packed")
    assert other.results([trial])[0].value("mean_z") == pytest.approx(0.9)
    Study.of_demo(tmp_path / "fresh")
    unpack(tmp_path / "fresh", tmp_path / "packed")
    assert not (tmp_path / "fresh/results").exists()
