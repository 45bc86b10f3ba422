"""The benchmark's own parts: overrides, pooling, tables. Its stages are tested where they live."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from benchmarks.demo.alignment_table import markdown
from benchmarks.demo.demo_alignment import ROOT, Runs, against, method_params, pooled, short, summarise
from benchmarks.results import of_training, replace_section
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.compare import evaluation_table
from tgo_pipeline.evaluation.statistics.scores import pairs_from_samples
from tgo_pipeline.params import EvaluateParams, Params, parse, presets
from tgo_pipeline.rendering.table import decimals, measured

RAW = yaml.safe_load((ROOT / "params.yaml").read_text())
RAW["fine_tune"] = presets.given(RAW["fine_tune"])
PARAMS = EvaluateParams(bootstrap=300)


def _samples(seed: int, gain: float, prompts: int = 30) -> pl.DataFrame:
    """Two images a prompt; the base side depends on the seed alone, the tuned side is `gain` better plus noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for reward in ("mean_z", "oracle"):
        for prompt in range(prompts):
            for index in range(2):
                base = rng.normal()
                identity = {"sample_id": f"{seed}/{prompt}-{index}", "prompt_id": str(prompt), "prompt": "x"}
                scores = {"base": base, "tuned": base + gain + rng.normal() / 10}
                rows.append({**identity, "test_set": "plain", "reward": reward, **scores})
    return pl.DataFrame(rows)


def test_overrides_go_to_all_methods_or_to_one() -> None:
    overrides = ["fine_tune.learning_rate=3e-4", "sft:fine_tune.steps=7"]
    tgo, sft = (parse(Params, method_params(RAW, name, 5, overrides)) for name in ("tgo", "sft"))
    assert (tgo.seed, tgo.fine_tune.objective, sft.fine_tune.objective) == (5, "tgo", "sft")
    assert tgo.fine_tune.learning_rate == sft.fine_tune.learning_rate == 3e-4
    assert (tgo.fine_tune.steps, sft.fine_tune.steps) == (RAW["fine_tune"]["steps"], 7)


@pytest.mark.parametrize("override", ["fine_tune.steps", "=3", "fine_tune.stepz=3"])
def test_a_wrong_override_is_an_error(override: str) -> None:
    with pytest.raises(TgoError):
        parse(Params, method_params(RAW, "tgo", 0, [override]))


def test_pooling_takes_every_seed_and_counts_a_prompt_once() -> None:
    row = pooled([_samples(seed, 0.5) for seed in range(3)], "mean_z", PARAMS)[0]
    assert (row["n"], row["n_prompts"]) == (180, 30)
    assert row["difference"] == pytest.approx(0.5, abs=0.03)
    assert row["difference_low"] > 0.45


def test_pooling_resamples_seeds() -> None:
    gains = {0: 0.2, 1: 0.8}
    together = [of_training(_samples(seed, gain), seed) for seed, gain in gains.items()]
    row = pooled(together, "mean_z", PARAMS)[0]
    assert row["difference"] == pytest.approx(0.5, abs=0.03)
    assert row["difference_low"] < 0.25 and row["difference_high"] > 0.75
    assert row["n_prompts"] == 30 and row["n"] == 120


def test_methods_are_paired_on_the_same_samples() -> None:
    ours, theirs = _samples(0, 0.5), _samples(0, 0.2)
    row = pooled([against([ours], [theirs])], "mean_z", PARAMS)[0]
    assert row["difference"] == pytest.approx(0.3)
    assert row["difference_high"] - row["difference_low"] < 1e-9  # the two differ by a constant


def test_the_tables_name_every_seed_method_and_test_set() -> None:
    runs = Runs(parse(Params, RAW))
    for method, gain in (("tgo", 0.5), ("sft", 0.2)):
        frames = [_samples(seed, gain) for seed in range(2)]
        runs.samples[method] = frames
        runs.rows[method] = {
            seed: evaluation_table(pairs_from_samples(frame), "mean_z", PARAMS).to_pylist()
            for seed, frame in enumerate(frames)
        }
    runs.seconds["evaluate"] = [2.0, 4.0]
    where = {"processor": "p", "accelerator": "none", "torch": "t", "commit": "c"}
    summary = summarise(runs, where)
    lines = markdown(summary, ["fine_tune.steps=7"], "Title").splitlines()
    assert sum(line.startswith("| tgo |") for line in lines) == 3  # two seeds and pooled
    assert "### Between methods, seeds pooled" in lines and "| seconds | 3 |" in lines
    assert short(summary)["tgo"]["oracle"]["difference"] == pytest.approx(0.5, abs=0.03)
    oracle = next(
        row for row in summary["pooled"]["tgo"] if (row["test_set"], row["reward"]) == ("plain", "oracle")
    )
    style = f"+.{decimals(oracle['base_std'])}f"
    assert any(
        line.startswith(f"| plain | oracle | {measured(oracle, 'difference', style)} |") for line in lines
    )
    widths = [line.count("|") for line in lines if line.startswith(("| tgo |", "| method |"))]
    assert len(set(widths)) == 1


def test_a_section_is_replaced_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    replace_section(path, "one", "first")
    replace_section(path, "two", "second")
    path.write_text(path.read_text() + "\nby hand\n")
    replace_section(path, "one", "again")
    text = path.read_text()
    assert "first" not in text and text.index("again") < text.index("second") < text.index("by hand")
