"""Presets: what they hold, where from, and how they meet the keys that a user gives."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from typer.testing import CliRunner

from stages.cli import app
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import FineTuneParams
from tgo_pipeline.params import presets as module
from tgo_pipeline.params.parsing import parse
from tgo_pipeline.params.presets import apply, models, presets

PRESETS, MODELS = presets(), models()

KAPPA = {  # beta / T: the stiffness on mean squared errors
    "tgo/sd14": 1000,
    "tgo/sd15": 1000,
    "tgo/flux": 1000,
    "tgo/wan": 1000,
    "dpo/sd15": 0.5 * 5000,
    "dpo/sdxl": 0.5 * 5000,
    "dpo/sd15-lora": 0.5 * 2500,
    "dpo/sd3": 0.5 * 100,
    "kto/sd15": 5000,
    "kto/sd21": 5000,
    "kto/sd15-code": 1000,
    "kto/wan": 1000,
    "dspo/sd15": 0.5 * 0.001,
    "dspo/sdxl": 0.5 * 5000,
    "pgd/sdxl": 0.5 * 5000,
}


def tuning(**given: Any) -> dict[str, Any]:
    return {"model": "demo", "fine_tune": given}


def applied(raw: dict[str, Any]) -> FineTuneParams:
    return parse(FineTuneParams, apply(raw)["fine_tune"])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_names_its_source(name: str) -> None:
    params = applied(tuning(preset=name))
    assert params.objective == name.split("/")[0]
    kind = PRESETS[name].source.split()
    assert kind[0] in {"code", "recommended", "measured", "not"} or "paper," in kind


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_of_a_known_model_or_of_none(name: str) -> None:
    model, known = name.split("/")[1], {*MODELS.values(), "recommended"}
    assert model in known or model.rpartition("-")[0] in known


@pytest.mark.parametrize("model", ["demo", "demo-masked"])
def test_the_small_world_has_a_starting_point_for_every_objective(model: str) -> None:
    objectives = get_args(get_type_hints(FineTuneParams)["objective"])
    assert {f"{objective}/{model}" for objective in objectives} <= set(PRESETS)


@pytest.mark.parametrize(("name", "kappa"), KAPPA.items())
def test_stiffness_is_the_published_one(name: str, kappa: float) -> None:
    params = applied(tuning(preset=name))
    assert params.beta / params.temperature == pytest.approx(kappa)


@pytest.mark.parametrize(("model", "name"), MODELS.items())
def test_auto_takes_the_preset_of_the_objective_and_the_model(model: str, name: str) -> None:
    for objective in ("tgo", "dpo", "kto", "csft"):
        raw = {"model": model, "fine_tune": {"preset": "auto", "objective": objective, "seed": 3}}
        preset = PRESETS.get(f"{objective}/{name}")
        expected = {"preset": "auto", "objective": objective, "seed": 3} | dict(
            preset.values if preset else {}
        )
        assert apply(raw)["fine_tune"] == expected


def test_auto_is_for_the_default_objective_and_model_where_they_are_not_given() -> None:
    assert apply({"fine_tune": {"preset": "auto"}})["fine_tune"]["learning_rate"] == 1.5e-4


def test_auto_is_nothing_for_a_model_of_ones_own() -> None:
    raw = {"model": "my/model", "fine_tune": {"preset": "auto", "objective": "tgo"}}
    assert apply(raw) == raw


def test_keys_given_win_also_inside_sections() -> None:
    params = applied(tuning(preset="kto/sd15", learning_rate=3e-6, kto={"utility": "loss_averse"}))
    assert (params.learning_rate, params.kto.utility) == (3e-6, "loss_averse")
    assert (params.beta, params.kto.reference_point) == (5.0, "paper")


def test_a_preset_changes_neither_itself_nor_what_it_is_given() -> None:
    before = copy.deepcopy(PRESETS)
    raw = tuning(preset="kto/sd15", kto={"utility": "loss_averse"})
    given = copy.deepcopy(raw)
    apply(raw)
    assert before == PRESETS and raw == given


@pytest.mark.parametrize("raw", [{}, {"fine_tune": {}}, {"fine_tune": 3}, {"fine_tune": {"preset": "none"}}])
def test_without_a_preset_nothing_changes(raw: dict[str, Any]) -> None:
    assert apply(raw) == raw


def test_an_unknown_preset_is_refused_with_close_names() -> None:
    with pytest.raises(TgoError, match=r"'kto/sd1\.5', which there is none of\. Close: kto/sd15"):
        apply(tuning(preset="kto/sd1.5"))


def test_a_preset_of_another_objective_is_refused() -> None:
    with pytest.raises(TgoError, match=r"preset is dpo/sd15, but fine_tune\.objective is tgo"):
        apply(tuning(preset="dpo/sd15", objective="tgo"))
    with pytest.raises(TgoError, match=r"name a preset of tgo "):
        apply(tuning(preset="dpo/sd15", objective="tgo"))


def test_a_preset_that_is_not_text_is_left_to_the_parser() -> None:
    with pytest.raises(TgoError, match="preset is 3: it must be text"):
        applied(tuning(preset=3))


def test_the_command_shows_every_preset_with_its_source() -> None:
    done = CliRunner().invoke(app, ["presets"])
    assert done.exit_code == 0
    assert all(name in done.output for name in PRESETS)
    assert "HPSv1" in done.output and "csft.negative_prefix" in done.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("models: {}\npresets: [", "it is not YAML"),
        ("presets: {}", r"models is missing"),
        (
            "models: {}\npresets: {tgo/demo: {source: x, valeus: {}}}",
            r"presets\.tgo/demo\.valeus is not a known key",
        ),
        (
            "models: {}\npresets: {tgo/demo: {source: x}}",
            r"presets\.tgo/demo\.a preset has either both source and",
        ),
        (
            "models: {}\npresets: {tgo/demo: {lent_from: dpo/demo}}",
            r"lent_from is 'dpo/demo', which is not a preset",
        ),
        (
            "models: {}\npresets: {tgo/demo: {source: x, values: {betta: 1}}}",
            r"presets\.tgo/demo\.values\.betta is not a known key. Did you mean beta",
        ),
        (
            "models: {}\npresets: {tgo/demo: {source: x, values: {beta: low}}}",
            r"presets\.tgo/demo\.values\.beta is 'low': it must be a number",
        ),
        ("models: {}\npresets: {a/b: {}, a/b: {}}", "a/b is there twice"),
    ],
)
def test_a_mistake_in_the_file_names_the_file_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    path = tmp_path / "presets.yaml"
    path.write_text(content)
    monkeypatch.setattr(module, "FILE", path)
    for cached in (module._file, module.presets):
        cached.cache_clear()
    try:
        with pytest.raises(TgoError, match=rf"presets\.yaml: .*{message}"):
            apply(tuning(preset="tgo/demo"))
    finally:
        for cached in (module._file, module.presets):
            cached.cache_clear()
