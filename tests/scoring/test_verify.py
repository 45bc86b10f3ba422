"""`tgo verify-rewards`: the comparison of two columns, and, where the packages are installed, all of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.parity.checkpoints import write_checkpoints
from stages.cli import app
from tests.rewards.tiny import smooth_image
from tests.rewards.vision_language.tiny import write_hpsv3
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.engine.scorer import Scores
from tgo_pipeline.rewards.isolated import environments
from tgo_pipeline.scoring.command.options import Call
from tgo_pipeline.scoring.verify import compare, verify
from tgo_pipeline.storage.tables import read_metadata, read_table

ENVIRONMENT = environments.ENVIRONMENTS["official-rewards"]
FOLDER = ENVIRONMENT.folder
HPSV3 = environments.ENVIRONMENTS["official-hpsv3"]
HPSV3_FOLDER = HPSV3.folder
"""The user's own environments: a test has an empty cache."""
PROMPTS = ("a “red” fox", "it’s a boat", "two cats &amp; a dog")


def scores(*values: float, **errors: str) -> Scores:
    return Scores({"any": np.float32(values)}, {int(row[1:]): reason for row, reason in errors.items()})


def test_differences_and_swapped_pairs_are_counted_where_both_have_scores() -> None:
    ours, theirs = scores(0.1, 0.2, 0.3, 0.4), scores(0.1, 0.31, 0.3, np.nan, _3="it gave up")
    verdict = compare("hpsv2.1", "hpsv2 1.2.0", ours, theirs, 1e-5)
    assert (verdict.images, verdict.failed, verdict.pairs, verdict.swapped) == (3, 1, 3, 1)
    assert verdict.greatest == pytest.approx(0.11, abs=1e-6) and verdict.mean == pytest.approx(
        0.11 / 3, abs=1e-6
    )
    assert not verdict.agree
    assert verdict.sentence == (
        "hpsv2.1 DIFFERS from hpsv2 1.2.0 on 3 images. 1 have no score to compare: it gave up."
    )


def test_equal_columns_agree_and_nothing_at_all_does_not() -> None:
    assert compare("hpsv2.1", "hpsv2 1.2.0", scores(1, 2), scores(1, 2), 0).agree
    nothing = compare("hpsv2.1", "hpsv2 1.2.0", scores(np.nan, _0="why"), scores(1), 1)
    assert not nothing.agree and "nothing could be compared. 1 have no score" in nothing.sentence


def test_a_reward_without_a_package_is_refused(tmp_path: Path) -> None:
    smooth_image(8, 8).save(tmp_path / "a.png")
    with pytest.raises(TgoError, match="pickscore has no official package here"):
        verify(Call([str(tmp_path)], ["pickscore=demo"], Path(), prompt="a"), 5)


@pytest.mark.skipif(
    not (FOLDER / environments.DONE).is_file(),
    reason="the official packages are not installed (tgo env create official-rewards)",
)
def test_the_packages_score_beside_the_built_in_rewards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT.variable, str(FOLDER))
    weights = write_checkpoints(tmp_path / "weights", "tiny", seed=5)
    rows = [{"image": f"{number}.png", "prompt": PROMPTS[number % 3]} for number in range(8)]
    for number, row in enumerate(rows):
        smooth_image(100 + 30 * number, 330 - 20 * number).save(tmp_path / row["image"])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hps, blip = weights.source("hpsv2.1"), weights.source("imagereward")
    rewards = f"hpsv2.1={hps},official:hpsv2.1={hps},imagereward={blip},official:imagereward={blip}"
    out, table = str(tmp_path / "scores.parquet"), str(tmp_path / "rows.jsonl")
    done = CliRunner().invoke(app, ["score", table, "--rewards", rewards, "--out", out, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    found, about = read_table(Path(out)), read_metadata(Path(out))["rewards"]
    for name, package in (("hpsv2.1", "hpsv2 1.2.0"), ("imagereward", "image-reward 1.5")):
        own, official = found[name].to_numpy(), found[f"{name}-official"].to_numpy()
        np.testing.assert_allclose(own, official, rtol=0, atol=1e-5)
        assert np.ptp(own) > 1e-3
        assert package in about[f"{name}-official"]["packages"]
        assert "transformers 4.55.4" in about[f"{name}-official"]["packages"]
    done = CliRunner().invoke(
        app, ["verify-rewards", table, "--rewards", f"hpsv2.1={hps},imagereward={blip}", "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    assert "hpsv2.1 equals hpsv2 1.2.0 on 8 images." in done.output


@pytest.mark.skipif(
    not (HPSV3_FOLDER / environments.DONE).is_file(),
    reason="the official package is not installed (tgo env create official-hpsv3)",
)
def test_hpsv3_equals_its_package_on_the_instruction_that_its_environment_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HPSV3.variable, str(HPSV3_FOLDER))
    weights, _, _ = write_hpsv3(tmp_path / "weights", published_head=True)
    (weights / "instruction.txt").unlink()
    for number in range(3):
        smooth_image(100 + 30 * number, 130 - 20 * number).save(tmp_path / f"{number}.png")
    images = [str(tmp_path / f"{number}.png") for number in range(3)]
    call = [
        "verify-rewards",
        *images,
        "--prompt",
        "a fox",
        "--rewards",
        f"hpsv3={weights}",
        "--device",
        "cpu",
    ]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    for name in ("hpsv3", "hpsv3.sigma"):
        assert f"{name} equals hpsv3 1.0.0 on 3 images." in done.output
