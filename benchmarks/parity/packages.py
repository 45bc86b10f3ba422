"""The official packages' own code, called as their READMEs call it; imports nothing of this project.

    load("hpsv2.1", folder_of_checkpoints).score(["a.png", "b.png"], "a red square")

Nothing is downloaded: the packages find the files of `checkpoints.py` in a hub cache made of links.
"""

# pyright: reportMissingImports=false
# the official packages have an environment of their own

from __future__ import annotations

import functools
import json
import os
import sys
import types
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


class Official(ABC):
    """One reward as its authors publish it: scores through the documented call, and its parts for closer comparison."""

    @abstractmethod
    def score(self, images: list[str], prompt: str) -> list[float]:
        """Scores of image files for one prompt, as the README computes them."""

    @abstractmethod
    def prepared(self, image: str) -> torch.Tensor:
        """The tensor (3, S, S) that the network gets for an image file."""

    def tokens(self, prompt: str) -> list[int]:
        """The token ids that the network gets for a prompt."""
        raise NotImplementedError

    @abstractmethod
    def double(self) -> None:
        """Turn the network to double precision; `exact` is called only afterwards, `score` only before."""

    @abstractmethod
    def exact(self, pairs: list[tuple[str, str]]) -> list[float]:
        """Scores of (image, prompt) by the same formula in double precision, from the same prepared images."""


class CosineReward(Official):
    """A reward from the cosine of two embeddings; `embed_*` give them unnormalised, (1, D)."""

    @abstractmethod
    def embed_image(self, image: str) -> torch.Tensor: ...

    @abstractmethod
    def embed_prompt(self, prompt: str) -> torch.Tensor: ...

    def factor(self) -> float:
        """What the cosine is multiplied with."""
        return 1.0

    def exact(self, pairs: list[tuple[str, str]]) -> list[float]:
        images = {image: _unit(self.embed_image(image)) for image in {image for image, _ in pairs}}
        prompts = {prompt: _unit(self.embed_prompt(prompt)) for prompt in {prompt for _, prompt in pairs}}
        return [self.factor() * float((images[image] * prompts[prompt]).sum()) for image, prompt in pairs]


class Hps(CosineReward):
    """hpsv2.score(images, prompt, hps_version=...); `version` None: the same network with LAION's weights."""

    def __init__(self, folder: Path, device: str, version: str | None) -> None:
        _supply_tkinter()
        import hpsv2
        from hpsv2 import img_score
        from hpsv2.src.open_clip.factory import add_model_config, get_tokenizer

        tiny = folder / "hpsv2/ViT-H-14.json"
        if tiny.is_file():
            add_model_config(tiny)
        self.package, self.version = hpsv2, version
        img_score.model_dict.clear()
        img_score.initialize_model()
        self.network = img_score.model_dict["model"].eval()
        self.preprocess = img_score.model_dict["preprocess_val"]
        self.tokenizer = get_tokenizer("ViT-H-14")

    def score(self, images: list[str], prompt: str) -> list[float]:
        if self.version:
            return [float(value) for value in self.package.score(images, prompt, hps_version=self.version)]
        return [self._score_untuned(image, prompt) for image in images]

    @torch.no_grad()
    def _score_untuned(self, image: str, prompt: str) -> float:
        """As `hpsv2.score`, without a checkpoint of its own: the CLIP score of Diffusion-DPO's `clip_utils`."""
        outputs = self.network(self.prepared(image)[None], self.tokenizer([prompt]))
        return float(torch.diagonal(outputs["image_features"] @ outputs["text_features"].T)[0])

    def prepared(self, image: str) -> torch.Tensor:
        return self.preprocess(Image.open(image))

    def tokens(self, prompt: str) -> list[int]:
        return self.tokenizer([prompt])[0].tolist()

    def double(self) -> None:
        self.network.double()

    def embed_image(self, image: str) -> torch.Tensor:
        return self.network.encode_image(self.prepared(image)[None].double())

    def embed_prompt(self, prompt: str) -> torch.Tensor:
        return self.network.encode_text(self.tokenizer([prompt]))


