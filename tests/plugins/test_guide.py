"""The examples of docs/PLUGINS.md through the real pipeline: as modules of a project folder, then as a package."""

from __future__ import annotations

import io
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from fine_tune.objectives import make_objective
from stages import run_stage
from stages.commands.plan import make
from stages.commands.status import table
from tests.plugins.packages import install
from tests.rewards.tiny import png, smooth_image
from tests.tiny import tiny_diffusion_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import FineTuneParams, load_params, parse
from tgo_pipeline.params.presets import table as presets
from tgo_pipeline.planning.gpus import device
from tgo_pipeline.plugins.kinds import OBJECTIVE
from tgo_pipeline.storage.tables import read_folder

GUIDE = (Path(__file__).parents[2] / "docs/PLUGINS.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"`(\w+\.py)` in the project folder.*?```python\n(.*?)```", GUIDE, re.DOTALL))
STAGES = ("prompts", "generate", "score", "threshold", "label", "fine_tune")
PARAMS: dict[str, Any] = {
    "model": "model",
    "prompts": {"train": "captions:Captions:drawings", "test_fraction": 0.5},
    "generate": {"images_per_prompt": 4, "guidance_scale": 1.0, "steps": 1, "shard_size": 4},
    "score": {"rewards": {"red": "red:red"}},
    "target": {"reward": "red"},
    "fine_tune": {
        "objective": "hinge:Hinge",
        "options": {"margin": 2.0},
        "policy": "huber:HuberPolicy",
        "temperature": 0.01,
        "steps": 2,
        "batch_size": 4,
    },
    "runtime": {"device": "cpu", "threads": 1, "executor": "machines:run"},
}
RED = "def red(images, prompts):\n    return [image.getpixel((3, 5))[0] for image in images]\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project folder with the examples, a tiny model and six images with captions."""
    for name, code in (*EXAMPLES.items(), ("red.py", RED)):
        (tmp_path / name).write_text(code)
    tiny_diffusion_pipeline(tmp_path / "model")
    (tmp_path / "drawings").mkdir()
    for number in range(6):
        (tmp_path / f"drawings/{number}.png").write_bytes(png(smooth_image(32, 32 + number)))
        (tmp_path / f"drawings/{number}.txt").write_text(f"a drawing of {'abcdef'[number] * 3}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    forget()


def forget() -> None:
    """Let the examples be imported again, from elsewhere or with other content."""
    for name in (*EXAMPLES, "red.py"):
        sys.modules.pop(name.removesuffix(".py"), None)


def run(stages: tuple[str, ...], **sections: Any) -> None:
    content = {name: {**PARAMS.get(name, {}), **given} for name, given in sections.items()}
    Path("params.yaml").write_text(yaml.safe_dump({**PARAMS, **content}))
    for stage in stages:
        run_stage(stage, Path("params.yaml"))


def shown(what: Any) -> str:
    console = Console(width=400, file=io.StringIO(), record=True)
    console.print(what)
    return " ".join(re.sub("[│┃]", " ", console.export_text()).split())


def described() -> dict[str, Any]:
    return json.loads(Path("models/tuned/tgo.json").read_text())


def test_the_examples_are_short() -> None:
    assert sorted(EXAMPLES) == ["captions.py", "hinge.py", "huber.py", "machines.py"]
    assert all(len([line for line in code.splitlines() if line.strip()]) <= 40 for code in EXAMPLES.values())


def test_the_examples_run_from_the_folder_and_from_a_package(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(STAGES)
    assert len(read_folder(project / "data/generations")) == 12
    assert described()["objective"] == "hinge:Hinge"
    first = described()["fingerprint"]
    forget()
    said = shown(table(load_params()))
    assert "prompts 1 0 0 " in said and "generate 3 0 0 " in said and "score 3 0 0 " in said
    assert "not checked: objective hinge:Hinge is code of this folder" in said
    plan = make(load_params(), device("cpu"))
    left_out = "fine_tune is left out, not checked: model family huber:HuberPolicy"
    assert any(left_out in line for line in plan.warnings)
    assert plan.stage("generate").flops > 0
    assert not {name.removesuffix(".py") for name in EXAMPLES} & set(sys.modules)

    package = install(project / "packages", "parts", EXAMPLES, entry_points())
    for name in EXAMPLES:
        (project / name).unlink()
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setenv("PYTHONPATH", str(package))
    named = {"objective": "hinge", "options": {"margin": 2.0}}
    run(
        ("prompts", "fine_tune"),
        prompts={"train": "captions:drawings"},
        fine_tune=named,
        runtime={"executor": "machines"},
    )
    assert described()["objective"] == "hinge" and described()["fingerprint"] != first
    assert "not checked" not in shown(table(load_params()))
    assert "hinge options.margin 1.0 options of hinge:Hinge, by parts" in shown(presets())
    with pytest.raises(
        TgoError, match=r"fine_tune\.options\.margni is not a known key\. Did you mean margin\?"
    ):
        run((), fine_tune={**named, "options": {"margni": 1}})
        load_params()


def test_an_error_inside_a_part_ends_the_stage_with_its_line(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = project / "captions.py"
    file.write_text(file.read_text().replace("caption.read()", "caption.red()"))
    with pytest.raises(SystemExit) as ended:
        run(("prompts",))
    assert ended.value.code == 2
    said = r"tgo prompts: data set captions:Captions, captions\.py, line \d+: AttributeError: .*'red'"
    assert re.search(said, capfd.readouterr().err)


def entry_points() -> dict[str, dict[str, str]]:
    """As the guide declares them."""
    declared = re.search(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    assert declared is not None
    return tomllib.loads(declared[1])["project"]["entry-points"]


def test_an_objective_of_this_package_may_keep_its_options_in_its_own_file(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(project)
    monkeypatch.setitem(OBJECTIVE.builtin, "hinge", "hinge:Hinge")  # type: ignore[arg-type]
    params = parse(FineTuneParams, {"objective": "hinge", "options": {"margin": 2.0}})
    assert make_objective(params).options.margin == 2
    assert make_objective(parse(FineTuneParams, {"objective": "hinge"})).options.margin == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"options": {"margin": -1}}, "fine_tune.options.margin is -1.0: it must be above 0"),
        ({"options": {"margin": "wide"}}, "fine_tune.options.margin is 'wide': it must be a number"),
        ({"objective": "red:red", "options": {}}, "it must be a subclass of fine_tune.objectives.Objective"),
        ({"objective": "tgo"}, "options is not for tgo, whose options are under its own name"),
        ({"objective": "dpo"}, "options is given, but Dpo has none: leave it out"),
        ({"policy": "hinge:Absent"}, "model family hinge:Absent: hinge has no 'Absent'"),
        ({"policy": "StableDiffusionPipelin"}, "unknown model family.*Did you mean StableDiffusionPipeline"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_drawn(
    project: Path, change: dict[str, Any], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(("prompts",), fine_tune={**PARAMS["fine_tune"], **change})
    assert ended.value.code == 2
    assert re.search(reason, capfd.readouterr().err)
    assert not (project / "data/prompts.parquet").exists()
