"""What the README and the documents promise can be followed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.project import ROOT
from tgo_pipeline.inputs.demanded import lacking
from tgo_pipeline.params import load_params
from tgo_pipeline.storage.project import make_project
from tgo_pipeline.storage.workspace import Workspace

README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(document: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert len(README.split()) <= 900


def test_the_parameters_shown_run_in_a_new_project_as_they_are(tmp_path: Path):
    shown = re.search(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert shown is not None
    assert shown[0] in (ROOT / "docs/PROJECTS.md").read_text()
    make_project(tmp_path, shown[1])
    workspace = Workspace(tmp_path)
    assert lacking(workspace) == ""
    params = load_params(workspace.params)
    assert (params.target.reward, params.fine_tune.method) == ("hpsv2.1", "lora")
    assert params.fine_tune.temperature == yaml.safe_load("0.001")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path):
    for target, anchor in LINK.findall(document.read_text()):
        path = document.parent / target if target else document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor}"
