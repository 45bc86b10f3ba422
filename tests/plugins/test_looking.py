"""Commands that only look run no code of the project folder; those that run it name it first."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.project import ROOT, environment

LOOKING = (
    "status",
    "plan",
    "doctor",
    "doctor --plan",
    "presets",
    "thresholds",
    "evaluation",
    "recipe list",
    "run inputs",
)
MINE = """
open("executed", "w").close()
from fine_tune.objectives import Objective as Base
from fine_tune.policies.diffusion import DiffusionPolicy

def reward(images, prompts):
    return [0.0] * len(images)

class Objective(Base):
    def loss(self, batch, log_ratio):
        return log_ratio

class Policy(DiffusionPolicy):
    pass

def execute(shards, stop, make_worker, runtime):
    pass

class Reader:
    pass
"""
PARTS: dict[str, dict[str, dict[str, object]]] = {
    "of every kind": {
        "score": {"rewards": {"mine": "mine:reward"}},
        "target": {"reward": "mine"},
        "evaluate": {"rewards": {"held": "mine:reward"}},
        "fine_tune": {"objective": "mine:Objective", "options": {"a": 1}, "policy": "mine:Policy"},
        "runtime": {"executor": "mine:execute"},
    },
    "that read": {
        "generate": {"source": "images", "images": "mine:Reader:images"},
        "prompts": {"train": "mine:Reader:prompts", "test": {"a": "mine:Reader:prompts"}},
    },
}


def project(folder: Path, sections: dict[str, dict[str, object]]) -> Path:
    """A folder as somebody may have received it."""
    (folder / "mine.py").write_text(MINE)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, values in sections.items():
        params[name] = {**params.get(name, {}), **values}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(ROOT / "dvc.yaml", folder)
    about = folder / "evil.egg-info"
    about.mkdir()
    (about / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[tgo_pipeline.objectives]\nevil = mine:Objective\n")
    return folder


def tgo(folder: Path, words: str) -> str:
    """All that a command prints; it ends as commands end."""
    done = subprocess.run(
        [sys.executable, "-c", "from stages.cli import main; main()", *words.split()],
        cwd=folder,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 2)
    return done.stdout + done.stderr


@pytest.mark.parametrize("part", PARTS)
def test_looking_runs_nothing_of_the_folder(part: str, tmp_path: Path) -> None:
    folder = project(tmp_path, PARTS[part])
    for words in LOOKING:
        tgo(folder, words)
        assert not (folder / "executed").exists(), words


def test_running_names_the_module_before_it_is_imported(tmp_path: Path) -> None:
    folder = project(tmp_path, {"fine_tune": {"objective": "mine:Objective", "options": {"a": 1}}})
    (folder / "mine.py").write_text('import sys; sys.stderr.write("IMPORTED\\n")\n' + MINE)
    said = tgo(folder, "run fine_tune")
    assert (folder / "executed").exists()
    assert "objective mine:Objective: running code of this folder" in said.partition("IMPORTED")[0]
    assert said.count("running code of this folder") == 1
