"""The recipe `ratings` as a user runs it: sampled, rated on the page by scripts, and tuned by `dvc repro`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import ratings
from tests.project import run
from tgo_pipeline.feedback.ratings_file import read_records, standing


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project before anybody has rated its samples."""
    folder = tmp_path_factory.mktemp("ratings") / "project"
    ratings.make_project(folder, seed=0)
    ratings.call(folder, "dvc", "repro", "generate")
    return folder


def test_ratings_tune_a_model_that_the_oracle_prefers_and_a_new_one_is_seen(project: Path) -> None:
    variables = ratings.environment()
    early = run(project, "dvc", "repro", ok=False, variables=variables)
    assert early.returncode
    assert "tgo score: ratings.jsonl does not exist" in early.stderr
    assert "Run `tgo rate --to ratings.jsonl`" in early.stderr
    ratings.rate(project, seed=0)
    run(project, "dvc", "repro", variables=variables)
    assert ratings.outcome(project)["difference_low"] > 0

    stars = json.loads((project / "metrics/score.json").read_text())["stars"]
    answers = standing(read_records(project / "ratings.jsonl")[0])
    assert (stars["rows"], stars["n"], stars["raters"]) == (len(answers), ratings.RATINGS, ratings.RATERS)

    file = project / "ratings.jsonl"
    lines = file.read_text().splitlines()
    edited = json.loads(lines[7])
    edited["value"] = 6 - edited["value"] if edited["value"] != 3 else 5
    file.write_text("\n".join([*lines[:7], json.dumps(edited), *lines[8:], ""]))
    again = run(project, "dvc", "repro", "score", variables=variables).stdout
    assert re.findall(r"Running stage '(\w+)'", again) == ["inputs", "score"]
    changed = json.loads(run(project, "dvc", "status", "--json", variables=variables).stdout)
    assert not {"prompts", "generate", "score"} & changed.keys()
    assert {"threshold", "label", "fine_tune"} <= changed.keys()
