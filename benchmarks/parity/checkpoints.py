"""Random checkpoints of the five reward models, arranged file for file like the official ones.

python -m benchmarks.parity.checkpoints FOLDER --size tiny|full --seed N

Full size is the official networks (13 GB, about two minutes); tiny has the same layers at width 64. Weights are
drawn so that activations keep their scale from layer to layer, and rounded to half precision, so that a checkpoint
that is published in half and one in single precision hold the same numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.parity.networks import (
    HEAD_WIDTHS,
    NETWORKS,
    Blip,
    Clip,
    Shapes,
    Tower,
    clip_shapes,
    head_shapes,
    image_reward_shapes,
    open_clip_config,
    to_hugging_face,
)
from tgo_pipeline.rewards.files import layouts
from tgo_pipeline.rewards.networks.tokenizers import clip_merges, clip_vocabulary

VOCABULARY = Path(layouts.__file__).parent / "vocabulary/bert-base-uncased.txt"
AESTHETIC = "sac+logos+ava1-l14-linearMSE.pth"
HPS_FILES = {"hpsv2.1": "HPS_v2.1_compressed.pt", "hpsv2.0": "HPS_v2_compressed.pt"}
LAION = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
PICKSCORE = "yuvalkirstain/PickScore_v1"
COMMIT = hashlib.sha1(b"random weights").hexdigest()


@dataclass(frozen=True)
class Checkpoints:
    """Where the files of one size and seed are."""

    folder: Path
    size: str
    seed: int

    @property
    def hub(self) -> Path:
        """The same files as a Hugging Face hub cache (`HF_HUB_CACHE`), which the official packages read."""
        return self.folder / "hub"

    def source(self, reward: str) -> Path:
        """What a user names: the official weight file, or the folder of a CLIPModel."""
        names = {
            **{name: f"hpsv2/{file}" for name, file in HPS_FILES.items()},
            "pickscore": "pickscore",
            "imagereward": "imagereward/ImageReward.pt",
            "clip/openai-l14": "clip",
            "clip/laion-h14-hpspad": "laion/open_clip_pytorch_model.bin",
            "aesthetic": f"aesthetic/{AESTHETIC}",
        }
        return self.folder / names[reward]


def write_checkpoints(folder: Path, size: str, seed: int) -> Checkpoints:
    """Write every checkpoint of one size into `folder`; parts that are there from the same size and seed stay."""
    networks = NETWORKS[size]
    parts: dict[str, Callable[[Path], None]] = {
        "laion": lambda path: _write_laion(path, networks.vit_h, size, seed),
        "hpsv2": lambda path: _write_hpsv2(path, networks.vit_h, size, seed),
        "pickscore": lambda path: _write_pickscore(path, networks.vit_h, seed),
        "imagereward": lambda path: _write_image_reward(path, networks.blip, size, seed),
        "clip": lambda path: _write_clip(path, networks.vit_l, seed),
        "aesthetic": lambda path: _write_aesthetic(path, seed),
        "hub": _write_hub,
    }
    made_from = json.dumps({"size": size, "seed": seed, **asdict(networks)}, indent=2)
    for name, write in parts.items():
        marker = folder / f"{name}.json"
        if marker.is_file() and marker.read_text() == made_from:
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        write(folder / name)
        marker.write_text(made_from)
    return Checkpoints(folder, size, seed)


def drawn(shapes: Shapes, tag: str, seed: int) -> dict[str, Tensor]:
    """Half-precision weights for official keys; the same for the same tag and seed.

    Matrices have deviation 1/sqrt(inputs), norms are near 1, biases near 0, and the logit scale is log 100.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed}|{tag}".encode()).digest()[:8], "little")
    generator = torch.Generator().manual_seed(number)
    return {key: _drawn(key, shape, generator).half() for key, shape in shapes.items()}


def _drawn(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if not shape:
        return torch.tensor(math.log(100))
    normal = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 1 + 0.1 * normal if key.endswith(".weight") else 0.1 * normal
    return normal / math.sqrt(math.prod(shape[1:]))


def _write_hpsv2(folder: Path, network: Clip, size: str, seed: int) -> None:
    for name, file in HPS_FILES.items():
        state = drawn(clip_shapes(network), name, seed)
        torch.save({"epoch": 1, "state_dict": state}, folder / file)
    if size == "tiny":  # the official files come without a description: they are ViT-H-14
        _write_json(folder / "open_clip_config.json", {"model_cfg": open_clip_config(network)})
        _write_json(folder / "ViT-H-14.json", open_clip_config(network))


def _write_laion(folder: Path, network: Clip, size: str, seed: int) -> None:
    torch.save(drawn(clip_shapes(network), "laion", seed), folder / "open_clip_pytorch_model.bin")
    if size == "tiny":
        _write_json(folder / "open_clip_config.json", {"model_cfg": open_clip_config(network)})
    _write_clip_config(folder, network)
    _write_processor(folder)


def _write_pickscore(folder: Path, network: Clip, seed: int) -> None:
    _write_clip_model(folder, network, drawn(clip_shapes(network), "pickscore", seed))
    _write_processor(folder)


def _write_clip(folder: Path, network: Clip, seed: int) -> None:
    """The CLIPModel, and the same weights as OpenAI publishes them: half precision, under its own keys."""
    state = drawn(clip_shapes(network), "clip", seed)
    _write_clip_model(folder, network, state)
    _write_processor(folder)
    torch.save(state, folder / "ViT-L-14.pt")


def _write_clip_model(folder: Path, network: Clip, state: Mapping[str, Tensor]) -> None:
    _write_clip_config(folder, network)
    single = {key: value.float() for key, value in to_hugging_face(state).items()}
    save_file(single, folder / "model.safetensors", {"format": "pt"})


def _write_clip_config(folder: Path, network: Clip) -> None:
    shared = {"hidden_act": network.activation, "projection_dim": network.embedding}
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": network.embedding,
        "logit_scale_init_value": 2.6592,
        "text_config": {
            **_tower_config(network.text),
            **shared,
            "model_type": "clip_text_model",
            "eos_token_id": 2,
        },
        "vision_config": {
            **_tower_config(network.vision),
            **shared,
            "model_type": "clip_vision_model",
            "image_size": network.image_size,
            "patch_size": network.patch_size,
        },
    }
    _write_json(folder / "config.json", config)


