"""A toy project in a folder of its own, and `tgo doctor` in it."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.cli import main

ROOT = Path(__file__).parents[2]
PARAMS: dict[str, Any] = {
    "seed": 0,
    "model": "demo",
    "revision": None,
    "prompts": {"train": "demo:train", "test": {"plain": "demo:plain"}},
    "score": {"rewards": {"pickscore": "demo"}},
    "target": {"reward": "pickscore"},
    **{name: {} for name in ("generate", "threshold", "label", "fine_tune", "evaluate", "report")},
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


UNET, VAE = 2_608, 3_135
"""How many numbers the networks of `write_model` have."""


def write_model(folder: Path) -> Path:
    """A pipeline folder of a tiny U-Net in two shards and a tiny VAE in half precision; without text encoder."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
    }
    unet, vae = _networks()
    unet.save_pretrained(folder / "unet", max_shard_size=4 * UNET * 2 // 3)
    vae.save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    return folder


@functools.cache
def _networks() -> tuple[Any, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=4,
        attention_head_dim=1,
    )
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)
    return unet, vae.half()
