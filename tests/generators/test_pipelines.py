"""A model is found, loaded whole and named by its content; a broken one is refused with what is missing."""

import json
import shutil
from pathlib import Path

import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline, model_fingerprint


@pytest.fixture
def copy(pipeline_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline_folder, tmp_path / "copy"))


def _sample(pipeline) -> list[int]:
    import numpy as np
    import torch

    generator = torch.Generator().manual_seed(0)
    image = pipeline("a cat", num_inference_steps=2, guidance_scale=1.0, generator=generator).images[0]
    return np.asarray(image).astype(int).ravel().tolist()


def test_loads_in_float32_without_safety_checker_or_bars(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    index = json.loads((copy / "model_index.json").read_text())
    index["safety_checker"] = [
        "stable_diffusion",
        "StableDiffusionSafetyChecker",
    ]  # as official folders have it
    (copy / "model_index.json").write_text(json.dumps(index))
    _halve(copy / "text_encoder" / "model.safetensors")
    pipeline = load_pipeline(str(copy))
    assert pipeline.safety_checker is None
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    _sample(pipeline)
    assert "it/s" not in capfd.readouterr().err


def _halve(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {name: w.half() if w.is_floating_point() else w for name, w in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def test_an_adapter_is_loaded_onto_its_base(
    pipeline_folder: Path, adapter_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base, tuned = load_pipeline(str(pipeline_folder)), load_pipeline(str(adapter_folder))
    assert capfd.readouterr().err == ""
    assert _sample(base) != _sample(tuned)
    tuned.unload_lora_weights()
    assert _sample(base) == _sample(tuned)


def test_an_adapter_that_does_not_fit_or_stack_is_refused(
    adapter_folder: Path, copy: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(adapter_folder, tmp_path / "broken"))
    (broken / "pytorch_lora_weights.safetensors").write_bytes(b"junk")
    with pytest.raises(TgoError, match="is damaged or was not copied to its end"):
        load_pipeline(str(broken))
    (broken / "tgo.json").write_text(json.dumps({"method": "lora", "base": str(adapter_folder)}))
    with pytest.raises(TgoError, match="is an adapter itself"):
        load_pipeline(str(broken))
    (broken / "tgo.json").write_text(json.dumps({"method": "lora"}))
    with pytest.raises(TgoError, match="does not name the `base`"):
        load_pipeline(str(broken))
    (broken / "tgo.json").write_text("{")
    with pytest.raises(TgoError, match="cannot be read as JSON"):
        load_pipeline(str(broken))


@pytest.mark.parametrize("model", ["nosuch", "./no/such", "/no/such/folder", "a/b/c"])
def test_a_missing_folder_says_what_belongs_there(model: str) -> None:
    with pytest.raises(TgoError, match=r"there is no such folder. A pipeline folder holds model_index\.json"):
        load_pipeline(model)


def test_a_hub_id_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        TgoError, match=r"'some/model'.* at revision main .*put the pipeline's files into a folder"
    ):
        load_pipeline("some/model", "main")


def test_incomplete_folders_say_what_is_missing(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TgoError, match=r"empty has no model_index\.json"):
        load_pipeline(str(tmp_path / "empty"))
    (copy / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"junk")
    with pytest.raises(TgoError, match=r"unet/.*safetensors cannot be read as weights"):
        load_pipeline(str(copy))
    shutil.rmtree(copy / "unet")
    with pytest.raises(TgoError, match="lacks the subfolders unet"):
        load_pipeline(str(copy))


def test_the_fingerprint_follows_the_content(pipeline_folder: Path, adapter_folder: Path, copy: Path) -> None:
    assert model_fingerprint(str(copy)) == model_fingerprint(str(pipeline_folder))
    assert model_fingerprint(str(adapter_folder)) != model_fingerprint(str(pipeline_folder))
    (copy / "scheduler" / "scheduler_config.json").write_text("{}")
    assert model_fingerprint(str(copy)) != model_fingerprint(str(pipeline_folder))
    assert model_fingerprint("some/model", "a") != model_fingerprint("some/model", "b")
