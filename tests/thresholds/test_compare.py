"""What every sample is compared with: each mode against a loop, own prompts or a proxy set, and the fallback."""

from __future__ import annotations

import itertools
import logging
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.thresholds.shards import flat
from tests.thresholds.shards import params as parameters
from tests.thresholds.test_baselines import jackknife, soft
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import ThresholdParams
from tgo_pipeline.storage.tables import GENERATIONS, PROMPTS, scores_schema, write_table
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.thresholds.baselines import Comparison, compared, own_values, tau_q
from tgo_pipeline.thresholds.compare import Own, target_of
from tgo_pipeline.thresholds.groups import Membership, groups_fingerprint
from tgo_pipeline.thresholds.streams import by_prompt
from tgo_pipeline.thresholds.targets import finite, score_files

BETA, TAU = 0.7, 0.25
SAMPLES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(-8, 8).map(lambda x: x / 4)), min_size=1, max_size=24
)
PLAIN = {
    "prompt_mean": statistics.fmean,
    "prompt_median": statistics.median,
    "prompt_soft": lambda values: soft(values, BETA),
}
NOTHING = Workspace(Path("nowhere"))


def sample_baselines(
    scores: np.ndarray, prompts: np.ndarray, params: ThresholdParams, tau: float, reference: Any = None
) -> Comparison:
    """All samples in one piece."""
    own = own_values(scores, prompts, params, reference)
    return compared(scores, own, params, tau, lambda: np.sort(scores if reference is None else reference[0]))


def rule(baseline: Any, **options: Any) -> ThresholdParams:
    beta = BETA if baseline in ("prompt_soft", "prompt_quantile") else None
    group = "source" if baseline == "group" else None
    return ThresholdParams(baseline=baseline, beta=beta, group=group, **options)


