"""Every objective through the whole stage: it trains, resumes nothing twice, and leaves what can be sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fine_tune import stage
from fine_tune.objectives import OBJECTIVES
from tests.fine_tune import world
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import guided_pipeline, load_pipeline
from tgo_pipeline.generators.location import sampling_hints

Places = dict[str, Path]


def train(model: Path, places: Places, **fine_tune: Any) -> dict[str, Any]:
    """Run the stage for two steps; returns the metrics of the last."""
    stage.run(world.params(model, steps=2, **fine_tune), world.workspace(places))
    return json.loads((places["training"] / "metrics.json").read_text())["train"]


def moved(model: Path, tuned: Path) -> bool:
    """Whether the tuned network differs from the base's."""
    base, other = (load_pipeline(str(folder)).unet.state_dict() for folder in (model, tuned))  # type: ignore[attr-defined]
    return any(not torch.equal(base[name], other[name]) for name in base)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_it_trains_and_its_result_loads(objective: str, model: Path, places: Places) -> None:
    metrics = train(model, places, objective=objective)
    assert metrics["loss"] == pytest.approx(metrics["loss"]) and metrics["gradient_norm"] > 0
    assert moved(model, places["model"])
    before = (places["model"] / "tgo.json").stat().st_mtime_ns
    train(model, places, objective=objective)
    assert (places["model"] / "tgo.json").stat().st_mtime_ns == before


def test_the_result_of_csft_says_how_it_is_sampled(model: Path, places: Places) -> None:
    train(model, places, objective="csft", csft={"positive_prefix": "good ", "negative_prefix": "bad "})
    hints = sampling_hints(str(places["model"]))
    assert hints["prompt_prefix"] == "good " and hints["negative_prompt"].strip() == "bad"


def test_options_of_other_objectives_do_not_train_again(model: Path, places: Places) -> None:
    train(model, places)
    before = (places["model"] / "tgo.json").stat().st_mtime_ns
    train(model, places, kto={"utility": "risk_seeking"}, pairs={"select": "all"}, lora={"rank": 2})
    assert (places["model"] / "tgo.json").stat().st_mtime_ns == before
    train(model, places, tgo={"damping": 0.5})
    assert (places["model"] / "tgo.json").stat().st_mtime_ns != before


def test_the_guard_is_no_part_of_a_result(model: Path, places: Places) -> None:
    train(model, places)
    before = (places["model"] / "tgo.json").stat().st_mtime_ns
    train(model, places, guard={"negative_error": None, "patience": 3})
    assert (places["model"] / "tgo.json").stat().st_mtime_ns == before


def test_a_result_with_words_of_its_own_is_no_base(model: Path, places: Places, tmp_path: Path) -> None:
    train(model, places, objective="csft")
    other = {**places, "model": tmp_path / "other", "checkpoints": tmp_path / "checkpoints"}
    with pytest.raises(TgoError, match=r"words of its own before the prompt"):
        train(places["model"], other)
    with pytest.raises(TgoError, match=r"sampled with a prompt of its own"):
        guided_pipeline(str(model), str(places["model"]), strength=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective": "sft", "positive_share": 0.8},
            r"positive_share is 0\.8, but sft trains on samples of one side",
        ),
        (
            {"objective": "kto", "by_prompt": True, "kto": {"reference_point": "paper"}},
            r"by_prompt puts images of one prompt side by side.*kto",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    changes: dict[str, Any], message: str, model: Path, places: Places
) -> None:
    with pytest.raises(TgoError, match=message):
        train(model, places, **changes)
    assert not places["encoded"].exists() and not places["model"].exists()


def test_pairs_have_no_positive_share(model: Path, places: Places) -> None:
    with pytest.raises(TgoError, match=r"positive_share is 0.8, but dpo trains on pairs"):
        train(model, places, objective="dpo", positive_share=0.8)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("objective", ["pgd", "cpgd"])
def test_guidance_trains_its_modules(objective: str, method: str, model: Path, places: Places) -> None:
    train(model, places, objective=objective, method=method, guidance={"strength": 2.0})
    output = places["model"]
    names = ["positive"] if objective == "pgd" else ["negative", "positive"]
    assert sorted(path.name for path in output.iterdir() if path.is_dir()) == names
    assert (places["training"] / "metrics.json").is_file()
    pipeline = load_pipeline(str(output))
    assert pipeline.guidance.strength == 2.0 and pipeline.guidance.kind == objective  # type: ignore[attr-defined]
    now = stage.progress(
        world.params(model, steps=2, objective=objective, method=method, guidance={"strength": 2.0}),
        world.workspace(places),
    )
    assert now.done and now.step == now.steps == 2 * len(names)


def test_pgd_goes_towards_the_module_that_is_asked_for(model: Path, places: Places) -> None:
    train(model, places, objective="pgd", guidance={"module": "tgo", "strength": 2.0})
    guided = places["model"]
    assert json.loads((guided / "positive" / "tgo.json").read_text())["objective"] == "tgo"
    other = {**places, "model": guided.parent / "plain", "checkpoints": guided.parent / "plain-checkpoints"}
    train(model, other, objective="tgo")
    assert not moved(guided / "positive", other["model"])


def test_another_strength_keeps_the_modules(model: Path, places: Places) -> None:
    train(model, places, objective="cpgd", guidance={"strength": 1.0})
    made = (places["model"] / "negative" / "tgo.json").stat().st_mtime_ns
    asked = world.params(model, steps=2, objective="cpgd", guidance={"strength": 3.0})
    kept = {name: places[name] for name in ("labels", "generations", "model", "checkpoints")}
    assert not stage.progress(asked, world.workspace(kept)).done
    train(model, places, objective="cpgd", guidance={"strength": 3.0})
    assert stage.progress(asked, world.workspace(kept)).done
    assert (places["model"] / "negative" / "tgo.json").stat().st_mtime_ns == made
    assert load_pipeline(str(places["model"])).guidance.strength == 3.0  # type: ignore[attr-defined]


def test_guidance_takes_the_place_of_another_result(model: Path, places: Places) -> None:
    train(model, places)
    (places["model"] / ".tmp-77-positive").mkdir()  # of a process that was killed
    train(model, places, objective="pgd")
    left = {path.name for path in places["model"].iterdir()}
    assert left == {"positive", "tgo.json"}
    train(model, places)
    assert not (places["model"] / "positive").exists()


def test_merged_guidance_is_one_checkpoint(model: Path, places: Places) -> None:
    train(model, places, objective="cpgd", guidance={"strength": 0.5, "merge": True})
    output = places["model"]
    assert not (output / "positive").exists()
    tuned, base = (load_pipeline(str(folder)).unet.state_dict() for folder in (output, model))  # type: ignore[attr-defined]
    sides = [
        load_pipeline(str(places["checkpoints"] / "modules" / name)).unet.state_dict()  # type: ignore[attr-defined]
        for name in ("positive", "negative")
    ]
    for name, weight in tuned.items():
        expected = base[name] + 0.5 * (sides[0][name] - sides[1][name])
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)
