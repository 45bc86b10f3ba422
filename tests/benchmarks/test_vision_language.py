"""The benchmark of HPSv3: both sides are asked the same, in processes of their own, and their numbers are compared."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.rewards import hpsv3_checkpoint, vision_language
from tests.project import ROOT
from tests.rewards.tiny import smooth_image
from tests.rewards.vision_language.tiny import IMAGE_TEXT
from tgo_pipeline.rewards import load_reward

OTHER_SIDE = """
import json, sys
from tgo_pipeline.rewards import load_reward

asked = json.load(sys.stdin)
reward = load_reward("hpsv3", asked["folder"], asked["device"], asked["dtype"])
print("a package that prints")
answers = []
for case in asked["cases"]:
    pairs = list(zip(case["images"], case["prompts"]))
    one_by_one = [[float(each[0]) for each in reward.score_parts([a], [b]).values()] for a, b in pairs]
    answers.append({"seconds": [9.0, *[0.5 * len(pairs)] * (asked["rounds"] - 1)], "scores": one_by_one})
print(json.dumps({"answers": answers, "versions": {"hpsv3": "1", "transformers": "2", "torch": "3"}}))
"""
"""Stands for the official package, which has an environment of its own: half a second an image, without the first."""


@pytest.fixture
def instruction(tmp_path: Path) -> Path:
    path = tmp_path / "instruction.txt"
    path.write_text(IMAGE_TEXT)
    return path


def test_the_checkpoint_is_one_that_a_user_could_have(tmp_path: Path, instruction: Path) -> None:
    folder = hpsv3_checkpoint.write(tmp_path / "w", "tiny", IMAGE_TEXT, vision_language.PROMPTS, instruction)
    reward: Any = load_reward("hpsv3", str(folder))
    text, vision = hpsv3_checkpoint.SIZES["tiny"]
    assert len(reward.towers[0]) == vision["depth"] and len(reward.towers[1]) == text["num_hidden_layers"]
    assert [tuple(each.shape) for each in reward.head.parameters() if each.ndim == 2] == [
        (1024, 64),
        (16, 1024),
        (2, 16),
    ]
    assert np.isfinite(reward.score([smooth_image(60, 40)], ["a fox"])).all()


def test_the_sizes_of_the_2b_model_are_those_of_its_configuration() -> None:
    from tgo_pipeline.planning.vision_language import QWEN2_VL_2B

    text, vision = hpsv3_checkpoint.SIZES["2b"]
    assert text.items() <= QWEN2_VL_2B.items()
    assert vision.items() <= QWEN2_VL_2B["vision_config"].items()


def test_both_sides_are_asked_and_their_numbers_compared(
    tmp_path: Path, instruction: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.py"
    other.write_text(OTHER_SIDE)
    monkeypatch.setattr(vision_language, "OFFICIAL", other)
    monkeypatch.setattr(vision_language, "SIDES", ((84, 56), (60, 90)))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    options = ["--official", sys.executable, "--instruction", instruction, "--work", tmp_path / "work"]
    options += ["--results", tmp_path, "--images", 3, "--rounds", 1, "--turns", 1, "--threads", 1]
    monkeypatch.setattr(sys, "argv", ["vision_language", *map(str, options)])
    vision_language.main()
    results = (tmp_path / "RESULTS.md").read_text()
    assert "<!-- hpsv3-tiny-fp32-cpu: begin -->" in results
    assert "Official: hpsv3 1 on transformers 2 and torch 3" in results
    rows = [line.split(" | ") for line in results.splitlines() if " image" in line and line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["| 3 images, a prompt each", "| 1 image, 3 prompts"]
    assert [row[1] for row in rows[1:]] == ["0.5", "0.5"], "the median without the first round, by the image"
    assert all(float(row[4].split()[0]) < 1e-5 for row in rows[1:])
    assert results.partition("begin -->")[2].partition("<!--")[0].strip() in capsys.readouterr().out


def test_a_side_that_fails_ends_the_benchmark_with_what_it_printed(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import sys; sys.exit('no such model')")
    with pytest.raises(SystemExit, match="no such model"):
        vision_language._ask([sys.executable, str(tmp_path / "broken.py")], {})


def test_a_difference_between_the_sides_is_seen() -> None:
    answers = [{"seconds": [1.0, 2.0], "scores": [[0.0, 1.0], [0.5, 1.0]]}]
    others = [{"seconds": [1.0, 1.0], "scores": [[0.0, 3.0], [0.75, 1.0]]}]
    found = {"official": [{"answers": answers}], "here": [{"answers": others}]}
    assert vision_language._row("case", 2, 0, found) == ["case", "1", "0.5", "2.0", "2.5e-01"]
