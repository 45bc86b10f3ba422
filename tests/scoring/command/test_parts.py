"""A reward of more than one number: its columns in the score stage, `tgo score`, thresholds, labels and evaluation."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.rewards.tiny import png, smooth_image
from tests.rewards.vision_language import tiny
from tests.scoring.command.conftest import Tgo
from tests.scoring.test_stage import write_generations
from tgo_pipeline.evaluation.stage import _roles
from tgo_pipeline.evaluation.target import Target
from tgo_pipeline.params import Params, RuntimeParams, parse
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.scoring.stage import plan, score_folder
from tgo_pipeline.storage.tables import read_folder, read_metadata
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.thresholds.label_stage import label_folder
from tgo_pipeline.thresholds.stage import fit_folder
from tgo_pipeline.thresholds.view import show

RUNTIME = RuntimeParams(device="cpu", score_batch_size=3, threads=1)
SIGMA = "hpsv3.sigma"


@pytest.fixture(scope="module")
def hpsv3(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write_hpsv3(tmp_path_factory.mktemp("hpsv3"))[0])


def score(root: Path, rewards: dict[str, str | None]) -> None:
    score_folder(root / "generations", root / "scores", rewards, runtime=RUNTIME, max_error_rate=0)


def test_the_stage_writes_every_column_and_computes_what_lacks(hpsv3: str, tmp_path: Path) -> None:
    write_generations(tmp_path / "generations")
    without = [shard.fingerprint for shard in plan(tmp_path / "generations", {"jpeg_kb": None})]
    score(tmp_path, {"jpeg_kb": None})
    before = read_folder(tmp_path / "scores", ["jpeg_kb"])
    score(tmp_path, {"jpeg_kb": None, "hpsv3": hpsv3})
    found = read_folder(tmp_path / "scores", ["sample_id", "jpeg_kb", "hpsv3", SIGMA])
    assert found["jpeg_kb"].equals(before["jpeg_kb"]) and found[SIGMA].std() > 0  # type: ignore[operator]
    images = [smooth_image(40 + 4 * part, 32 + row) for part in range(3) for row in range(4)]
    expected = load_reward("hpsv3", hpsv3).score_parts(images, ["a red cat", "blue cats"] * 6)
    for name in ("hpsv3", SIGMA):
        np.testing.assert_allclose(found[name].to_numpy(), expected[name], rtol=1e-4, atol=1e-4)
    about = read_metadata(tmp_path / "scores/train-00000-of-00003.parquet")["rewards"]
    assert list(about) == ["jpeg_kb", "hpsv3", SIGMA]
    assert (
        about[SIGMA]["part"] == "sigma" and "spread" in about[SIGMA]["scale"] and "part" not in about["hpsv3"]
    )
    assert without == [shard.fingerprint for shard in plan(tmp_path / "generations", {"jpeg_kb": None})]


def test_a_part_is_a_target_where_it_is_named(hpsv3: str, tmp_path: Path) -> None:
    write_generations(tmp_path / "generations")
    score(tmp_path, {"hpsv3": hpsv3})
    given = {"prompts": {"test": {"t": "demo:test"}}, "score": {"rewards": {"hpsv3": hpsv3}}}
    assert parse(Params, given).target_rewards == ["hpsv3"], (
        "combined are the first columns unless others are named"
    )
    params = parse(Params, {**given, "target": {"reward": SIGMA}, "threshold": {"bootstrap": 20}})
    workspace = Workspace(tmp_path)
    for folder in ("generations", "scores"):
        getattr(workspace, folder).parent.mkdir(exist_ok=True)
        (tmp_path / folder).rename(getattr(workspace, folder))
    fit_folder(params, workspace)
    label_folder(params, workspace)
    scores = read_folder(workspace.scores, ["sample_id", SIGMA])
    labels = read_folder(workspace.labels, ["sample_id", "label"])
    above = scores[SIGMA] >= scores[SIGMA].sort()[len(scores) // 2 - 1]
    assert labels["label"].sum() in (6, 7) and (labels["label"] == above.cast(pl.Int8)).sum() >= 11
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(show(workspace.thresholds))
    text = " ".join(console.export_text().split())
    assert "hpsv3.sigma: spread that HPSv3 gives with mu" in text and "hpsv3: HPSv3: mu, unbounded" in text


def test_a_prompt_with_a_reward_token_costs_its_row(hpsv3: str, tgo: Tgo, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(png(smooth_image(60, 40)))
    (tmp_path / "prompts.csv").write_text("file_name,prompt\na.png,a fox\nb.png,a <|Reward|> fox\n")
    done = tgo(
        "a.png", "b.png", "--prompts", "prompts.csv", "--report", "page.html", rewards=f"hpsv3={hpsv3}"
    )
    assert done.code == 3 and done.log.count("loading hpsv3") == 1
    table = pl.read_parquet(tmp_path / "scores.parquet")
    assert table.columns == ["image", "prompt", "hpsv3", SIGMA, "error"]
    assert table[SIGMA].is_null().to_list() == table["hpsv3"].is_null().to_list() == [False, True]
    assert table["error"][0] is None and table["error"][1].startswith(
        "hpsv3 got a prompt that holds <|Reward|>"
    )
    assert (
        table["error"][1].count("Reward") == 1
        and "spread that HPSv3 gives" in (tmp_path / "page.html").read_text()
    )
    again = tgo("a.png", "b.png", "--prompts", "prompts.csv", rewards=f"hpsv3={hpsv3}")
    assert again.code == 3 and "loading" not in again.log


def test_other_numbers_of_a_reward_confirm_no_gain(hpsv3: str) -> None:
    """They are neither held out nor part of the target, unless the target is one of them."""
    given = {"prompts": {"test": {"t": "demo:test"}}, "evaluate": {"rewards": {"mine": f"hpsv3={hpsv3}"}}}
    rewards = {"rewards": {"hpsv3": hpsv3, "clip": "demo"}}
    for target, members, held in (
        (SIGMA, [], ["clip", "mine"]),
        ("hpsv3", [], ["clip", "mine"]),
        ("mean_z", ["hpsv3", "clip"], ["mine"]),
    ):
        params = parse(Params, {**given, "score": rewards, "target": {"reward": target}})
        roles = _roles(Target(target, params.target_rewards, pl.DataFrame(), {}), params)
        assert (roles.members, roles.held_out) == (members, held)
