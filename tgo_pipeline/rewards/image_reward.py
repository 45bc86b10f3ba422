"""ImageReward v1.0: BLIP's ViT-L/16, BERT with cross-attention to the image, a linear head (arXiv:2304.05977).

Folder: `ImageReward.safetensors` or the official `ImageReward.pt` (flat keys `blip.*`, `mlp.*`); `med_config.json`
(without it the release's), `vocab.txt` (bert-base-uncased's), and `vit_config.json` ({"num_heads": n}; without it one
head per 64 channels, which is ViT-L/16's 16). Other sizes of the image's network are read off the weights.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from tgo_pipeline.devices import to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.checkpoint import (
    described_by,
    load_weights,
    read_weights,
    write_json,
    write_weights,
)
from tgo_pipeline.hub.json_files import read_json
from tgo_pipeline.rewards.base import NetworkReward, empty
from tgo_pipeline.rewards.files.layouts import Files
from tgo_pipeline.rewards.networks.attention import BlipTextAttention, BlipVisionAttention
from tgo_pipeline.rewards.networks.head import WIDTHS, LinearHead, head_widths
from tgo_pipeline.rewards.networks.precision import Precision, autocast, precision_of
from tgo_pipeline.rewards.networks.preprocessing import ShortestSideCrop
from tgo_pipeline.rewards.networks.tokenizers import check_vocabulary, well_formed

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw scores, in the official code: scores are about N(0, 1) then."""
TOKENS = 35
"""Length of every prompt in tokens, [CLS] and [SEP] included: the official code cuts and pads to it."""

OFFICIAL_MED = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "vocab_size": 30524,
    "pad_token_id": 0,
}
"""The text network of the release, for `ImageReward.pt` without its `med_config.json`."""

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_VISION, _TEXT, _HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp."
_UNUSED = ("blip.vision_proj.", "blip.text_proj.", f"{_TEXT}embeddings.position_ids")
_OFFICIAL_TO_BLIP = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj.", "embeddings.patch_embedding."),
    ("blocks.", "encoder.layers."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
)


class ImageReward(NetworkReward):
    """The score is standardised with the official mean and deviation: about N(0, 1) for the official weights."""

    typical_range = (-2.0, 2.0)

    def __init__(
        self,
        vision: BlipVisionConfig,
        text: BlipTextConfig,
        tokenizer: BertTokenizer,
        head: Sequence[int] = WIDTHS,
    ) -> None:
        super().__init__(
            "imagereward",
            "ImageReward v1.0: standardised, about N(0, 1)",
            ShortestSideCrop(cast(int, vision.image_size)),
        )
        self.tokenizer = tokenizer
        vision._attn_implementation = "eager"
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        _use_own_attention(*self.towers)
        self.head = LinearHead(head)
        self.tokens = min(TOKENS, text.max_position_embeddings)

    @classmethod
    def load(cls, name: str, files: Files, precision: Precision = "fp32") -> ImageReward:
        """Build from files. Raises `TgoError` if configurations, weights and vocabulary do not fit together."""
        state = {k: v for k, v in read_weights(files.weights).items() if not k.startswith(_UNUSED)}
        widths = head_widths(state, _HEAD)
        if widths is None:
            raise TgoError(
                f"{files.weights} is no ImageReward: it lacks some of mlp.layers.{{0,2,4,6,7}}.weight."
            )
        vision = read_vision_config(state, files.optional("vit_config.json"), files.weights)
        path = files.optional("med_config.json")
        with described_by(path or files.weights):
            text = text_config(read_json(path) if path else OFFICIAL_MED, vision)
        tokenizer = blip_tokenizer(read_vocabulary(files.path("vocab.txt")))
        check_vocabulary(name, len(tokenizer), text.vocab_size)
        with described_by(path or files.weights):
            reward = empty(lambda: cls(vision, text, tokenizer, widths)).set_precision(precision)
        load_weights(reward, {_own_key(key): value for key, value in state.items()}, files.weights)
        return reward

    @property
    def towers(self) -> list[nn.ModuleList]:
        return [self.vision.encoder.layers, self.text.encoder.layer]

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 (B, L), padded and truncated to the text network's length L."""
        return self.tokenizer(
            [_assigned(prompt) for prompt in well_formed(prompts)],
            padding="max_length",
            truncation=True,
            max_length=self.tokens,
            return_tensors="pt",
        )["input_ids"]

    def token_counts(self, tokens: Tensor) -> Tensor:
        """Places of the last token that is not padding, plus one. A prompt may have the text "[PAD]" in its middle."""
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        return (places * (tokens != self.text.config.pad_token_id)).amax(-1)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (N, L) on the CPU, so that `combine` can cut them without waiting for the device."""
        return self.tokenize(prompts)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> hidden states of all patches (B, P, D), in the precision of the text network."""
        hidden = self.vision.embeddings(pixels)
        blocks, readers = self.towers
        with autocast(blocks, pixels.device):
            for block in blocks:
                hidden = block(hidden)
        hidden = self.vision.post_layernorm(hidden.float())
        return hidden.half() if precision_of([readers]) == "fp16" else hidden

    def combine(self, images: Tensor, prompts: Tensor) -> Tensor:
        """The prompt is read while looking at the image, so every pair takes a pass of the text network.

        `prompts` are token ids (B, L); they are cut behind the longest prompt, and padding is looked at by no token.
        """
        counts = self.token_counts(prompts)
        longest = int(counts.max())
        tokens = to_device(prompts[:, :longest], images.device)
        mask = None
        if int(counts.min()) < longest:
            shown = torch.arange(longest, device=counts.device) < counts[:, None]
            mask = to_device(shown, images.device)[:, None, None]
        hidden = self.text.embeddings(input_ids=tokens)
        blocks = self.towers[1]
        with autocast(blocks, images.device):
            for block in blocks:
                hidden = block(hidden, images, mask)
        return (self.head(hidden[:, 0].float()) - MEAN) / STD

    def official_state_dict(self) -> dict[str, Tensor]:
        """Flat official keys, without the two projections that the score does not use."""
        return {_official_key(key): value for key, value in self.state_dict().items()}

    def save(self, folder: Path, metadata: dict[str, str] | None = None) -> None:
        """The weights, both network configurations and the vocabulary."""
        write_weights(folder / "ImageReward.safetensors", self.official_state_dict(), metadata)
        write_json(folder / "med_config.json", _med_config(self.text.config))
        write_json(folder / "vit_config.json", {"num_heads": self.vision.config.num_attention_heads})
        vocabulary = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        words = [word for word, _ in vocabulary if word not in ("[DEC]", "[ENC]")]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")


