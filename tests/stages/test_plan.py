"""`tgo plan` against a run of the small world, and its command line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.plan_reality import ROOT, compare, small
from stages.cli import app
from stages.commands.plan import make
from tests.plugins.packages import install
from tests.tiny import tiny_diffusion_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import GenerateParams, Params, ScoreParams, TargetParams, load_params
from tgo_pipeline.params.recipes import recipes
from tgo_pipeline.planning.gpus import Device, device, utilisation
from tgo_pipeline.planning.plan import Plan

FAMILIES = """
from fine_tune.policies.diffusion import DiffusionFamily, DiffusionPolicy

class Wide(DiffusionFamily):
    def own_size(self):
        return 64, 32

class Twice(DiffusionPolicy):
    family = Wide

    def forward(self, network, corruption):
        return super().forward(network, corruption) / 2 + super().forward(network, corruption) / 2

class Unplanned(DiffusionPolicy):
    family = None
"""


@pytest.fixture(scope="module")
def params() -> Params:
    return small(load_params(ROOT / "params.yaml"))


def test_a_plan_is_what_the_run_then_does(params: Params, tmp_path: Path) -> None:
    found = compare(tmp_path, params)
    for stage in ("generate", "score", "fine_tune"):
        assert found[stage]["flops"]["ratio"] == pytest.approx(1, abs=0.15), stage
        assert found[stage]["memory_bytes"]["ratio"] == pytest.approx(1, abs=0.15), stage
    for stage in ("generate", "score", "label"):
        for name in ("files", "rows"):
            assert found[stage][name]["planned"] == found[stage][name]["measured"], stage
        assert found[stage]["disk_bytes"]["measured"] <= found[stage]["disk_bytes"]["planned"], stage
    for name in ("encoded_bytes", "result_bytes"):
        assert found["fine_tune"][name]["planned"] == found["fine_tune"][name]["measured"]


@pytest.fixture(scope="module")
def tiny(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Params:
    """The same for a model that is imagined in a moment."""
    tuning = dataclasses.replace(params.fine_tune, method="lora", batch_size=4)
    folder = tiny_diffusion_pipeline(tmp_path_factory.mktemp("model"))
    rewards = ScoreParams(rewards={"clip": "demo"})
    return dataclasses.replace(
        params, model=str(folder), fine_tune=tuning, score=rewards, target=TargetParams(reward="clip")
    )


def test_what_is_at_its_smallest_is_not_to_be_lowered(
    tiny: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runtime = dataclasses.replace(
        tiny.runtime, micro_batch_size=1, generate_batch_size=1, gradient_checkpointing=True
    )
    validation = dataclasses.replace(tiny.fine_tune.validation, every=2)
    smallest = dataclasses.replace(
        tiny, runtime=runtime, fine_tune=dataclasses.replace(tiny.fine_tune, validation=validation)
    )
    plan = make(smallest, Device("small", 1, 1, 0.0001, "nowhere"), gpus=1, prompts=1000)
    (said,) = [warning for warning in plan.warnings if warning.startswith("fine_tune takes")]
    assert said.endswith("take a GPU with more memory.")


def test_what_does_not_fit_is_said_with_what_to_change(
    tiny: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make(tiny, Device("small", 1, 1, 0.001, "nowhere"), gpus=2, prompts=1000)
    assert plan.stage("generate").images == 1000 * tiny.generate.images_per_prompt
    said = " ".join(plan.warnings)
    assert "fine_tune takes" in said
    assert "runtime.micro_batch_size" in said
    assert plan.total.hours == pytest.approx(sum(stage.hours for stage in plan.stages))
    generate = plan.stage("generate")
    assert generate.hours == pytest.approx(generate.flops / 2 / (1e12 * utilisation()["single"]) / 3600)


def test_devices_take_whole_shards_and_cost_what_they_do(
    tiny: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    a100 = device("A100-80")
    one, many = (make(tiny, a100, gpus=gpus, prompts=1000, price=2.5) for gpus in (1, 300))
    alone, shared = one.stage("generate"), many.stage("generate")
    assert shared.files == alone.files == 250
    assert shared.hours == pytest.approx(alone.hours / 250)
    assert many.dollars(shared.hours) == pytest.approx(shared.hours * 300 * 2.5)
    assert many.as_json()["dollars"] == pytest.approx(many.total.hours * 750)
    assert "generate has 250 shards for 300 devices: lower generate.shard_size (16)" in " ".join(
        many.warnings
    )
    assert not [warning for warning in one.warnings if "shards for" in warning]


def test_a_family_of_ones_own_is_planned_by_what_it_says(
    tiny: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"tgo_pipeline.policies": {"TwicePipeline": "families:Twice"}}
    monkeypatch.syspath_prepend(install(tmp_path / "packages", "families", {"families.py": FAMILIES}, names))
    monkeypatch.chdir(tmp_path)

    def planned(model: str, policy: str | None = None) -> Plan:
        tuning = dataclasses.replace(tiny.fine_tune, policy=policy)
        changed = dataclasses.replace(tiny, model=model, fine_tune=tuning)
        return make(changed, device("H100"), prompts=8, test_prompts=4)

    known, chosen = planned(tiny.model), planned(tiny.model, "families:Twice")
    assert chosen.stage("generate") == known.stage("generate")
    trained = [plan.stage("fine_tune").parts["training"] for plan in (known, chosen)]
    assert trained[1] > 3.9 * trained[0]  # twice the calls on twice the pixels
    own = Path(shutil.copytree(tiny.model, tmp_path / "own"))
    index = json.loads((own / "model_index.json").read_text())
    (own / "model_index.json").write_text(json.dumps({**index, "_class_name": "TwicePipeline"}))
    drawn = planned(str(own)).stage("generate")
    assert "of 64x32" in drawn.work
    assert drawn.flops > 3 * known.stage("generate").flops
    with pytest.raises(TgoError, match=r"Unplanned does not say how it is planned: .* `family`"):
        planned(tiny.model, "families:Unplanned")


def test_existing_images_need_a_number(tiny: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = GenerateParams(source="images", images="somewhere", shard_size=16)
    taken = dataclasses.replace(tiny, generate=images)
    with pytest.raises(TgoError, match=r"generate\.limit"):
        make(taken, device("H100"))
    plan = make(taken, device("H100"), prompts=100)
    assert plan.stage("generate").files == 7
    assert plan.stage("generate").flops == 0


@pytest.fixture
def project(tiny: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose parameters name the tiny model."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["model"], raw["fine_tune"]["batch_size"] = tiny.model, 4
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("project")
def test_the_command_prints_a_table() -> None:
    given = ["--gpu", "A100-80", "--prompts", "4", "--nodes", "2", "--gpus-per-node", "8", "--price", "2"]
    shown = CliRunner().invoke(app, ["plan", *given])
    assert shown.exit_code == 0, shown.output
    assert "on 16 x A100-80" in shown.output
    assert "dollars" in shown.output
    assert "16 images of 32x32" in shown.output
    assert "NVIDIA A100 data sheet" in shown.output


@pytest.mark.usefixtures("project")
def test_the_command_prints_json() -> None:
    told = json.loads(
        CliRunner().invoke(app, ["plan", "--gpu", "A100-80", "--prompts", "4", "--json"]).stdout
    )
    assert [stage["stage"] for stage in told["stages"]][:2] == ["prompts", "generate"]
    assert told["total"]["flops"] == pytest.approx(sum(stage["flops"] for stage in told["stages"]))


def test_every_recipe_names_a_model_that_can_be_planned() -> None:
    from tgo_pipeline.params.presets import models

    assert {yaml.safe_load(recipe.text)["model"] for recipe in recipes().values()} <= set(models())