class PickScore(CosineReward):
    """The recipe of PickScore's model card."""

    def __init__(self, folder: Path, device: str) -> None:
        from transformers import AutoModel, AutoProcessor

        self.processor = AutoProcessor.from_pretrained("laion/CLIP-ViT-H-14-laion2B-s32B-b79K")
        self.network = AutoModel.from_pretrained("yuvalkirstain/PickScore_v1").eval().to(device)
        self.device = device
        self._options = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}

    @torch.no_grad()
    def score(self, images: list[str], prompt: str) -> list[float]:
        opened = [Image.open(image) for image in images]
        image_inputs = self.processor(images=opened, **self._options).to(self.device)
        text_inputs = self.processor(text=prompt, **self._options).to(self.device)
        image_embs = self.network.get_image_features(**image_inputs)
        image_embs = image_embs / torch.norm(image_embs, dim=-1, keepdim=True)
        text_embs = self.network.get_text_features(**text_inputs)
        text_embs = text_embs / torch.norm(text_embs, dim=-1, keepdim=True)
        return (self.network.logit_scale.exp() * (text_embs @ image_embs.T)[0]).tolist()

    def prepared(self, image: str) -> torch.Tensor:
        return self.processor(images=[Image.open(image)], **self._options)["pixel_values"][0]

    def tokens(self, prompt: str) -> list[int]:
        return self.processor(text=prompt, **self._options)["input_ids"][0].tolist()

    def double(self) -> None:
        self.network.double()

    def factor(self) -> float:
        return float(self.network.logit_scale.exp())

    def embed_image(self, image: str) -> torch.Tensor:
        return self.network.get_image_features(pixel_values=self.prepared(image)[None].double())

    def embed_prompt(self, prompt: str) -> torch.Tensor:
        torch.set_default_dtype(torch.float64)  # of which transformers makes its causal mask
        try:
            return self.network.get_text_features(**self.processor(text=prompt, **self._options))
        finally:
            torch.set_default_dtype(torch.float32)


class ImageReward(Official):
    """RM.load("ImageReward-v1.0"), then model.score(prompt, image)."""

    def __init__(self, folder: Path, device: str) -> None:
        import ImageReward as RM

        if (folder / "imagereward/vit_config.json").is_file():
            _shrink_blip(json.loads((folder / "imagereward.json").read_text())["blip"]["vision"])
        self.network = RM.load("ImageReward-v1.0", device=device, download_root=str(folder / "imagereward"))

    @torch.no_grad()
    def score(self, images: list[str], prompt: str) -> list[float]:
        return [self.network.score(prompt, image) for image in images]

    @torch.no_grad()
    def rank(self, images: list[str], prompt: str) -> tuple[list[int], list[float]]:
        """The list call of the README: ranks, best first, and scores."""
        return self.network.inference_rank(prompt, images)

    def prepared(self, image: str) -> torch.Tensor:
        return self.network.preprocess(Image.open(image))

    def _encoded(self, prompt: str) -> Any:
        options = {"padding": "max_length", "truncation": True, "max_length": 35, "return_tensors": "pt"}
        return self.network.blip.tokenizer(prompt, **options)

    def tokens(self, prompt: str) -> list[int]:
        return self._encoded(prompt).input_ids[0].tolist()

    def double(self) -> None:
        self.network.double()

    def exact(self, pairs: list[tuple[str, str]]) -> list[float]:
        network = self.network.blip
        names = {image for image, _ in pairs}
        patches = {image: network.visual_encoder(self.prepared(image)[None].double()) for image in names}
        return [self._exact(patches[image], prompt) for image, prompt in pairs]

    def _exact(self, patches: torch.Tensor, prompt: str) -> float:
        encoded = self._encoded(prompt)
        hidden = self.network.blip.text_encoder(
            encoded.input_ids,
            attention_mask=encoded.attention_mask,
            encoder_hidden_states=patches,
            encoder_attention_mask=torch.ones(patches.shape[:-1], dtype=torch.long),
            return_dict=True,
        ).last_hidden_state[:, 0]
        return float((self.network.mlp(hidden) - self.network.mean) / self.network.std)


class ClipScore(CosineReward):
    """OpenAI's `clip`: the cosine of the normalised features of its README's zero-shot example."""

    def __init__(self, folder: Path, device: str) -> None:
        import clip

        self.package = clip
        self.network, self.preprocess = clip.load(str(folder / "clip/ViT-L-14.pt"), device=device)
        self.device = device

    @torch.no_grad()
    def score(self, images: list[str], prompt: str) -> list[float]:
        text_features = self.network.encode_text(self.package.tokenize([prompt]).to(self.device))
        return self._cosines(images, text_features)

    @torch.no_grad()
    def score_truncated(self, images: list[str], prompt: str) -> list[float]:
        """As `score` with the option that cuts a long prompt, over which the README's call raises."""
        tokens = self.package.tokenize([prompt], truncate=True)
        text_features = self.network.encode_text(tokens.to(self.device))
        return self._cosines(images, text_features)

    def _cosines(self, images: list[str], text_features: torch.Tensor) -> list[float]:
        text_features = text_features / text_features.norm(dim=-1, keepdim=True)
        scores = []
        for image in images:
            pixels = self.preprocess(Image.open(image)).unsqueeze(0).to(self.device)
            image_features = self.network.encode_image(pixels)
            image_features = image_features / image_features.norm(dim=-1, keepdim=True)
            scores.append(float(image_features @ text_features.T))
        return scores

    def prepared(self, image: str) -> torch.Tensor:
        return self.preprocess(Image.open(image))

    def tokens(self, prompt: str) -> list[int]:
        return self.package.tokenize([prompt], truncate=True)[0].tolist()

    def double(self) -> None:
        _double_clip(self.network)

    def embed_image(self, image: str) -> torch.Tensor:
        return self.network.encode_image(self.prepared(image)[None])

    def embed_prompt(self, prompt: str) -> torch.Tensor:
        return self.network.encode_text(self.package.tokenize([prompt], truncate=True))


