from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from stages.report import run
from tests.report.document import Document
from tests.report.workspace import HOSTILE, LONG, Workspace, parameters, write_evaluation, write_workspace
from tgo_pipeline.errors import TgoError
from tgo_pipeline.report.build import render
from tgo_pipeline.storage.workspace import HERE
from tgo_pipeline.storage.workspace import Workspace as Places


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    document = Document(page)
    for tag, attributes in document.elements:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (tag, value)
    assert not [tag for tag, _ in document.elements if tag in ("link", "iframe", "object", "embed", "base")]
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_only_the_two_scripts_of_the_page_may_run(page: str) -> None:
    scripts = [attributes for tag, attributes in Document(page).elements if tag == "script"]
    assert [attributes for attributes in scripts if attributes.get("type") != "application/json"] == [{}, {}]
    policy = next(
        attributes["content"] for tag, attributes in Document(page).elements if "http-equiv" in attributes
    )
    assert policy and policy.startswith("default-src 'none'; script-src 'sha256-")


def test_prompts_are_escaped_everywhere(page: str) -> None:
    body = page.split("<body>")[1]
    assert "<script>document.documentElement.dataset.stolen" not in body
    assert "&lt;script&gt;document.documentElement.dataset.stolen" in body
    assert "\u202e" not in page and "\u2028" not in page.split("<script>")[0]
    assert "(10\u202f" in page  # the long prompt states its length instead of filling the page
    assert LONG not in page and HOSTILE not in page


def test_every_image_has_a_text_and_every_table_headers(page: str) -> None:
    elements = Document(page).elements
    assert all(attributes.get("alt") for tag, attributes in elements if tag == "img")
    tags = [tag for tag, _ in elements]
    assert tags.count("table") == tags.count("thead") > 3
    assert all(attributes.get("scope") for tag, attributes in elements if tag == "th")
    identifiers = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in elements:
        anchor = attributes.get("href") or ""
        assert not anchor.startswith("#") or anchor[1:] in identifiers


def test_the_page_states_the_result_and_the_run(page: str) -> None:
    text = Document(page).text
    assert "TGO raised the target" in text
    assert "95\u202f% interval" in text
    assert "48 train, 16 plain" in text
    assert "192 scored images, 1 failed" in text


def _at_most(workspace: Workspace, megabytes: float) -> str:
    report = dataclasses.replace(workspace.params.report, max_mb=megabytes)
    return render(dataclasses.replace(workspace.params, report=report), workspace.sources)


def test_the_size_is_bounded_and_stated(workspace: Workspace, page: str) -> None:
    whole = len(page.encode())
    assert "336 of the 336 samples" in page.replace("\u202f", "")
    smaller = _at_most(workspace, (whole - 200_000) / 1e6)
    assert whole - 300_000 < len(smaller.encode()) <= whole - 200_000
    assert "of <code>report.max_mb</code>" in smaller
    shown = re.search(r"<p>(\d+) of the 336 samples", smaller)
    assert shown and 100 < int(shown[1]) < 336


def test_a_limit_that_nothing_fits_into_is_refused(workspace: Workspace) -> None:
    with pytest.raises(TgoError, match=r"report\.max_mb is 0\.5, but the page takes .* MB"):
        _at_most(workspace, 0.5)


def test_a_switched_off_gallery_says_so(workspace: Workspace) -> None:
    report = dataclasses.replace(workspace.params.report, gallery=0)
    page = render(dataclasses.replace(workspace.params, report=report), workspace.sources)
    assert "The gallery is switched off" in page
    assert 'id="gallery-data"' not in page


def test_the_same_run_gives_the_same_page(workspace: Workspace, page: str) -> None:
    assert render(workspace.params, workspace.sources) == page


@pytest.mark.parametrize(
    "missing",
    [
        {
            "prompts": "<td>nothing yet</td>",
            "adequacy": "The adequacy of one threshold is not there yet",
            "training": "Training metrics are not there yet",
        },
        {
            "generations": "Labelled images are not there yet",
            "evaluation": "The evaluation is not there yet",
            "plots": "Histograms are not there yet",
        },
        {"scores": "<td>nothing yet</td>", "labels": "Labels are not there yet"},
        {
            "thresholds": "The table of thresholds is not there yet",
            "evaluation_images": "Pairs of images are not there yet",
        },
    ],
    ids=", ".join,
)
def test_a_section_without_its_input_says_so(
    workspace: Workspace, tmp_path: Path, missing: dict[str, str]
) -> None:
    sources = workspace.sources.moved(**dict.fromkeys(missing, tmp_path / "absent"))
    quick = dataclasses.replace(workspace.params.report, gallery=1)
    page = render(dataclasses.replace(workspace.params, report=quick), sources)
    assert [said for said in missing.values() if said not in page] == []


def test_an_empty_folder_still_gives_a_page(tmp_path: Path) -> None:
    text = render(parameters(), Places(tmp_path))
    assert "This run has not been evaluated yet." in text
    assert text.count("not there yet") == 8


def test_a_run_that_did_not_help_is_reported_so(workspace: Workspace, tmp_path: Path) -> None:
    sources = workspace.sources.moved(evaluation=tmp_path / "evaluation.parquet", evaluation_images=tmp_path)
    write_evaluation(workspace.params, sources, workspace.test, np.random.default_rng(0), gain=-2.0)
    lead = re.search(r'<p class="lead">(.*?)</p>', render(workspace.params, sources))
    assert lead and lead[1] == "TGO made the target worse. The held-out oracle fell."


def test_a_target_that_people_gave_has_no_row_in_the_evaluation(tmp_path: Path) -> None:
    stars = {"stars": {"source": "stars.csv", "kind": "rating"}}
    score = {"rewards": {"clip": "demo"}, "feedback": stars}
    rated = write_workspace(tmp_path, train_prompts=24, score=score, target={"reward": "stars"})
    counted = {"stars": {"n": 95, "null": 1, "mean": 3.25, "raters": 1234, "images_only_tied": 2}}
    (rated.sources.metrics / "score.json").write_text(json.dumps(counted))
    page = render(rated.params, rated.sources)
    lead = re.search(r'<p class="lead">(.*?)</p>', page)
    assert lead and lead[1].startswith("The target is feedback, which new images have none of")
    assert "The held-out oracle rose." in lead[1]
    assert "raters 1\u202f234, images only tied 2" in page
    pairs = page.split('<section id="pairs">')[1].split("</section>")[0]
    assert "pairs the held-out reward <bdi>oracle</bdi> rose in" in pairs
    assert "the target" not in pairs and "var(--target)" not in pairs and "var(--held-out)" in pairs
    assert '"target":"stars"' in page
    assert "Is the gain real?" not in page


def test_the_stage_reads_the_projects_places(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(workspace.folder, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    os.remove(HERE.report)
    run(workspace.params)
    assert "not there yet" not in HERE.report.read_text(encoding="utf-8")
