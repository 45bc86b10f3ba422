"""Files of own code are found without running it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.modules import project_folder
from tgo_pipeline.plugins.folder import code_files
from tgo_pipeline.rewards.custom_identity import custom_fingerprint


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project folder as the working folder; what tests import from it is forgotten afterwards."""
    with project_folder(tmp_path, monkeypatch):
        yield tmp_path


def names(reference: str) -> list[str]:
    return [str(file.relative_to(Path.cwd())) for file in code_files(reference)]


def test_a_module_is_found_and_not_run():
    Path("mine.py").write_text("raise RuntimeError\ndef score(images, prompts): ...\n")
    assert names("mine:score") == ["mine.py"]
    assert "mine" not in sys.modules


def test_the_module_that_the_object_comes_from_is_found_too():
    package = Path("package_of_mine")
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError\nfrom .inner import public as score\n")
    (package / "inner/__init__.py").write_text("from package_of_mine.code import Reward as public\n")
    (package / "code.py").write_text("class Reward: ...\n")
    found = [f"package_of_mine/{name}" for name in ("__init__.py", "inner/__init__.py", "code.py")]
    assert names("package_of_mine:score") == found
    assert names("package_of_mine.code:Reward.build") == found[-1:]


def test_modules_that_import_the_object_from_each_other_end():
    Path("mine.py").write_text("from mine import score\n")
    assert names("mine:score") == ["mine.py"]


def test_an_installed_module_is_found_and_a_missing_one_is_not():
    assert [file.name for file in code_files("json:loads")] == ["__init__.py"]
    for reference in ("no_such_module:f", "json.no_such_module:f", "sys:exit"):
        assert code_files(reference) == []


def test_a_file_that_is_no_python_counts_as_it_is():
    Path("mine.py").write_text("def (:\n")
    assert names("mine:score") == ["mine.py"]


def test_they_are_the_files_that_the_fingerprint_of_a_reward_is_made_of():
    package = Path("package_of_mine")
    package.mkdir()
    (package / "__init__.py").write_text("from package_of_mine.code import score\n")
    (package / "code.py").write_text("def score(images, prompts): ...\n")
    before = custom_fingerprint("package_of_mine:score", None)
    for file in code_files("package_of_mine:score"):
        original = file.read_text()
        file.write_text(original + "# changed\n")
        assert custom_fingerprint("package_of_mine:score", None) != before
        file.write_text(original)
    assert custom_fingerprint("package_of_mine:score", None) == before
