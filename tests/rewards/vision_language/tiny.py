"""Tiny checkpoints in the exact layouts of HPSv3 and VideoReward, with random weights from a seed.

Names and nesting are those of the official files: flat `visual.*` and `model.*`, `lm_head`, `rm_head`, and for
VideoReward the names of a class wrapped by peft.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from benchmarks.rewards.hpsv3_checkpoint import official

BYTES = 256
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
SPECIAL += ("<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "Be brief.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|vision_start|><|{{ part['type'] }}_pad|>"
    "<|vision_end|>{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IMAGE_TEXT = "\nHow nice?  \nWish - {text_prompt}\n\nMark: <|Reward|>\nEnd\n"
VIDEO_TEXT = "Look: <|VQ_reward|>\nMotion: <|MQ_reward|>  \nWish - {text_prompt}\nFits: <|TA_reward|>\n"
RANK, ALPHA = 2, 3
NORMS = {"VQ_mean": 0.5, "VQ_std": 2.0, "MQ_mean": -0.5, "MQ_std": 0.5, "TA_mean": 0.0, "TA_std": 1.5}


def config(vocabulary: int, tied: bool) -> dict[str, Any]:
    """As a published `config.json`: flat, with the old names."""
    return {
        "model_type": "qwen2_vl",
        "torch_dtype": "bfloat16",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-06,
        "use_sliding_window": False,
        "sliding_window": 32768,
        "tie_word_embeddings": tied,
        "image_token_id": BYTES + 5,
        "video_token_id": BYTES + 6,
        "vision_start_token_id": BYTES + 3,
        "vision_end_token_id": BYTES + 4,
        "vocab_size": vocabulary,
        "vision_config": {
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 32,
            "in_chans": 3,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
    }


def tokenizer() -> Tokenizer:
    """Bytes, and Qwen2-VL's special tokens behind them."""
    alphabet = {symbol: place for place, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    made = Tokenizer(BPE(alphabet, []))
    made.normalizer, made.pre_tokenizer, made.decoder = (
        NFC(),
        ByteLevel(add_prefix_space=False),
        ByteDecoder(),
    )
    made.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return made


def network(vocabulary: int, tied: bool, seed: int) -> Qwen2VLForConditionalGeneration:
    """The base model with random weights of a size at which the parts play a role."""
    read = {key: value for key, value in config(vocabulary, tied).items() if key != "torch_dtype"}
    made = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**read)).eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in made.parameters():
            parameter.normal_(0, 0.2).add_(parameter.ndim == 1)
    return made


