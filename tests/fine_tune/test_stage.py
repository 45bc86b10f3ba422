"""The stage as a user runs it: results that diffusers loads, repeats, and wrong inputs."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image

from fine_tune import stage
from fine_tune.job import Progress
from fine_tune.training.checkpoints import Checkpoints, State
from tests.fine_tune import world
from tests.rounding import assert_same_images
from tests.tiny import IMAGE_SIZE, tiny_diffusion_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.params import Params
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.locks import lock

Places = dict[str, Path]


@pytest.fixture(scope="module")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Params, Places]:
    """A full training with images, done once; tests only look at it."""
    params = world.params(source / "model", validation={"every": 3, "prompts": 2})
    outputs = world.places(tmp_path_factory.mktemp("finished"))
    places = outputs | {name: world.places(source)[name] for name in ("labels", "generations", "prompts")}
    stage.run(params, world.workspace(places))
    return params, places


def draw(pipeline: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt"}
    return pipeline("picture number 1", generator=generator, **options).images


def test_full_result_is_a_pipeline(finished: tuple[Params, Places], model: Path) -> None:
    _, places = finished
    tuned = StableDiffusionPipeline.from_pretrained(places["model"])
    base = StableDiffusionPipeline.from_pretrained(model)
    assert not torch.equal(draw(tuned), draw(base))
    for part in ("vae", "text_encoder"):
        own, others = getattr(tuned, part).state_dict(), getattr(base, part).state_dict()
        assert own.keys() == others.keys() and all(torch.equal(own[name], others[name]) for name in own)
    description = json.loads((places["model"] / "tgo.json").read_text())
    assert description["base"] == str(model) and description["method"] == "full"
    assert_same_images(draw(load_pipeline(str(places["model"]))), draw(tuned))
    assert not places["checkpoints"].exists()


def test_a_model_of_velocity_is_tuned_too(places: Places, tmp_path: Path) -> None:
    stage.run(
        world.params(tiny_diffusion_pipeline(tmp_path / "base", "v_prediction")), world.workspace(places)
    )
    tuned = StableDiffusionPipeline.from_pretrained(places["model"])
    assert tuned.scheduler.config["prediction_type"] == "v_prediction"


def test_adapter_result_is_what_was_trained(
    places: Places, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, torch.Tensor] = {}
    write = Checkpoints.save

    def save(self: Checkpoints, state: State) -> None:
        trained.update({name: tensor.clone() for name, tensor in state.weights.items()})
        write(self, state)

    monkeypatch.setattr(Checkpoints, "save", save)
    params = world.params(model, method="lora", lora={"rank": 2, "alpha": 12}, learning_rate=0.02)
    stage.run(params, world.workspace(places))
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    untuned = draw(pipeline)
    pipeline.load_lora_weights(places["model"])
    (config,) = pipeline.unet.peft_config.values()
    assert (config.r, config.lora_alpha) == (2, 12)
    loaded = {n.replace(".default_0.", ".default."): p for n, p in pipeline.unet.named_parameters()}
    assert trained and all(torch.equal(loaded[name], tensor) for name, tensor in trained.items())
    tuned = draw(pipeline)
    assert not torch.equal(tuned, untuned)
    assert_same_images(draw(load_pipeline(str(places["model"]))), tuned)
    assert json.loads((places["model"] / "tgo.json").read_text())["method"] == "lora"


def test_a_second_run_does_nothing(
    finished: tuple[Params, Places], model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params, places = finished
    files = {file: file.stat().st_mtime_ns for file in places["model"].rglob("*")}
    for same in (
        params,
        world.params(model, checkpoint_every=5),
    ):  # what changes no weight trains nothing again
        caplog.clear()
        with caplog.at_level(logging.INFO, "tgo"):
            stage.run(same, world.workspace(places))
        assert "nothing to do" in caplog.text
        assert {file: file.stat().st_mtime_ns for file in places["model"].rglob("*")} == files


def test_other_parameters_replace_the_result(places: Places, model: Path) -> None:
    for rate in (1e-3, 2e-3):
        stage.run(world.params(model, objective="sft", steps=1, learning_rate=rate), world.workspace(places))
        marks = json.loads((places["model"] / "tgo.json").read_text())
        assert stage.progress(
            world.params(model, objective="sft", steps=1, learning_rate=rate), world.workspace(inputs(places))
        ).done
    assert marks["objective"] == "sft"


def test_vae_and_text_encoder_stay_on_disk_when_the_cache_is_complete(
    places: Places, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(world.params(model, method="lora"), world.workspace(places))
    shutil.rmtree(places["model"])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the VAE was loaded")

    monkeypatch.setattr(AutoencoderKL, "from_pretrained", refuse)
    stage.run(world.params(model, method="lora"), world.workspace(places))
    assert (places["model"] / "tgo.json").is_file()


def test_validation_images_are_the_same_images_at_every_step(finished: tuple[Params, Places]) -> None:
    params, places = finished
    images = places["training"] / "images"
    assert sorted(file.name for file in images.iterdir()) == [f"step-0000{step}.png" for step in (0, 3, 6)]
    with Image.open(images / "step-00000.png") as first, Image.open(images / "step-00006.png") as last:
        assert first.size == last.size == (2 * IMAGE_SIZE, IMAGE_SIZE)
        assert first.tobytes() != last.tobytes()
        shown = np.asarray(last.crop((0, 0, IMAGE_SIZE, IMAGE_SIZE)), dtype=float)
    pipeline = StableDiffusionPipeline.from_pretrained(places["model"])
    generator = torch.Generator().manual_seed(derive_seed(params.seed, "p4", "validation"))
    drawn = pipeline("picture number 4", generator=generator, num_inference_steps=2, guidance_scale=1.0)
    assert np.abs(np.asarray(drawn.images[0], dtype=float) - shown).max() <= 1


def test_metrics_of_every_step(finished: tuple[Params, Places]) -> None:
    _, places = finished
    folder = places["training"] / "plots" / "metrics" / "train"
    names = {file.stem for file in folder.iterdir()}
    sides = ("positive", "negative")
    assert names == {
        *("loss", "accuracy", "weight_ess", "learning_rate", "gradient_norm", "epoch"),
        *(f"{name}_{s}" for name in ("log_ratio", "policy_error", "reference_error") for s in sides),
    }
    assert len((folder / "loss.tsv").read_text().splitlines()) == 1 + 6
    assert json.loads((places["training"] / "metrics.json").read_text())["step"] == 6
    assert len((places["training"] / "log_ratios.csv").read_text().splitlines()) > 6 * 2


def test_a_batch_larger_than_the_data_says_what_happens(
    places: Places, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage.run(world.params(model, batch_size=50, steps=1), world.workspace(places))
    assert "batch_size is 50 and there are 24 samples" in caplog.text


def inputs(places: Places) -> Places:
    return {name: places[name] for name in ("labels", "generations", "model", "checkpoints")}


def test_progress_needs_no_model(finished: tuple[Params, Places], model: Path) -> None:
    params, places = finished
    assert stage.progress(params, world.workspace(inputs(places))) == Progress(True, 6, 6)
    assert stage.progress(world.params(model, steps=9), world.workspace(inputs(places))) == Progress(
        False, 0, 9, stale=True
    )


def relabel(places: Places, tmp_path: Path, **changes: object) -> Places:
    row = {"sample_id": "p0-0000", "prompt_id": "p0", "reward": "r", "score": 0.0, "relative_score": 0.0}
    rows = [row | {"label": 1, "weight": 1.0} | changes]
    world.write_labels(tmp_path / "relabelled" / "train-00000-of-00001.parquet", rows)
    return places | {"labels": tmp_path / "relabelled"}


def fails(places: Places, params: Any, message: str) -> None:
    with pytest.raises(TgoError, match=message):
        stage.run(params, world.workspace(places))
    assert not places["model"].exists() and not places["checkpoints"].exists()


def test_wrong_inputs_are_named_and_write_nothing(places: Places, model: Path, tmp_path: Path) -> None:
    params = world.params(model)
    fails(relabel(places, tmp_path), params, "none of the 1 labelled samples is negative")
    fails(relabel(places, tmp_path, label=0), params, "none of the 1 labelled samples is positive")
    fails(
        relabel(places, tmp_path, sample_id="other-0000"),
        world.params(model, objective="sft"),
        "1 of 1 samples of .*relabelled are not in .*other-0000",
    )
    fails(places | {"labels": tmp_path / "empty"}, params, "label stage first")
    fails(places | {"generations": tmp_path / "empty"}, params, "generate stage first")
    fails(places, world.params(tmp_path / "missing"), "missing")
    fails(places, world.params(model, precision="fp16"), "fp16")


def test_two_runs_at_once_are_refused(places: Places, model: Path) -> None:
    with lock(places["model"]), pytest.raises(TgoError, match="another run"):
        stage.run(world.params(model), world.workspace(places))


def test_divergence_keeps_the_last_checkpoint(places: Places, model: Path) -> None:
    params = world.params(model, learning_rate=1e18, max_grad_norm=1e18, checkpoint_every=1)
    with pytest.raises(TgoError, match="is not finite"):
        stage.run(params, world.workspace(places))
    assert len(list(places["checkpoints"].glob("step-*/weights.safetensors"))) == 1
    assert not places["model"].exists()


def test_a_tuned_adapter_can_be_the_base_of_a_full_training(
    places: Places, model: Path, tmp_path: Path
) -> None:
    stage.run(world.params(model, method="lora", learning_rate=0.02), world.workspace(places))
    second = places | {
        name: tmp_path / "second" / name for name in ("encoded", "checkpoints", "model", "training")
    }
    params = world.params(places["model"], learning_rate=1e-12)
    stage.run(params, world.workspace(second))
    tuned = StableDiffusionPipeline.from_pretrained(second["model"])
    torch.testing.assert_close(draw(tuned), draw(load_pipeline(str(places["model"]))), atol=1e-3, rtol=1e-3)
    third = places | {
        name: tmp_path / "third" / name for name in ("encoded", "checkpoints", "model", "training")
    }
    fails(third, world.params(places["model"], method="lora"), "adapter itself")


def test_the_stage_file_runs_in_the_projects_places(
    source: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages.fine_tune

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("labels", "generations", "prompts.parquet"):
        (tmp_path / "data" / name).symlink_to(source / name)
    stages.fine_tune.run(world.params(model))
    assert (tmp_path / "models" / "tuned" / "model_index.json").is_file()
    assert (tmp_path / "training" / "metrics.json").is_file()
