"""ImageReward written down in float64 from its official keys, sharing no code with the networks under test."""

from __future__ import annotations

import math

import numpy as np

Weights = dict[str, np.ndarray]
_erf = np.vectorize(math.erf)


def image_reward(weights: Weights, pixels: np.ndarray, tokens: np.ndarray, heads: tuple[int, int]) -> float:
    """The score of one prepared image (3, S, S) and its token ids (L,), padding not among them.

    `heads` are those of the image's and of the text's network. BLIP: arXiv:2201.12086; BERT: arXiv:1810.04805.
    """
    hidden = _text(weights, tokens, _vision(weights, pixels, heads[0]), heads[1])[0]
    for place in (0, 2, 4, 6, 7):
        hidden = _linear(weights, f"mlp.layers.{place}", hidden)
    return float((hidden[0] - 0.16717362830052426) / 1.0333394966054072)


def _vision(weights: Weights, pixels: np.ndarray, heads: int) -> np.ndarray:
    stem = "blip.visual_encoder."
    kernel = weights[f"{stem}patch_embed.proj.weight"]
    size, grid = kernel.shape[-1], pixels.shape[-1] // kernel.shape[-1]
    patches = pixels.reshape(3, grid, size, grid, size).transpose(1, 3, 0, 2, 4).reshape(grid * grid, -1)
    embedded = patches @ kernel.reshape(len(kernel), -1).T + weights[f"{stem}patch_embed.proj.bias"]
    x = np.concatenate([weights[f"{stem}cls_token"][0], embedded]) + weights[f"{stem}pos_embed"][0]
    for layer in range(_count(weights, f"{stem}blocks.")):
        block = f"{stem}blocks.{layer}."
        qkv = np.split(_linear(weights, f"{block}attn.qkv", _norm(weights, f"{block}norm1", x, 1e-6)), 3, -1)
        x = x + _linear(weights, f"{block}attn.proj", _attend(*qkv, heads))
        inner = _gelu(_linear(weights, f"{block}mlp.fc1", _norm(weights, f"{block}norm2", x, 1e-6)))
        x = x + _linear(weights, f"{block}mlp.fc2", inner)
    return _norm(weights, f"{stem}norm", x, 1e-6)


def _text(weights: Weights, tokens: np.ndarray, image: np.ndarray, heads: int) -> np.ndarray:
    stem = "blip.text_encoder."
    words = weights[f"{stem}embeddings.word_embeddings.weight"][tokens]
    places = weights[f"{stem}embeddings.position_embeddings.weight"][: len(tokens)]
    x = _norm(weights, f"{stem}embeddings.LayerNorm", words + places, 1e-12)
    for layer in range(_count(weights, f"{stem}encoder.layer.")):
        block = f"{stem}encoder.layer.{layer}."
        for attention, source in (("attention", None), ("crossattention", image)):
            other = x if source is None else source
            part = f"{block}{attention}."
            qkv = [
                _linear(weights, f"{part}self.{n}", y)
                for n, y in (("query", x), ("key", other), ("value", other))
            ]
            seen = _linear(weights, f"{part}output.dense", _attend(*qkv, heads))
            x = _norm(weights, f"{part}output.LayerNorm", x + seen, 1e-12)
        inner = _gelu(_linear(weights, f"{block}intermediate.dense", x))
        x = _norm(
            weights, f"{block}output.LayerNorm", x + _linear(weights, f"{block}output.dense", inner), 1e-12
        )
    return x


def _count(weights: Weights, stem: str) -> int:
    return len({key.removeprefix(stem).split(".")[0] for key in weights if key.startswith(stem)})


def _linear(weights: Weights, key: str, x: np.ndarray) -> np.ndarray:
    return x @ weights[f"{key}.weight"].T + weights[f"{key}.bias"]


def _norm(weights: Weights, key: str, x: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return scaled * weights[f"{key}.weight"] + weights[f"{key}.bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + _erf(x / np.sqrt(2))) / 2


def _attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int) -> np.ndarray:
    q, k, v = (x.reshape(len(x), heads, -1).transpose(1, 0, 2) for x in (query, key, value))
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    mixture = np.exp(logits - logits.max(-1, keepdims=True))
    mixture /= mixture.sum(-1, keepdims=True)
    return (mixture @ v).transpose(1, 0, 2).reshape(len(query), -1)