def _use_own_attention(vision: nn.ModuleList, text: nn.ModuleList) -> None:
    for block in cast(Any, vision):
        block.self_attn = BlipVisionAttention(block.self_attn)
    for block in cast(Any, text):
        for part in (block.attention, block.crossattention):
            part.self = BlipTextAttention(part.self)


def blip_tokenizer(words: Sequence[str]) -> BertTokenizer:
    """BERT's uncased tokenizer over a vocabulary, with BLIP's two further tokens, [DEC] and [ENC], at its end."""
    tokenizer = BertTokenizer({word: index for index, word in enumerate(words)}, do_lower_case=True)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return tokenizer


def _assigned(prompt: str) -> str:
    """A prompt without the characters that BERT's published tokenizer drops: control, format, private, unassigned.

    The library's present one keeps the unassigned as unknown tokens.
    """
    if prompt.isprintable():
        return prompt
    return "".join(each for each in prompt if each in "\t\n\r" or unicodedata.category(each)[0] != "C")


def read_vocabulary(path: Path) -> list[str]:
    """The words of a `vocab.txt`. Raises `TgoError` if BERT's special tokens are not among them."""
    words = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    missing = [word for word in SPECIAL if word not in words]
    if missing:
        raise TgoError(f"{path} is no BERT vocabulary: it lacks {', '.join(missing)}.")
    return words


def vit_config(
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    patch_size: int,
    image_size: int,
    intermediate_size: int | None = None,
) -> BlipVisionConfig:
    """BLIP's image network as ImageReward has it: GELU, layer norms with 1e-6."""
    return BlipVisionConfig(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size or 4 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=image_size,
        patch_size=patch_size,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        initializer_range=0.02,
    )


def text_config(med: Mapping[str, Any], vision: BlipVisionConfig) -> BlipTextConfig:
    """BLIP's text network from `med_config.json`, with cross-attention to images of the vision network's width."""
    known = {name: med[name] for name in OFFICIAL_MED if name in med}
    return BlipTextConfig(
        **{"num_attention_heads": 12, **known},
        encoder_hidden_size=vision.hidden_size,
        is_decoder=True,  # or there is no cross-attention
        bos_token_id=None,
        eos_token_id=None,
        sep_token_id=None,
    )


def read_vision_config(state: Mapping[str, Tensor], vit: Path | None, path: Path) -> BlipVisionConfig:
    """The image network's sizes from the shapes of its official weights."""
    try:
        patches, width = state[f"{_VISION}pos_embed"].shape[1:]
        patch_size = state[f"{_VISION}patch_embed.proj.weight"].shape[-1]
        intermediate = state[f"{_VISION}blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise TgoError(f"{path} is no ImageReward: it lacks {error.args[0]}.") from error
    blocks = {m[1] for key in state if (m := re.match(rf"{re.escape(_VISION)}blocks\.(\d+)\.", key))}
    heads = read_json(vit).get("num_heads") if vit else max(1, width // 64)
    return vit_config(
        hidden_size=width,
        layers=len(blocks),
        heads=int(heads or max(1, width // 64)),
        patch_size=patch_size,
        image_size=round((patches - 1) ** 0.5) * patch_size,
        intermediate_size=intermediate,
    )


def _med_config(text: BlipTextConfig) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "add_cross_attention": True,
        **{name: getattr(text, name) for name in OFFICIAL_MED},
    }


def _own_key(key: str) -> str:
    if key.startswith(_TEXT):
        return "text." + key.removeprefix(_TEXT)
    if key.startswith(_HEAD):
        return "head." + key.removeprefix(_HEAD)
    if not key.startswith(_VISION):
        return key
    own = key.removeprefix(_VISION)
    for official, blip in _OFFICIAL_TO_BLIP:
        own = own.replace(official, blip)
    return "vision." + re.sub(r"^norm\.", "post_layernorm.", own)


def _official_key(key: str) -> str:
    part, name = key.split(".", 1)
    if part != "vision":
        return {"text": _TEXT, "head": _HEAD}[part] + name
    name = re.sub(r"^post_layernorm\.", "norm.", name)
    for official, blip in reversed(_OFFICIAL_TO_BLIP):
        name = name.replace(blip, official)
    return _VISION + name
