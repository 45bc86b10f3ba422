"""imscore's side: its scorers on batches of equal-sized float tensors, as its README shows, without gradients.

Run with a Python that has imscore 0.0.11 and transformers < 5, and the hub cache of the checkpoints. On a GPU there is
a second form, the same calls under float16 autocast.
"""

# pyright: reportMissingImports=false
# the official packages have an environment of their own

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.rewards.packages.task import Clock, Columns, Form, Task, each, run

Score = Callable[[Tensor, list[str]], Tensor]


def load(task: Task) -> dict[str, Form]:
    """The README's form, and on a GPU also that under autocast."""
    scorers = {name: _LOADERS[name](task) for name in task.sources}
    forms: dict[str, Form] = {"batched": _form(task, scorers, contextlib.nullcontext)}
    if task.device.startswith("cuda"):
        forms["batched, fp16 autocast"] = _form(
            task, scorers, lambda: torch.autocast("cuda", dtype=torch.float16)
        )
    return forms


def _form(task: Task, scorers: Mapping[str, Score], precision: Callable[[], Any]) -> Form:
    @torch.inference_mode()
    def score(images: Sequence[bytes], prompts: Sequence[str], clock: Clock) -> Columns:
        columns: dict[str, list[Tensor]] = {name: [] for name in scorers}
        for start in range(0, len(images), task.batch_size):
            with clock("decode"):
                pixels = torch.stack([_decoded(image) for image in images[start : start + task.batch_size]])
                pixels = pixels.to(task.device)
            texts = list(prompts[start : start + task.batch_size])
            for name, scorer in scorers.items():
                with clock(name), precision():
                    columns[name].append(scorer(pixels, texts).float().flatten().cpu())
        return {name: torch.cat(parts).numpy() for name, parts in columns.items()}

    return each(score)


def _decoded(data: bytes) -> Tensor:
    """As the README decodes: channels first, divided by 255."""
    return torch.tensor(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1) / 255.0


def _hpsv2(task: Task) -> Score:
    import open_clip

    if task.size != "full":
        open_clip.add_model_config(Path(task.sources["hpsv2.1"]).parent / "ViT-H-14.json")
    from imscore.hps.model import HPSv2

    model = HPSv2()  # starts from LAION's weights, as every use of the class does
    model.model.load_state_dict(_pickled(task.sources["hpsv2.1"])["state_dict"])
    return _ready(model, task).score


def _pickscore(task: Task) -> Score:
    from imscore.pickscore.model import PickScorer

    return _ready(PickScorer("yuvalkirstain/PickScore_v1"), task).score


def _clip(task: Task) -> Score:
    from imscore.preference.model import CLIPScore

    model = _ready(CLIPScore("openai/clip-vit-large-patch14"), task)
    scale = model.model.logit_scale.exp().item()  # imscore gives the scaled cosine
    return lambda pixels, prompts: model.score(pixels, prompts) / scale


def _aesthetic(task: Task) -> Score:
    from imscore.aesthetic.model import LAIONAestheticScorer

    model = LAIONAestheticScorer()
    model.mlp.load_state_dict(_pickled(task.sources["aesthetic"]))
    return _ready(model, task).score


def _image_reward(task: Task) -> Score:
    from imscore.imreward.model import ImageReward

    state = _pickled(task.sources["imagereward"])
    with torch.device("meta"):
        model = ImageReward()
        if task.size != "full":
            _shrink(model.blip, state)
    model.load_state_dict(state, assign=True)
    return _ready(model, task).score


def _shrink(blip: Any, state: Mapping[str, Tensor]) -> None:
    """Give the class, whose sizes are fixed, networks of the sizes that the checkpoint has."""
    from imscore.imreward.bert import BertModel
    from imscore.imreward.vit import VisionTransformer

    width = state["blip.visual_encoder.pos_embed"].shape[-1]
    depth = sum(key.startswith("blip.visual_encoder.") and key.endswith("norm1.weight") for key in state)
    config = blip.text_encoder.config
    config.encoder_width = width
    config.num_hidden_layers = sum(key.endswith("crossattention.self.query.weight") for key in state)
    config.intermediate_size = state["blip.text_encoder.encoder.layer.0.intermediate.dense.weight"].shape[0]
    blip.visual_encoder = VisionTransformer(
        img_size=224, patch_size=16, embed_dim=width, depth=depth, num_heads=2
    )
    blip.text_encoder = BertModel(config)
    blip.vision_proj = nn.Linear(width, 256)


def _pickled(path: str) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _ready(model: nn.Module, task: Task) -> Any:
    return model.requires_grad_(False).eval().to(task.device)


_LOADERS: dict[str, Callable[[Task], Score]] = {
    "hpsv2.1": _hpsv2,
    "pickscore": _pickscore,
    "imagereward": _image_reward,
    "clip": _clip,
    "aesthetic": _aesthetic,
}

if __name__ == "__main__":
    run(load)