def arrays(samples: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    prompts, scores = zip(*samples, strict=True)
    return np.array(scores), np.array(prompts)


def of_prompt(samples: list[tuple[int, float]], prompt: int, without: int | None = None) -> list[float]:
    return [s for i, (p, s) in enumerate(samples) if p == prompt and i != without]


def mid_rank(value: float, among: list[float]) -> float:
    return sum((x < value) + 0.5 * (x == value) for x in among) / len(among)


@given(SAMPLES, st.sampled_from(list(PLAIN)), st.booleans())
def test_a_sample_is_compared_with_its_prompt(
    samples: list[tuple[int, float]], baseline: str, leave_one_out: bool
) -> None:
    scores, prompts = arrays(samples)
    found = sample_baselines(scores, prompts, rule(baseline, leave_one_out=leave_one_out), TAU)
    for i, (prompt, _) in enumerate(samples):
        others = of_prompt(samples, prompt, i)
        expected = PLAIN[baseline](others if leave_one_out else of_prompt(samples, prompt)) if others else TAU
        assert found.baseline[i] == pytest.approx(expected, abs=1e-12)
        assert found.fallback[i] == (not others)
    assert np.array_equal(found.measured, scores)


@given(SAMPLES, st.booleans())
def test_the_jackknife_needs_two_samples_and_one_more_without_the_own(
    samples: list[tuple[int, float]], leave_one_out: bool
) -> None:
    scores, prompts = arrays(samples)
    params = rule("prompt_soft", jackknife=True, leave_one_out=leave_one_out)
    found = sample_baselines(scores, prompts, params, TAU)
    for i, (prompt, _) in enumerate(samples):
        used = of_prompt(samples, prompt, i if leave_one_out else None)
        expected = jackknife(used, BETA) if len(used) >= 2 else TAU
        assert found.baseline[i] == pytest.approx(expected, abs=1e-9)


@given(SAMPLES)
def test_quantiles_are_compared_with_tau_q(samples: list[tuple[int, float]]) -> None:
    scores, prompts = arrays(samples)
    found = sample_baselines(scores, prompts, rule("prompt_quantile"), TAU)
    assert set(found.baseline.tolist()) == {tau_q(BETA)}
    for i, (prompt, score) in enumerate(samples):
        own = of_prompt(samples, prompt)
        expected = mid_rank(score, own if len(own) > 1 else [s for _, s in samples])
        assert found.measured[i] == pytest.approx(expected)


@given(SAMPLES, SAMPLES, st.sampled_from([*PLAIN, "prompt_quantile", "group"]))
def test_a_proxy_set_gives_the_baselines_of_its_prompts(
    samples: list[tuple[int, float]], proxy: list[tuple[int, float]], baseline: str
) -> None:
    scores, prompts = arrays(samples)
    params = rule(baseline, source="proxy", proxy="folder")
    found = sample_baselines(scores, prompts, params, TAU, arrays(proxy))
    for i, (prompt, score) in enumerate(samples):
        known = of_prompt(proxy, prompt)
        enough = len(known) >= (2 if baseline == "group" else 1)
        assert found.fallback[i] == (not enough)
        if baseline == "prompt_quantile":
            assert found.measured[i] == pytest.approx(mid_rank(score, known or [s for _, s in proxy]))
        else:
            value = PLAIN.get(baseline, statistics.median)
            assert found.baseline[i] == pytest.approx(value(known) if enough else TAU, abs=1e-12)


def table(prompts: str, scores: Any = None) -> pa.Table:
    """One sample for each letter, which names its prompt."""
    count = len(prompts)
    values = pa.array(np.zeros(count) if scores is None else scores, pa.float32(), from_pandas=False)
    ids = [f"{p}-{i}" for i, p in enumerate(prompts)]
    return pa.table(
        [ids, list(prompts), values, pa.nulls(count, pa.string())], schema=scores_schema(["clip"])
    )


def write(folder: Path, prompts: str, scores: Any = None, shards: int = 1) -> list[Path]:
    """The same as score shards."""
    folder.mkdir(parents=True)
    whole = table(prompts, scores)
    edges = np.linspace(0, len(prompts), shards + 1).astype(int).tolist()
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        name = f"train-{number:05d}-of-{shards:05d}.parquet"
        write_table(whole.slice(low, high - low), folder / name, {"fingerprint": name})
    return score_files(folder)


def own_of(root: Path, params: ThresholdParams, files: list[Path], proxy: list[Path] | None = None) -> Own:
    room = root / "room"
    room.mkdir()
    whole = parameters(["clip"], target={"reward": "clip"})
    target = target_of(whole, files, {})
    return Own(params, target, whole, flat(root), files, files if proxy is None else proxy, room)


def test_groups_have_percentiles_and_samples_of_none_the_global_tau(tmp_path: Path) -> None:
    write_sources(tmp_path)
    scores = [1.0, 2.0, 3.0, 10.0, 20.0, 5.0]
    files = write(tmp_path / "scores", "aababz", scores)
    found = own_of(tmp_path, ThresholdParams(baseline="group", group="source", percentile=0.5), files).values
    assert found is not None
    assert found.tolist()[:5] == [2.0, 2.0, 11.5, 2.0, 11.5]
    assert math.isnan(found[5])


def test_groups_without_a_score_are_groups_without_a_threshold(tmp_path: Path) -> None:
    write_sources(tmp_path)
    own = own_of(tmp_path, rule("group"), write(tmp_path / "scores", "abz", [None, None, 5.0]))
    assert np.isnan(own.values).all()
    with pytest.raises(TgoError, match="no group of the 1 samples has enough scores"):
        own.require_some(1, 1)


def test_the_global_rule_asks_for_no_prompt(tmp_path: Path) -> None:
    assert own_of(tmp_path, rule("global"), write(tmp_path / "scores", "ab")).values is None
    found = compared(np.array([1.0, 2.0]), None, rule("global"), TAU, lambda: np.empty(0))
    assert (found.baseline.tolist(), found.fallback.tolist()) == ([TAU, TAU], [False, False])


@pytest.mark.parametrize("partition_rows", [1, 7, 1000])
@pytest.mark.parametrize("baseline", ["prompt_mean", "prompt_median", "prompt_quantile", "prompt_soft"])
@pytest.mark.parametrize("with_proxy", [False, True])
def test_partitions_of_prompts_give_what_one_piece_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baseline: str, partition_rows: int, with_proxy: bool
) -> None:
    """Rows of a prompt lie apart, in several shards, some of them unscored."""
    monkeypatch.setattr(by_prompt, "PARTITION_ROWS", partition_rows)
    rng = np.random.default_rng(0)
    prompts, scores = (
        "".join(rng.choice(list("abcdefgh"), 60)),
        rng.normal(size=60).astype(np.float32).astype(float),
    )
    scores[::7] = np.nan
    others, known = (
        "".join(rng.choice(list("abcxyz"), 40)),
        rng.normal(size=40).astype(np.float32).astype(float),
    )
    files = write(tmp_path / "scores", prompts, scores, 3)
    proxy = write(tmp_path / "proxy", others, known, 2) if with_proxy else None
    options = {"source": "proxy", "proxy": "folder"} if with_proxy else {}
    params = rule(baseline, **options)
    found = own_of(tmp_path, params, files, proxy)
    scored = ~np.isnan(scores)
    codes, other_codes = (np.array([ord(letter) for letter in text]) for text in (prompts, others))
    reference = (known, other_codes) if with_proxy else None
    expected = np.full(60, np.nan)
    expected[scored] = own_values(scores[scored], codes[scored], params, reference)
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)
    assert found.ordered.tolist() == np.sort(known if with_proxy else finite(scores)).tolist()


