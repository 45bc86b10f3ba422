"""The networks behind the five rewards at two sizes: what their official checkpoints are called and shaped like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
HEAD_WIDTHS = (768, 1024, 128, 64, 16, 1)


@dataclass(frozen=True)
class Tower:
    """One transformer: `heads` of width `width // heads`, feed-forward layers four times as wide."""

    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Clip:
    """A CLIP network over 224-pixel images in patches of 14 and 77 tokens."""

    embedding: int
    vision: Tower
    text: Tower
    activation: str
    image_size: int = 224
    patch_size: int = 14
    context_length: int = 77
    vocabulary: int = 49408


@dataclass(frozen=True)
class Blip:
    """ImageReward's two networks: patches of 16; BERT, which the head of 768 inputs fixes in width."""

    vision: Tower
    text: Tower
    intermediate: int
    image_size: int = 224
    patch_size: int = 16
    positions: int = 512
    vocabulary: int = 30524


@dataclass(frozen=True)
class Networks:
    """The networks of one size: HPSv2's and PickScore's, OpenAI's, ImageReward's."""

    vit_h: Clip
    vit_l: Clip
    blip: Blip


_NARROW = Tower(64, 2, 2)
NETWORKS = {
    "tiny": Networks(
        Clip(64, _NARROW, _NARROW, "gelu"),
        Clip(768, Tower(64, 2, 1), Tower(64, 2, 1), "quick_gelu"),
        Blip(_NARROW, Tower(768, 2, 12), 256),
    ),
    "full": Networks(
        Clip(1024, Tower(1280, 32, 16), Tower(1024, 24, 16), "gelu"),
        Clip(768, Tower(1024, 24, 16), Tower(768, 12, 12), "quick_gelu"),
        Blip(Tower(1024, 24, 16), Tower(768, 12, 12), 3072),
    ),
}


def clip_shapes(network: Clip) -> Shapes:
    """Keys and shapes as OpenAI and open_clip name them."""
    vision, text = network.vision, network.text
    patches = (network.image_size // network.patch_size) ** 2
    return {
        "positional_embedding": (network.context_length, text.width),
        "text_projection": (text.width, network.embedding),
        "logit_scale": (),
        "visual.class_embedding": (vision.width,),
        "visual.positional_embedding": (patches + 1, vision.width),
        "visual.proj": (vision.width, network.embedding),
        "visual.conv1.weight": (vision.width, 3, network.patch_size, network.patch_size),
        **_pair("visual.ln_pre", vision.width),
        **_clip_blocks("visual.transformer", vision),
        **_pair("visual.ln_post", vision.width),
        **_clip_blocks("transformer", text),
        "token_embedding.weight": (network.vocabulary, text.width),
        **_pair("ln_final", text.width),
    }


def _clip_blocks(prefix: str, tower: Tower) -> Shapes:
    width, shapes = tower.width, {}
    for layer in range(tower.layers):
        block = f"{prefix}.resblocks.{layer}"
        shapes |= {
            **_pair(f"{block}.ln_1", width),
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
            **_pair(f"{block}.attn.out_proj", width, width),
            **_pair(f"{block}.ln_2", width),
            **_pair(f"{block}.mlp.c_fc", 4 * width, width),
            **_pair(f"{block}.mlp.c_proj", width, 4 * width),
        }
    return shapes


def _pair(name: str, outputs: int, *inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, *inputs), f"{name}.bias": (outputs,)}


def image_reward_shapes(network: Blip) -> Shapes:
    """Keys and shapes of `ImageReward.pt`, with the two projections that the score does not use."""
    return {
        **_blip_vision_shapes(network),
        **_blip_text_shapes(network),
        **_pair("blip.vision_proj", 256, network.vision.width),
        **_pair("blip.text_proj", 256, network.text.width),
        **head_shapes("mlp."),
    }


