"""A toy project in a folder of its own, and `tgo doctor` in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from stages.cli import main

ROOT = Path(__file__).parents[2]
PARAMS: dict[str, Any] = {
    "model": "demo",
    "prompts": {"train": "demo:train", "test": {"plain": "demo:plain"}},
    "score": {"rewards": {"pickscore": "demo"}},
    "target": {"reward": "pickscore"},
    "runtime": {"device": "cpu"},
}


@dataclass(frozen=True)
class Shown:
    """The exit code, and what was printed: as it is, and in one line with single spaces."""

    code: int
    text: str

    @property
    def line(self) -> str:
        return " ".join(self.text.split())


def write_params(folder: Path, **sections: Any) -> Path:
    """Write toy parameters with whole sections replaced."""
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(PARAMS | sections))
    return path


def make_project(folder: Path) -> None:
    """A repository of git and DVC with this project's pipeline and toy parameters."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / ".dvc").mkdir()
    write_params(folder)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "toy"], cwd=folder, check=True)


def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: str) -> Shown:
    """Run `tgo doctor` in the working folder."""
    monkeypatch.setattr("sys.argv", ["tgo", "doctor", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    return Shown(int(ended.value.code or 0), capsys.readouterr().out)


def write_model(folder: Path) -> Path:
    """A pipeline folder of a U-Net of 24 and 6 numbers in two shards, and a VAE of 12; without any library."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
    }
    for part in ("unet", "vae", "scheduler"):
        (folder / part).mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    for part in ("unet", "vae"):
        (folder / part / "config.json").write_text("{}")
    shards = {"diffusion_pytorch_model-00001-of-00002.safetensors": {"a": np.zeros((4, 6), np.float32)}}
    shards["diffusion_pytorch_model-00002-of-00002.safetensors"] = {"b": np.zeros(6, np.float32)}
    for name, tensors in shards.items():
        save_file(tensors, folder / "unet" / name)
    places = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": places})
    )
    save_file({"c": np.zeros((3, 4), np.float16)}, folder / "vae" / "diffusion_pytorch_model.safetensors")
    return folder