def write_sources(folder: Path) -> Workspace:
    rows = [
        {"prompt_id": key, "prompt": key, "split": "train", "source": "s" + key, "category": category}
        for key, category in (("a", "animals"), ("b", "animals"), ("c", None))
    ]
    write_table(pa.Table.from_pylist(rows, schema=PROMPTS), folder / "prompts.parquet", {"fingerprint": "f"})
    drawn = [{"sample_id": f"{p}-{i}", "prompt_id": p, "model": f"m{i % 2}"} for i, p in enumerate("aabbcz")]
    (folder / "generations").mkdir()
    drawn_table = pa.Table.from_pylist(drawn, schema=GENERATIONS)
    write_table(drawn_table, folder / "generations" / "train-00000-of-00001.parquet", {})
    return flat(folder)


def test_samples_are_numbered_by_source_category_and_model(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    by: dict[str, Any] = {
        group: Membership(ThresholdParams(baseline="group", group=group), sources)
        for group in ("source", "category", "model")
    }
    assert (by["source"].names, by["source"].codes(table("aabbcz")).tolist()) == (
        ["sa", "sb", "sc"],
        [0, 0, 1, 1, 2, -1],
    )
    assert (by["category"].names, by["category"].codes(table("aabbcz")).tolist()) == (
        ["animals"],
        [0, 0, 0, 0, -1, -1],
    )
    assert by["model"].codes(table("aabbcz")).tolist() == [0, 1] * 3
    assert by["model"].level == "model"


def test_groups_that_nothing_belongs_to_are_refused(tmp_path: Path) -> None:
    membership = Membership(ThresholdParams(baseline="group", group="category"), write_sources(tmp_path))
    membership.codes(table("cz"))
    with pytest.raises(
        TgoError, match=r"threshold\.group is category, but .* names the category of none of the 2"
    ):
        membership.require_found()
    with pytest.raises(TgoError, match="does not exist"):
        Membership(ThresholdParams(baseline="group", group="category"), NOTHING)


def test_the_fingerprint_of_groups_follows_the_prompts_alone(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    assert groups_fingerprint(ThresholdParams(baseline="group", group="source"), sources.prompts) == "f"
    assert groups_fingerprint(ThresholdParams(baseline="group", group="model"), sources.prompts) is None
    assert groups_fingerprint(ThresholdParams(), NOTHING.prompts) is None


def test_single_samples_fall_back_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tgo")
    own = own_of(tmp_path, rule("prompt_mean"), write(tmp_path / "scores", "aabc", [1.0, 3.0, None, 5.0]))
    assert own.values is not None
    found = compared(
        np.array([1.0, 3.0, 5.0]), own.values[[0, 1, 3]], rule("prompt_mean"), TAU, lambda: own.ordered
    )
    assert found.baseline.tolist() == [2, 2, TAU]
    own.require_some(int(found.fallback.sum()), 3)
    assert "1 of 3 samples are compared with the global tau" in caplog.text


def test_a_rule_that_no_sample_can_follow_is_refused(tmp_path: Path) -> None:
    own = own_of(tmp_path, rule("prompt_mean"), write(tmp_path / "scores", "abc"))
    with pytest.raises(TgoError, match=r"threshold\.baseline is prompt_mean, but no prompt of the 3 samples"):
        own.require_some(3, 3)
    (tmp_path / "b").mkdir()
    params = rule("prompt_mean", source="proxy", proxy="folder")
    files, proxy = write(tmp_path / "b" / "scores", "ab"), write(tmp_path / "b" / "proxy", "xx")
    with pytest.raises(TgoError, match="in the proxy set for a baseline of its own"):
        own_of(tmp_path / "b", params, files, proxy).require_some(2, 2)
