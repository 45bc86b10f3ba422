"""Recipes: what is listed and written. tests/test_recipe_projects.py runs them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from stages.cli import main
from stages.upstream import STAGES
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params, load_params
from tgo_pipeline.params.presets import models, presets
from tgo_pipeline.params.recipes import recipe, recipes, require_filled


def tgo(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command."""
    monkeypatch.setattr("sys.argv", ["tgo", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


EMBEDDED = {"demo": "demo", "ratings": "demo", "demo-video": "demo-video"}
"""Recipes of the small world's prompts, and their models: nothing in them is on the hub."""


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_valid_and_of_a_known_model(name: str, tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(recipe(name).text)
    params = load_params(path)
    assert params.model in models()
    assert set(yaml.safe_load(path.read_text())) == set(
        Params.__dataclass_fields__
    )  # DVC wants to see every section
    if name in EMBEDDED:
        assert params.model == EMBEDDED[name]
        assert recipe(name).to_fill() == []
        return
    sets = set() if name == "wan" else {"pickapic", "hpsv2", "parti"}
    assert params.prompts.test.keys() == sets
    assert re.fullmatch("[0-9a-f]{40}|COMMIT", params.revision or "")
    places = [line for _, line in recipe(name).to_fill()]
    source = "vidprom" if name == "wan" else "pickapic"
    assert any(line.startswith(f"train: {source}:hf:") for line in places)
    assert len(places) == recipe(name).text.count("COMMIT")


def test_recipes_are_listed_with_their_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    assert tgo("recipe", "list", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    for each in recipes().values():
        assert each.name in shown
        assert yaml.safe_load(each.text)["model"] in shown


def test_a_recipe_is_written_as_shown_and_never_over_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    assert tgo("recipe", "show", "flux", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert tgo("recipe", "use", "flux", monkeypatch=monkeypatch) == 0
    assert (tmp_path / "params.yaml").read_text() == shown
    assert (
        "line 7: train: pickapic:hf:yuvalkirstain/pickapic_v2_no_images@COMMIT/train"
        in capsys.readouterr().out
    )
    assert tgo("recipe", "use", "sd15", monkeypatch=monkeypatch) == 2
    assert "params.yaml exists already" in capsys.readouterr().err
    assert (tmp_path / "params.yaml").read_text() == shown
    assert tgo("recipe", "use", "sd15", "--force", monkeypatch=monkeypatch) == 0
    assert (tmp_path / "params.yaml").read_text() == recipe("sd15").text


COMMON = {
    "label": {"c", "ties", "scale"},
    "threshold": {"percentile"},
    "target": {"reward"},
    "fine_tune": {
        "preset",
        "method",
        "steps",
        "batch_size",
        "learning_rate",
        "beta",
        "temperature",
        "caption_dropout",
        "checkpoint_every",
    },
    "evaluate": {"images_per_prompt"},
    "runtime": {"device", "processes", "generate_batch_size", "micro_batch_size", "gradient_checkpointing"},
}
"""What people change first: `dvc exp run -S` finds only what the file lists."""


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_lists_every_common_key(name: str):
    content = yaml.safe_load(recipe(name).text)
    assert {key: names - content[key].keys() for key, names in COMMON.items()} == {
        key: set() for key in COMMON
    }


def test_null_in_fine_tune_is_the_value_of_the_preset(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(recipe("sd14").text)
    with_null = load_params(path)
    content = yaml.safe_load(recipe("sd14").text)
    content["fine_tune"] = {key: value for key, value in content["fine_tune"].items() if value is not None}
    path.write_text(yaml.safe_dump(content))
    assert load_params(path) == with_null
    assert with_null.fine_tune.learning_rate == presets()["tgo/sd14"].values["learning_rate"]


def test_a_recipe_that_people_rate_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    assert tgo("recipe", "use", "ratings", monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "COMMIT" not in said
    assert said.endswith(
        "Then: tgo doctor, tgo plan, tgo run ..generate, tgo rate, tgo run all. `tgo init` writes a whole project.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("show", "sd5"),
            r"'sd5' is not a recipe\. Did you mean sd15\? There are: amused, demo, demo-video, flux",
        ),
        (("use", "sd15", "--to", "."), r"\. is a folder: name the file to write"),
    ],
)
def test_a_wrong_call_says_what_to_do(
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    assert tgo("recipe", *arguments, monkeypatch=monkeypatch) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("name", [name for name in recipes() if recipe(name).to_fill()])
def test_what_waits_for_a_commit_is_named_before_the_hub_is_asked(name: str, tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(recipe(name).text)
    with pytest.raises(
        TgoError, match=r"^[a-z_.]+ is \S*COMMIT\S*: replace COMMIT by the commit that you pin"
    ):
        require_filled(load_params(path), STAGES)
    path.write_text(recipe(name).text.replace("COMMIT", "c" * 40))
    require_filled(load_params(path), STAGES)


def test_what_waits_for_a_commit_stops_the_stages_that_read_it(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(recipe("sd15").text)
    waiting = load_params(path)
    require_filled(waiting, ["threshold", "label", "fine_tune", "report"])
    for stage, key in {"prompts": "prompts.train", "generate": "generate.images"}.items():
        with pytest.raises(TgoError, match=f"^{re.escape(key)} is pickapic:hf:"):
            require_filled(waiting, [stage])
    unpinned = dataclasses.replace(waiting, revision="COMMIT")
    with pytest.raises(TgoError, match=r"^revision is COMMIT"):
        require_filled(unpinned, ["fine_tune"])
