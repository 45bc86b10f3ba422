"""Every recipe to its end, as a user runs it: `tgo init`, `tgo doctor`, `dvc repro`; its own classes at tiny size."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from tests.datasets import public
from tests.project import ROOT, run, set_params
from tests.rewards import tiny
from tests.rewards.vision_language import tiny as instructed
from tests.tiny import IMAGE_SIZE, tiny_diffusion_pipeline
from tests.tiny_families import tiny_flux_pipeline, tiny_sd3_pipeline, tiny_sdxl_pipeline, tiny_wan_pipeline
from tests.tiny_masked import tiny_amused_pipeline, tiny_meissonic_pipeline
from tgo_pipeline.params import load_params
from tgo_pipeline.params.recipes import recipes

PIPELINES: dict[str, Callable[[Path], Path]] = {
    "amused": tiny_amused_pipeline,
    "flux": tiny_flux_pipeline,
    "meissonic": tiny_meissonic_pipeline,
    "sd14": tiny_diffusion_pipeline,
    "sd15": tiny_diffusion_pipeline,
    "sd35-medium": tiny_sd3_pipeline,
    "sdxl": tiny_sdxl_pipeline,
    "wan": tiny_wan_pipeline,
}
"""What stands in for the model of each recipe that takes one from the hub."""
SETS: dict[str, Callable[[Path], Path]] = {
    "pickapic": public.write_pickapic,
    "hpdv2-prompts": public.write_hpdv2_prompts,
    "parti": public.write_parti,
    "vidprom": lambda root: public.write_vidprom(root, [f"{number} cats run" for number in range(2, 20)]),
}
TGO = (sys.executable, "-m", "stages.cli")
PACKAGE = {"PYTHONPATH": str(ROOT)}
HUB = r"([\w-]+):hf:[\w./-]+@\w+"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The public sets that recipes name, in their schemas, and their rewards as tiny networks in official layouts."""
    root = tmp_path_factory.mktemp("files")
    sets = {name: write(root / name) for name, write in SETS.items()}
    rewards = ("hpsv2.1", "imagereward", "aesthetic", "pickscore", "clip")
    found = sets | {name: tiny.write(name, root / "rewards" / name) for name in rewards}
    states, _ = instructed.videoreward_states()
    return found | {"videoreward": instructed.write_videoreward(root / "rewards/video", states, lora=False)}


def shrunk(text: str, model: Path, files: dict[str, Path]) -> str:
    """Parameters with local copies in place of the hub, small images, two short updates; all else as it is."""
    content: dict[str, Any] = yaml.safe_load(re.sub(HUB, lambda found: f"{found[1]}:{files[found[1]]}", text))
    content |= {"model": str(model), "revision": None}
    content["generate"] |= {"width": IMAGE_SIZE, "height": IMAGE_SIZE, "steps": 2, "shard_size": 8}
    if "frames" in content["generate"]:
        content["generate"]["frames"] = 5
    for section in ("score", "evaluate"):
        named = content[section].get("rewards", {})
        named.update((name, str(files[name])) for name in named if name in files)
    content["fine_tune"] |= {"steps": 2, "batch_size": 4, "checkpoint_every": 1}
    if "validation" in content["fine_tune"]:
        content["fine_tune"]["validation"] = {"every": 1, "prompts": 2}
    content["runtime"] |= {"device": "cpu", "threads": 1}
    return yaml.safe_dump(content, sort_keys=False)


def test_every_recipe_is_here() -> None:
    embedded = {
        "demo",
        "demo-video",
        "ratings",
    }  # they have tests of their own, with nothing in the place of anything
    assert recipes().keys() == PIPELINES.keys() | embedded


def ended(folder: Path, *command: str) -> None:
    """Examine a project and run it by a command to results that are up to date."""
    run(folder, *TGO, "doctor", variables=PACKAGE)
    run(folder, *command, timeout_s=3600, variables=PACKAGE)
    params = load_params(folder / "params.yaml")
    evaluation = pl.read_parquet(folder / "data/evaluation.parquet")
    assert {*params.prompts.test} <= set(evaluation["test_set"])
    assert evaluation["n"].min() > 0
    assert json.loads((folder / "training/metrics.json").read_text())["step"] == 2
    assert (folder / "report.html").stat().st_size > 100_000
    again = run(folder, *TGO, "run", "all", variables=PACKAGE).stdout
    assert again.count("up to date") == 8 and "done" not in again


@pytest.mark.parametrize("name", PIPELINES)
def test_a_recipe_runs_to_its_end(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    run(tmp_path, *TGO, "init", "project", "--recipe", name, variables=PACKAGE)
    path = tmp_path / "project/params.yaml"
    path.write_text(shrunk(path.read_text(), PIPELINES[name](tmp_path / "base"), files))
    ended(path.parent, "dvc", "repro")


def test_a_model_of_one_s_own_as_the_readme_shows_it(files: dict[str, Path], tmp_path: Path) -> None:
    shown = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert shown
    run(tmp_path, *TGO, "init", "project", "--demo", variables=PACKAGE)
    folder = tmp_path / "project"
    captions = [
        f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("cat", "fox", "owl")
    ]
    (folder / "prompts.csv").write_text(
        "\n".join(["id,caption", *(f"{row},{text}" for row, text in enumerate(captions))])
    )
    (folder / "params.yaml").write_text(shrunk(shown[1], tiny_diffusion_pipeline(tmp_path / "base"), files))
    set_params(folder, {"prompts": {"test_fraction": 0.4}})
    ended(folder, *TGO, "run", "all")
