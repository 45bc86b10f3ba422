"""A random HPSv3 as both sides read it: the checkpoint, and the folder of its base model with a tokenizer of its own.

The tokenizer is trained on the official instruction and some prompts, so that a text has about as many tokens as with
the real vocabulary.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from tgo_pipeline.rewards.networks.preprocessing import MEAN, STD

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
SPECIAL += ("<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "Be brief.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|vision_start|><|{{ part['type'] }}_pad|>"
    "<|vision_end|>{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen2-VL's, with another system message."""
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tiny": (
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
        {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2},
    ),
    "2b": (
        {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
        {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4},
    ),
}
"""Of the text network and the image network: two blocks each, and those of Qwen2-VL 2B."""
HEAD = (1024, 16, 2)


def write(folder: Path, size: str, text: str, prompts: Sequence[str], instruction: Path) -> Path:
    """Write `HPSv3.safetensors` in bf16 and `base/`, with weights of the base, which the official code loads first."""
    base = folder / "base"
    base.mkdir(parents=True, exist_ok=True)
    words = _tokenizer([text, *prompts])
    vocabulary = words.get_vocab_size(with_added_tokens=True)
    (base / "config.json").write_text(json.dumps(_config(size, vocabulary)))
    words.save(str(base / "tokenizer.json"))
    _write_small_files(base, words)
    config: Any = Qwen2VLConfig(**_config(size, vocabulary + 1))
    state = official(_network(config))
    rows = ("model.embed_tokens.weight", "lm_head.weight")
    shorter = {name: state[name][:-1].clone() for name in rows}
    save_file({**state, **shorter}, base / "model.safetensors", {"format": "pt"})
    width = config.text_config.hidden_size
    for place, sides in zip((0, 3, 5), zip(HEAD, (width, *HEAD), strict=False), strict=True):
        state[f"rm_head.{place}.weight"] = torch.randn(sides) / sides[1] ** 0.5
        state[f"rm_head.{place}.bias"] = torch.randn(sides[0]) / 10
    save_file(state, folder / "HPSv3.safetensors")
    shutil.copyfile(instruction, folder / instruction.name)
    return folder


def _network(config: Qwen2VLConfig) -> Qwen2VLForConditionalGeneration:
    """Random weights, made in bf16: in float32 first they would take three times the memory."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return Qwen2VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)


def official(made: Qwen2VLForConditionalGeneration) -> dict[str, Tensor]:
    """A network's tensors by the names of the class that the official code was written for."""
    moved = {"model.visual.": "visual.", "model.language_model.": "model."}
    state = {}
    for name, value in made.state_dict().items():
        prefix = next((each for each in moved if name.startswith(each)), "")
        state[moved.get(prefix, "") + name.removeprefix(prefix)] = value.clone()
    return state


def _config(size: str, vocabulary: int) -> dict[str, Any]:
    """As a published `config.json`: flat, with the old names."""
    text, vision = SIZES[size]
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [half // 4, 3 * half // 8, 3 * half // 8]},
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-06,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "image_token_id": SPECIAL.index("<|image_pad|>"),
        "video_token_id": SPECIAL.index("<|video_pad|>"),
        "vision_start_token_id": SPECIAL.index("<|vision_start|>"),
        "vision_end_token_id": SPECIAL.index("<|vision_end|>"),
        "vocab_size": vocabulary,
        **text,
        "vision_config": {"hidden_size": text["hidden_size"], "in_chans": 3, **vision},
    }


def _tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Byte pairs of these texts, with Qwen2-VL's special tokens before them."""
    made = Tokenizer(BPE())
    made.normalizer, made.pre_tokenizer, made.decoder = (
        NFC(),
        ByteLevel(add_prefix_space=False),
        ByteDecoder(),
    )
    trainer = BpeTrainer(
        vocab_size=3000,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made


def _write_small_files(base: Path, words: Tokenizer) -> None:
    """What the official code's processor reads besides the tokenizer itself."""
    vocabulary = json.loads(words.to_str())["model"]
    (base / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
    (base / "merges.txt").write_text("\n".join(" ".join(pair) for pair in vocabulary["merges"]))
    (base / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "Qwen2Tokenizer",
                "chat_template": TEMPLATE,
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "model_max_length": 32768,
            }
        )
    )
    (base / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (base / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "min_pixels": 3136,
                "max_pixels": 12845056,
                "patch_size": 14,
                "temporal_patch_size": 2,
                "merge_size": 2,
                "image_mean": MEAN,
                "image_std": STD,
                "image_processor_type": "Qwen2VLImageProcessor",
                "processor_class": "Qwen2VLProcessor",
            }
        )
    )