def write_base(folder: Path, vocabulary: int, tied: bool, text: str) -> None:
    """`base/` and the instruction."""
    base = folder / "base"
    base.mkdir(parents=True, exist_ok=True)
    (base / "config.json").write_text(
        json.dumps(config(vocabulary + 20, tied))
    )  # which has spare rows, as Qwen's
    tokenizer().save(str(base / "tokenizer.json"))
    (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (folder / "instruction.txt").write_text(text)


def write_hpsv3(
    folder: Path, seed: int = 0, *, published_head: bool = False
) -> tuple[Path, Qwen2VLForConditionalGeneration, dict[str, Tensor]]:
    """The folder of an HPSv3, its base model, and its head by the official names.

    A published head has the official sizes, which the official package insists on, and scores of some units.
    """
    vocabulary = BYTES + len(SPECIAL) + 1
    made = network(vocabulary, tied=False, seed=seed)
    first, second = (1024, 16) if published_head else (8, 4)
    head = random({"0": (first, 32), "3": (second, first), "5": (2, second)}, seed)
    if published_head:
        head = {name: values / values[0].numel() ** 0.5 for name, values in head.items()}
    write_base(folder, vocabulary, False, IMAGE_TEXT)
    save_file({**official(made), **head}, folder / "HPSv3.safetensors")
    return folder, made, head


def random(shapes: dict[str, tuple[int, int]], seed: int) -> dict[str, Tensor]:
    """Layers of a head with biases."""
    draw = torch.Generator().manual_seed(seed + 1)
    found = {}
    for name, shape in shapes.items():
        found[f"rm_head.{name}.weight"] = torch.randn(shape, generator=draw)
        found[f"rm_head.{name}.bias"] = torch.randn(shape[0], generator=draw)
    return found


def videoreward_config(lora: bool = True) -> dict[str, Any]:
    """As a released `model_config.json`."""
    return {
        "data_config": {
            "max_frame_pixels": 200704,
            "num_frames": None,
            "fps": 2.0,
            "eval_dim": ["VQ", "MQ", "TA"],
            "prompt_template_type": "detailed_special",
            "sample_type": "uniform",
        },
        "training_args": {},
        "model_config": {"output_dim": 3, "use_special_tokens": True, "reward_token": "special"},
        "peft_lora_config": {"lora_enable": lora, "lora_r": RANK, "lora_alpha": ALPHA, "use_rslora": False},
        "inference_config": dict(NORMS),
    }


def videoreward_states(seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state dict of the bare class with adapters merged, and of the class wrapped by peft, of one model."""
    vocabulary = BYTES + len(SPECIAL) + 3
    merged = official(network(vocabulary, tied=True, seed=seed))
    draw = torch.Generator().manual_seed(seed + 2)
    merged["rm_head.weight"] = torch.randn(3, 32, generator=draw)
    wrapped = {}
    for name, value in list(merged.items()):
        stem, _, kind = name.rpartition(".")
        if not name.startswith("model.layers.") or not stem.endswith("_proj"):
            wrapped[f"base_model.model.{name}"] = value
            continue
        wrapped[f"base_model.model.{stem}.base_layer.{kind}"] = value
        if kind == "weight":
            up, down = (
                torch.randn(n, m, generator=draw) / 4 for n, m in ((len(value), RANK), (RANK, value.shape[1]))
            )
            wrapped[f"base_model.model.{stem}.lora_A.default.weight"] = down
            wrapped[f"base_model.model.{stem}.lora_B.default.weight"] = up
            merged[name] = value + ALPHA / RANK * up @ down
    return merged, wrapped


def write_videoreward(folder: Path, state: dict[str, Tensor], *, lora: bool, number: int = 7) -> Path:
    """The folder of a VideoReward with this state dict."""
    write_base(folder, BYTES + len(SPECIAL) + 3, True, VIDEO_TEXT)
    place = folder / f"checkpoint-{number}"
    place.mkdir()
    torch.save(state, place / "model.pth")
    (folder / "model_config.json").write_text(json.dumps(videoreward_config(lora)))
    return folder


def write_adapter(
    folder: Path, wrapped: dict[str, Tensor], base: dict[str, Tensor], *, number: int = 7
) -> Path:
    """The folder of a VideoReward whose training saved what it trained alone: adapters, vision and head.

    `base` is the state dict of the base model, which has spare rows in its embedding.
    """
    write_videoreward(folder, {}, lora=True, number=number)
    place = folder / f"checkpoint-{number}"
    (place / "model.pth").unlink()
    adapters = {name.replace(".default.", "."): value for name, value in wrapped.items() if ".lora_" in name}
    save_file(adapters, place / "adapter_model.safetensors")
    trained = {
        name: value for name, value in wrapped.items() if ".lora_" not in name and ".model.model." not in name
    }
    torch.save(trained, place / "non_lora_state_dict.pth")
    spare = torch.zeros(20, 32)
    embedding = torch.cat([base["model.embed_tokens.weight"], spare])
    save_file({**base, "model.embed_tokens.weight": embedding}, folder / "base/model.safetensors")
    return folder


def frames(count: int = 9, height: int = 48, width: int = 64) -> np.ndarray:
    """A square that moves over a gradient, uint8 (T, H, W, 3)."""
    made = np.zeros((count, height, width, 3), np.uint8)
    made[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)
    for number in range(count):
        made[number, 10:20, number : number + 10] = (255, 255, 7 * number)
    return made


def mp4(pixels: np.ndarray, rate: int = 8) -> bytes:
    """Frames as a lossless file."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=rate, options={"qp": "0"})
        stream.height, stream.width = pixels.shape[1:3]  # type: ignore[attr-defined]
        stream.pix_fmt = "rgb24"  # type: ignore[attr-defined]
        for each in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))  # type: ignore[attr-defined]
        container.mux(stream.encode())  # type: ignore[attr-defined]
    return file.getvalue()