def _blip_vision_shapes(network: Blip) -> Shapes:
    width, patch, prefix = network.vision.width, network.patch_size, "blip.visual_encoder"
    shapes: Shapes = {
        f"{prefix}.cls_token": (1, 1, width),
        f"{prefix}.pos_embed": (1, (network.image_size // patch) ** 2 + 1, width),
        f"{prefix}.patch_embed.proj.weight": (width, 3, patch, patch),
        f"{prefix}.patch_embed.proj.bias": (width,),
    }
    for layer in range(network.vision.layers):
        block = f"{prefix}.blocks.{layer}"
        shapes |= {
            **_pair(f"{block}.norm1", width),
            **_pair(f"{block}.attn.qkv", 3 * width, width),
            **_pair(f"{block}.attn.proj", width, width),
            **_pair(f"{block}.norm2", width),
            **_pair(f"{block}.mlp.fc1", 4 * width, width),
            **_pair(f"{block}.mlp.fc2", width, 4 * width),
        }
    return shapes | _pair(f"{prefix}.norm", width)


def _blip_text_shapes(network: Blip) -> Shapes:
    width, inner, prefix = network.text.width, network.intermediate, "blip.text_encoder"
    shapes: Shapes = {
        f"{prefix}.embeddings.word_embeddings.weight": (network.vocabulary, width),
        f"{prefix}.embeddings.position_embeddings.weight": (network.positions, width),
        **_pair(f"{prefix}.embeddings.LayerNorm", width),
    }
    for layer in range(network.text.layers):
        block = f"{prefix}.encoder.layer.{layer}"
        for attention, inputs in (("attention", width), ("crossattention", network.vision.width)):
            shapes |= {
                **_pair(f"{block}.{attention}.self.query", width, width),
                **_pair(f"{block}.{attention}.self.key", width, inputs),
                **_pair(f"{block}.{attention}.self.value", width, inputs),
                **_pair(f"{block}.{attention}.output.dense", width, width),
                **_pair(f"{block}.{attention}.output.LayerNorm", width),
            }
        shapes |= {
            **_pair(f"{block}.intermediate.dense", inner, width),
            **_pair(f"{block}.output.dense", width, inner),
            **_pair(f"{block}.output.LayerNorm", width),
        }
    return shapes


def head_shapes(prefix: str = "") -> Shapes:
    """The five linear layers that ImageReward and the aesthetic predictor end in."""
    places = zip((0, 2, 4, 6, 7), HEAD_WIDTHS[1:], HEAD_WIDTHS[:-1], strict=True)
    return {
        key: shape
        for place, outputs, inputs in places
        for key, shape in _pair(f"{prefix}layers.{place}", outputs, inputs).items()
    }


_RENAMED = (
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("token_embedding.", "text_model.embeddings.token_embedding."),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
    ("transformer.resblocks.", "text_model.encoder.layers."),
)
_INNER = (
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".c_fc.", ".fc1."),
    (".c_proj.", ".fc2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
)


def to_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's CLIP keys to those of a Hugging Face CLIPModel."""
    result = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_projection.weight": state["text_projection"].T.contiguous(),
    }
    for key in state.keys() - {"logit_scale", "visual.proj", "text_projection"}:
        old, new = next(pair for pair in _RENAMED if key.startswith(pair[0]))
        name = new + key.removeprefix(old)
        for inner, outer in _INNER:
            name = name.replace(inner, outer)
        if ".attn.in_proj_" not in name:
            result[name] = state[key]
            continue
        stem, kind = name.split(".attn.in_proj_")
        for part, chunk in zip("qkv", state[key].chunk(3), strict=True):
            result[f"{stem}.self_attn.{part}_proj.{kind}"] = chunk.contiguous()
    return result


def open_clip_config(network: Clip) -> dict[str, Any]:
    """open_clip's description of a network, as in its `model_configs`."""
    vision, text = network.vision, network.text
    return {
        "embed_dim": network.embedding,
        "vision_cfg": {
            "image_size": network.image_size,
            "layers": vision.layers,
            "width": vision.width,
            "head_width": vision.width // vision.heads,
            "patch_size": network.patch_size,
        },
        "text_cfg": {
            "context_length": network.context_length,
            "vocab_size": network.vocabulary,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
        },
    }
