"""One tiny pipeline and one adapter on it for all tests of this folder."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.generators.guided import Family, make_family
from tests.tiny import tiny_diffusion_pipeline


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion_pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def adapter_folder(pipeline_folder: Path) -> Path:
    """A LoRA of the tiny UNet with random weights, saved as fine-tuning does."""
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder = pipeline_folder.parent / "adapter"
    unet = StableDiffusionPipeline.from_pretrained(pipeline_folder).unet
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in unet.named_parameters():
            if "lora" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state)
    (folder / "tgo.json").write_text(
        json.dumps({"method": "lora", "base": str(pipeline_folder), "revision": None})
    )
    return folder


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """Every family's base and modules, built when first asked for."""
    return functools.cache(lambda name: make_family(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="session")
def sd(families: Callable[[str], Family]) -> Family:
    return families("sd")