class Aesthetic(Official):
    """`simple_inference.py` of LAION's predictor; its head is the one that image-reward took over unchanged."""

    def __init__(self, folder: Path, device: str) -> None:
        import clip
        from ImageReward.models.AestheticScore import MLP

        self.head = MLP(768).eval().to(device)
        state = torch.load(folder / "aesthetic/sac+logos+ava1-l14-linearMSE.pth", map_location="cpu")
        self.head.load_state_dict(state)
        self.network, self.preprocess = clip.load(str(folder / "clip/ViT-L-14.pt"), device=device)
        self.device = device

    @torch.no_grad()
    def score(self, images: list[str], prompt: str) -> list[float]:
        scores = []
        for image in images:
            pixels = self.preprocess(Image.open(image)).unsqueeze(0).to(self.device)
            features = self.network.encode_image(pixels).cpu().numpy()
            lengths = np.atleast_1d(np.linalg.norm(features, 2, -1))
            lengths[lengths == 0] = 1
            embedding = torch.from_numpy(features / np.expand_dims(lengths, -1)).float()
            scores.append(float(self.head(embedding.to(self.device))))
        return scores

    def prepared(self, image: str) -> torch.Tensor:
        return self.preprocess(Image.open(image))

    def double(self) -> None:
        _double_clip(self.network)
        self.head.double()

    def exact(self, pairs: list[tuple[str, str]]) -> list[float]:
        scores = {}
        for image in {image for image, _ in pairs}:
            scores[image] = float(self.head(_unit(self.network.encode_image(self.prepared(image)[None]))))
        return [scores[image] for image, _ in pairs]


OFFICIAL = {
    "hpsv2.1": functools.partial(Hps, version="v2.1"),
    "hpsv2.0": functools.partial(Hps, version="v2.0"),
    "clip/laion-h14-hpspad": functools.partial(Hps, version=None),
    "pickscore": PickScore,
    "imagereward": ImageReward,
    "clip/openai-l14": ClipScore,
    "aesthetic": Aesthetic,
}


def load(name: str, folder: Path, device: str = "cpu") -> Official:
    """One official reward over the checkpoints in `folder`. Reads nothing from the network."""
    os.environ |= {
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "HPS_ROOT": str(folder / "hpsv2"),
        "TOKENIZERS_PARALLELISM": "false",
    }
    return OFFICIAL[name](folder, device)


def _unit(embedding: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embedding, dim=-1)


def _supply_tkinter() -> None:
    """hpsv2 imports a name from `turtle` that it does not use; a Python without tkinter does not have it."""
    try:
        import turtle  # noqa: F401
    except ImportError:
        stand_in = types.ModuleType("turtle")
        stand_in.forward = None  # type: ignore[attr-defined]
        sys.modules["turtle"] = stand_in


def _shrink_blip(vision: dict[str, int]) -> None:
    """Let image-reward, which has one size of its image network, build a small one of the same class."""
    from ImageReward.models.BLIP import blip_pretrain
    from ImageReward.models.BLIP.vit import VisionTransformer

    def create(vit: str, image_size: int, *_: Any) -> tuple[torch.nn.Module, int]:
        width = vision["width"]
        sizes = {"embed_dim": width, "depth": vision["layers"], "num_heads": vision["heads"]}
        return VisionTransformer(img_size=image_size, patch_size=16, **sizes), width

    blip_pretrain.create_vit = create


def _double_clip(network: torch.nn.Module) -> None:
    """Double precision also in OpenAI's layer norm, which computes in single precision whatever it is given."""
    import clip.model

    clip.model.LayerNorm.forward = torch.nn.LayerNorm.forward
    network.double()
