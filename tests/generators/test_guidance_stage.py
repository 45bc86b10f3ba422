"""`generate.guidance`: guided shards, planned by what their numbers depend on; evaluation compares plain models."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.generators.guided import Family
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import generate_folder, plan
from tgo_pipeline.params import GenerateParams, GuidanceParams, RuntimeParams, parse
from tgo_pipeline.prompts import prompt_id
from tgo_pipeline.storage.tables import read_folder

PARAMS = GenerateParams(guidance_scale=2.0, steps=1)
RUNTIME = RuntimeParams(device="cpu", threads=1)


def _job(family: Family, guidance: GuidanceParams | None) -> dict[str, Any]:
    return {
        "prompts": [(prompt_id(text), text) for text in ("a cat", "a dog")],
        "split": "train",
        "model": str(family.base),
        "revision": None,
        "params": replace(PARAMS, guidance=guidance),
        "images_per_prompt": 1,
        "seed": 0,
        "purpose": "generate",
    }


def test_shards_are_drawn_with_guidance(sd: Family, tmp_path: Path) -> None:
    cpgd = GuidanceParams(positive=str(sd.positive), negative=str(sd.negative), strength=2.0)
    images = {}
    for name, guidance in {"plain": None, "none": replace(cpgd, strength=0.0), "guided": cpgd}.items():
        generate_folder(tmp_path / name, **_job(sd, guidance), runtime=RUNTIME)
        images[name] = read_folder(tmp_path / name)["image"].to_list()
    assert images["none"] == images["plain"]
    assert images["guided"] != images["plain"]


def test_the_plan_knows_modules_and_strength(sd: Family, tmp_path: Path) -> None:
    positive = Path(shutil.copytree(sd.positive, tmp_path / "positive"))
    cpgd = GuidanceParams(positive=str(positive), negative=str(sd.negative), strength=2.0)

    def mark(guidance: GuidanceParams | None) -> str:
        return plan(**_job(sd, guidance))[0].fingerprint

    others = [
        None,
        replace(cpgd, strength=1.0),
        replace(cpgd, negative=str(sd.full_negative)),
        GuidanceParams(kind="pgd", positive=str(positive), strength=2.0),
    ]
    before = mark(cpgd)
    assert len({before, *map(mark, others)}) == 5
    assert mark(replace(cpgd, positive=str(sd.positive))) == before
    shutil.copy(sd.negative / "pytorch_lora_weights.safetensors", positive)
    assert mark(cpgd) != before


def test_missing_modules_are_named_before_anything_is_drawn(sd: Family, tmp_path: Path) -> None:
    guidance = GuidanceParams(kind="pgd", positive="models/no/such", strength=2.0)
    with pytest.raises(TgoError, match="'models/no/such', and there is no such folder"):
        generate_folder(tmp_path / "out", **_job(sd, guidance), runtime=RUNTIME)
    assert not (tmp_path / "out").exists()
    with pytest.raises(TgoError, match="cpgd needs a negative module"):
        parse(GenerateParams, {"guidance": {"positive": "a"}}, "generate.")
