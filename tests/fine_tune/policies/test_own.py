"""Model families of one's own: by the class of the pipeline, or by `fine_tune.policy`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fine_tune.policies import policy_class, policy_identity
from fine_tune.policies.diffusion import DiffusionPolicy
from tests.plugins.packages import install
from tests.tiny import tiny_diffusion_pipeline
from tgo_pipeline.errors import TgoError

MODULE = """
from fine_tune.policies.base import Policy
from fine_tune.policies.diffusion import DiffusionPolicy

class Mine(DiffusionPolicy):
    pass

class Half(Policy):
    component = "unet"
"""


class InpaintingOfMine:
    """Only its name matters."""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with families for two classes of pipelines."""
    names = {"InpaintingOfMine": "families_of_mine:Mine", "HalfPipeline": "families_of_mine:Half"}
    target = install(
        tmp_path / "packages",
        "families-of-mine",
        {"families_of_mine.py": MODULE},
        {"tgo_pipeline.policies": names},
    )
    monkeypatch.syspath_prepend(str(target))
    return target


def test_the_class_of_the_pipeline_is_the_name_of_the_entry_point() -> None:
    found = policy_class(InpaintingOfMine())
    assert found.__name__ == "Mine" and issubclass(found, DiffusionPolicy)
    assert policy_class(object(), "families_of_mine:Mine") is found


def test_what_cannot_be_used_says_why() -> None:
    with pytest.raises(
        TgoError, match=r"model family HalfPipeline: families_of_mine:Half lacks build, corrupt"
    ):
        policy_class(object(), "HalfPipeline")
    with pytest.raises(
        TgoError, match=r"cannot be fine-tuned here.*InpaintingOfMine, HalfPipeline; or a family"
    ):
        policy_class(object())


def test_its_version_is_what_the_encoded_samples_depend_on(tmp_path: Path) -> None:
    model = tiny_diffusion_pipeline(tmp_path / "model")
    assert policy_identity(str(model), None, None) == {}
    part = {"own_family": {"part": "families_of_mine:Mine", "distribution": "families-of-mine 1"}}
    assert policy_identity(str(model), None, "families_of_mine:Mine") == part
    index = model / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "InpaintingOfMine"}))
    assert policy_identity(str(model), None, None) == part
