"""The streamed stages against numpy and scipy on everything in memory: rows in any order, cut in any way."""

from __future__ import annotations

import itertools
import math
import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from tests.thresholds.shards import flat, params
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.storage.tables import read_folder, read_table, scores_schema, write_table
from tgo_pipeline.storage.writing import atomic, scratch
from tgo_pipeline.thresholds import estimate
from tgo_pipeline.thresholds.adequacy.table import read_adequacy
from tgo_pipeline.thresholds.label_stage import label_folder
from tgo_pipeline.thresholds.stage import fit_folder
from tgo_pipeline.thresholds.streams import blocks, by_prompt
from tgo_pipeline.thresholds.table import read_thresholds, threshold_row

REWARDS = ("clip", "aesthetic", "pickscore")
ROWS = 900


def world(seed: int = 0, rows: int = ROWS, prompts: int = 150) -> pl.DataFrame:
    """Scores of prompts in random order, with ties, gaps and numbers that are none."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, prompts, rows)
    frame: dict[str, Any] = {
        "sample_id": [f"s{i:04d}" for i in range(rows)],
        "prompt_id": [f"p{p:x}ü" for p in owner],
    }
    for number, name in enumerate(REWARDS):
        values = rng.normal(size=prompts)[owner] + rng.normal(size=rows)
        frame[name] = (np.round(values, 1) if number == 1 else values).astype(np.float32)
    frame["pickscore"][::17], frame["pickscore"][5::31] = np.nan, np.inf
    made = pl.DataFrame(frame).with_row_index()
    return made.with_columns(clip=pl.when(pl.col("index") % 13 != 4).then(pl.col("clip"))).drop("index")


def write(folder: Path, frame: pl.DataFrame, shards: int) -> None:
    table = frame.with_columns(error=pl.lit(None, pl.String)).to_arrow().cast(scores_schema(REWARDS))
    edges = np.linspace(0, len(frame), shards + 1).astype(int).tolist()
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        with atomic(folder / f"train-{index:05d}-of-{shards:05d}.parquet") as temporary:
            write_table(table.slice(low, high - low), temporary, {"fingerprint": "scores"})


def chosen(threads: int = 2, **sections: Any) -> Params:
    sections.setdefault("threshold", {"bootstrap": 60, "percentile": 0.3})
    return params(list(REWARDS), runtime={"threads": threads}, **sections)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, rows in (
        (blocks, "BLOCK_ROWS", 110),
        (by_prompt, "PARTITION_ROWS", 200),
        (by_prompt, "PART_ROWS", 50),
    ):
        monkeypatch.setattr(module, name, rows)


def prompts_of(frame: pl.DataFrame, name: str) -> list[np.ndarray]:
    """Finite scores of each prompt, in order of ids."""
    known = frame.with_columns(pl.col(name).cast(pl.Float64)).filter(pl.col(name).is_finite())
    return [
        part[name].to_numpy()
        for part in known.sort("prompt_id").partition_by("prompt_id", maintain_order=True)
    ]


@pytest.mark.usefixtures("small_pieces")
def test_rows_of_the_table_are_numpys_and_scipys(tmp_path: Path) -> None:
    frame, parameters = world(), chosen(target={"reward": "mean_z"})
    write(tmp_path / "scores", frame, 4)
    fit_folder(parameters, flat(tmp_path))
    rows = {row["reward"]: row for row in read_thresholds(tmp_path / "thresholds.parquet").to_dicts()}
    z = [
        stats.zscore(frame[name].cast(pl.Float64).to_numpy(), ddof=1, nan_policy="omit")
        for name in REWARDS[:2]
    ]
    finite = frame["pickscore"].is_finite().fill_null(False).to_numpy()
    third = np.full(ROWS, np.nan)
    third[finite] = stats.zscore(frame["pickscore"].cast(pl.Float64).to_numpy()[finite], ddof=1)
    frame = frame.with_columns(mean_z=pl.Series(np.mean([*z, third], axis=0)))
    for name, row in rows.items():
        prompts = prompts_of(frame, name)
        values, tau = np.concatenate(prompts), row["tau"]
        exact = (lambda x: pytest.approx(x, rel=1e-12)) if name == "mean_z" else (lambda x: x)
        assert tau == exact(np.quantile(values, 0.3))
        assert [row[f"q{q:02d}"] for q in (1, 25, 50, 99)] == exact(
            np.quantile(values, [0.01, 0.25, 0.5, 0.99]).tolist()
        )
        assert (row["n"], row["n_prompts"]) == (values.size, len(prompts))
        assert row["ties"] == np.sum(values == tau) and row["positive_fraction"] == np.mean(values >= tau)
        described = stats.describe(values)
        numbers = (row["mean"], row["std"] ** 2, row["skewness"], row["kurtosis"])
        theirs = (described.mean, described.variance, described.skewness, described.kurtosis)
        assert numbers == pytest.approx(theirs, rel=1e-12, abs=1e-13)
        squares = sum(np.sum((part - part.mean()) ** 2) for part in prompts)
        assert row["within_prompt_variance"] == pytest.approx(
            squares / (values.size - len(prompts)), rel=1e-12
        )
        repeated = [part for part in prompts if part.size > 1]
        flips = np.concatenate([(part >= tau) != (part >= np.median(part)) for part in repeated])
        assert row["flip_rate_prompt_median"] == flips.mean()
    assert (rows["clip"]["n_null"], rows["pickscore"]["n_nonfinite"]) == (
        frame["clip"].null_count(),
        int((~finite).sum()),
    )
    table = read_table(tmp_path / "baselines.parquet").to_pydict()
    ids = frame.filter(pl.col("mean_z").is_finite())["prompt_id"].unique().sort().to_list()
    assert table["key"] == ids
    assert table["mean"] == pytest.approx([part.mean() for part in prompts_of(frame, "mean_z")], rel=1e-12)


@pytest.mark.parametrize("target", ["mean_z", "mean_rank", "majority", "clip"])
def test_nothing_depends_on_shards_threads_and_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """But for rounding, where sums are of other parts."""
    frame, found = world(1), []
    for number, (shards, threads, part_rows, partition_rows) in enumerate(
        ((1, 1, 10**6, 10**6), (5, 3, 60, 250))
    ):
        monkeypatch.setattr(by_prompt, "PART_ROWS", part_rows)
        monkeypatch.setattr(by_prompt, "PARTITION_ROWS", partition_rows)
        root = tmp_path / str(number)
        write(root / "scores", frame, shards)
        sections = {"target": {"reward": target}, "threshold": {"bootstrap": 40, "baseline": "prompt_mean"}}
        parameters = chosen(threads, **sections, label={"scale": "rank" if target == "mean_rank" else "std"})
        fit_folder(parameters, flat(root))
        label_folder(parameters, flat(root))
        found.append((root, read_thresholds(root / "thresholds.parquet").drop("scores_fingerprint")))
    (one, first), (other, second) = found
    for name in first.columns:
        if first[name].dtype == pl.Float64:
            np.testing.assert_allclose(
                first[name].cast(float), second[name].cast(float), rtol=1e-12, atol=1e-13
            )
        else:
            assert first[name].equals(second[name]), name
    tables = [read_adequacy(root / "adequacy.parquet") for root in (one, other)]
    np.testing.assert_allclose(*(table["value"].cast(float) for table in tables), rtol=1e-9, atol=1e-12)
    a, b = (read_folder(root / "labels") for root in (one, other))
    assert a.drop("relative_score", "weight").equals(b.drop("relative_score", "weight"))
    np.testing.assert_allclose(a["weight"], b["weight"], rtol=1e-12)


def test_a_second_run_with_the_same_parts_gives_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "scores", world(), 3)
    content = []
    for threads in (1, 4):
        fit_folder(chosen(threads), flat(tmp_path))
        names = ("thresholds", "baselines", "adequacy")
        content.append([(tmp_path / f"{name}.parquet").read_bytes() for name in names])
    assert content[0] == content[1]
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_woodruffs_interval_is_the_bootstraps_but_for_its_monte_carlo_error(tmp_path: Path, p: float) -> None:
    """The ends of two bootstraps of B resamples differ by some sqrt(2 a (1 - a) / B) / phi of a standard error."""
    from tests.thresholds.columns import matrix

    rng = np.random.default_rng(3)
    made = matrix(rng.normal(size=2000)[:, None] + rng.normal(size=(2000, 3)))
    low, high = estimate.linearised_interval(made, p, 0.95)
    taus = estimate.bootstrap_taus(made, p, resamples=1000, seed=0)
    spread = math.sqrt(0.025 * 0.975 / 1000) / stats.norm.pdf(1.96) * taus.std()
    assert (low, high) == pytest.approx(np.quantile(taus, [0.025, 0.975]), abs=4 * spread)


def test_many_prompts_have_woodruffs_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "scores", world(), 1)
    fit_folder(chosen(), flat(tmp_path))
    before = threshold_row(read_thresholds(tmp_path / "thresholds.parquet"), "clip")
    monkeypatch.setattr(estimate, "MOST_RESAMPLED", 10)
    fit_folder(chosen(), flat(tmp_path))
    after = threshold_row(read_thresholds(tmp_path / "thresholds.parquet"), "clip")
    assert after["tau_bootstrap_low"] != before["tau_bootstrap_low"] and after["tau"] == before["tau"]
    assert after["tau_bootstrap_low"] < after["tau"] < after["tau_bootstrap_high"]


def test_a_damaged_shard_ends_both_stages_before_anything_is_written(tmp_path: Path) -> None:
    write(tmp_path / "scores", world(), 2)
    fit_folder(chosen(), flat(tmp_path))
    path = tmp_path / "scores" / "train-00001-of-00002.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for stage in (fit_folder, label_folder):
        with pytest.raises(TgoError, match=r"train-00001-of-00002.parquet is damaged"):
            stage(chosen(), flat(tmp_path))
    assert not (tmp_path / "labels").exists() and not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("name", ["sample_id", "prompt_id"])
def test_rows_without_an_id_are_refused(tmp_path: Path, name: str) -> None:
    frame = world().with_columns(pl.when(pl.col("aesthetic") > 0).then(pl.col(name)).alias(name))
    write(tmp_path / "scores", frame, 1)
    with pytest.raises(TgoError, match=rf"\d+ rows have no {name}: run the score stage again"):
        fit_folder(chosen(), flat(tmp_path))


def test_rows_without_an_id_are_refused_where_a_file_has_no_statistics(tmp_path: Path) -> None:
    write(tmp_path / "scores", world().with_columns(prompt_id=pl.lit(None, pl.String)), 1)
    path = tmp_path / "scores" / "train-00000-of-00001.parquet"
    table = read_table(path)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, write_statistics=False)
    with pytest.raises(TgoError, match=rf"{ROWS} rows have no prompt_id: run the score stage again"):
        fit_folder(chosen(), flat(tmp_path))


@pytest.mark.parametrize("most", [2_000, 20_000, 50_000])
def test_a_disk_without_room_is_named_and_nothing_is_left(tmp_path: Path, most: int) -> None:
    """The ids, the scores and the columns of 9,000 rows need more bytes each; the last ones' first call writes less."""
    write(tmp_path / "scores", world(rows=9000).sort("prompt_id"), 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        with pytest.raises(
            TgoError, match=r"the disk is full while writing .*/thresholds.parquet: nothing half"
        ):
            fit_folder(chosen(), flat(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["scores"]


def test_what_a_killed_run_left_on_disk_goes_with_the_next(tmp_path: Path) -> None:
    write(tmp_path / "scores", world(), 1)
    if not (killed := os.fork()):
        with scratch(tmp_path / "thresholds.parquet") as room:
            (room / "rows").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    (left,) = tmp_path.glob(".tmp-*")
    assert (left / "rows").is_dir()
    fit_folder(chosen(), flat(tmp_path))
    assert not left.exists()


def test_a_table_of_another_schema_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "scores", world(), 1)
    path = tmp_path / "scores" / "train-00000-of-00001.parquet"
    table = read_table(path)
    wrong = table.set_column(2, "clip", table["clip"].cast(pa.float64()))
    with atomic(path) as temporary:
        write_table(wrong, temporary, {"fingerprint": "scores"})
    with pytest.raises(TgoError, match="column 'clip' is double, expected float"):
        fit_folder(chosen(), flat(tmp_path))