def _tower_config(tower: Tower) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": 4 * tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
    }


_END = {
    "content": "<|endoftext|>",
    "lstrip": False,
    "normalized": True,
    "rstrip": False,
    "single_word": False,
}
_SPECIAL = {
    "bos_token": {**_END, "content": "<|startoftext|>"},
    "eos_token": _END,
    "unk_token": _END,
    "pad_token": "<|endoftext|>",
}
_PREPROCESSOR = {
    "feature_extractor_type": "CLIPFeatureExtractor",
    "processor_class": "CLIPProcessor",
    "do_resize": True,
    "size": 224,
    "resample": 3,
    "do_center_crop": True,
    "crop_size": 224,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def _write_processor(folder: Path) -> None:
    """The processor files of a CLIP repository: vocabulary, merges, and how images are prepared."""
    _write_json(folder / "vocab.json", clip_vocabulary())
    merges = "\n".join(["#version: 0.2", *clip_merges()])
    (folder / "merges.txt").write_text(merges + "\n", encoding="utf-8")
    _write_json(folder / "special_tokens_map.json", _SPECIAL)
    added = {k: v if isinstance(v, str) else {"__type": "AddedToken", **v} for k, v in _SPECIAL.items()}
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "model_max_length": 77, **added}
    _write_json(folder / "tokenizer_config.json", tokenizer)
    _write_json(folder / "preprocessor_config.json", _PREPROCESSOR)


def _write_image_reward(folder: Path, network: Blip, size: str, seed: int) -> None:
    state = drawn(image_reward_shapes(network), "imagereward", seed)
    single = {key: value.float() for key, value in state.items()}
    position_ids = {"blip.text_encoder.embeddings.position_ids": torch.arange(network.positions)[None]}
    torch.save({**single, **position_ids}, folder / "ImageReward.pt")
    if size == "tiny":
        _write_json(folder / "vit_config.json", {"num_heads": network.vision.heads})
    (folder / "vocab.txt").write_bytes(VOCABULARY.read_bytes())
    _write_json(
        folder / "med_config.json",
        {
            "architectures": ["BertModel"],
            "attention_probs_dropout_prob": 0.1,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": network.text.width,
            "initializer_range": 0.02,
            "intermediate_size": network.intermediate,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": network.positions,
            "model_type": "bert",
            "num_attention_heads": network.text.heads,
            "num_hidden_layers": network.text.layers,
            "pad_token_id": 0,
            "add_type_embeddings": False,
            "vocab_size": network.vocabulary,
            "encoder_width": network.text.width,
            "add_cross_attention": True,
        },
    )


def _write_aesthetic(folder: Path, seed: int) -> None:
    """The head alone, and a link to the CLIP network it stands on; its input has length 1, hence the first weight."""
    state = {key: value.float() for key, value in drawn(head_shapes(), "aesthetic", seed).items()}
    state["layers.0.weight"] *= math.sqrt(HEAD_WIDTHS[0])
    torch.save(state, folder / AESTHETIC)
    _link(folder / "clip", folder.parent / "clip")


def _write_hub(hub: Path) -> None:
    """A hub cache that holds links to the files above under the names the official packages ask for."""
    files = hub.parent
    repositories = {
        "xswu/HPSv2": [files / "hpsv2" / file for file in HPS_FILES.values()],
        LAION: list((files / "laion").iterdir()),
        PICKSCORE: list((files / "pickscore").iterdir()),
        "openai/clip-vit-large-patch14": list((files / "clip").iterdir()),
        "bert-base-uncased": [files / "imagereward/vocab.txt"],
    }
    for name, contents in repositories.items():
        cached = hub / f"models--{name.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True, exist_ok=True)
        (cached / "refs/main").write_text(COMMIT)
        (cached / "snapshots" / COMMIT).mkdir(parents=True, exist_ok=True)
        for file in contents:
            _link(cached / "snapshots" / COMMIT / file.name, file)


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve(), target_is_directory=target.is_dir())


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Iterable[str] | None = None) -> None:
    """Write the checkpoints that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=list(NETWORKS), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    print(write_checkpoints(chosen.folder, chosen.size, chosen.seed).folder)


if __name__ == "__main__":
    main()
