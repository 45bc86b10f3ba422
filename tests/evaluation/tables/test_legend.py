"""Identities of models from their files alone; the legend of a whole evaluation is in test_stage."""

import json
from pathlib import Path

import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.identities import model_identity
from tgo_pipeline.evaluation.tables.legend import SECTIONS, facts_text


def _pipeline(folder: Path, **tuned: object) -> Path:
    folder.mkdir()
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "PNDMScheduler"]}
    (folder / "scheduler").mkdir()
    (folder / "model_index.json").write_text(json.dumps(index))
    if tuned:
        (folder / "tgo.json").write_text(json.dumps(tuned))
    return folder


def test_a_folder_says_its_class_its_scheduler_and_how_it_was_tuned(tmp_path: Path) -> None:
    tuned = {"method": "full", "objective": "dpo", "steps": 78, "base": "org/name", "revision": None}
    folder = _pipeline(tmp_path / "dpo", **tuned, sampling={"prompt_prefix": "good: "})
    found = model_identity(str(folder), None)
    assert (found["pipeline"], found["scheduler"]) == ("StableDiffusionPipeline", "PNDMScheduler")
    assert found["tuned"] == {"method": "full", "objective": "dpo", "steps": 78, "base": "org/name"}
    assert found["prompt words"] == {"prompt_prefix": "good: "}
    before = found["fingerprint"]
    (folder / "scheduler/scheduler_config.json").write_text("{}")
    assert model_identity(str(folder), None)["fingerprint"] != before


def test_an_adapter_has_the_scheduler_of_its_base(tmp_path: Path) -> None:
    base = _pipeline(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "tgo.json").write_text(json.dumps({"method": "lora", "base": str(base), "objective": "tgo"}))
    found = model_identity(str(adapter), None)
    assert found["scheduler"] == "PNDMScheduler"
    assert found["tuned"] == {"method": "lora", "base": str(base), "objective": "tgo"}


@pytest.mark.parametrize(
    ("revision", "shown"),
    [("abc123", "abc123"), (None, "not pinned"), ("main", "main (not pinned: it moves)")],
)
def test_a_hub_id_is_its_name_and_revision_without_asking_the_hub(revision: str | None, shown: str) -> None:
    found = model_identity("no-such-organisation/model", revision)
    assert found["revision"] == shown and found["scheduler"] is None
    assert "scheduler" not in facts_text(found)


def test_a_model_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="no such folder"):
        model_identity(str(tmp_path / "nowhere"), None)


def test_the_sections_of_a_legend_have_titles() -> None:
    assert list(SECTIONS) == [
        "rewards",
        "target",
        "test_sets",
        "models",
        "sampling",
        "statistics",
        "software",
    ]
