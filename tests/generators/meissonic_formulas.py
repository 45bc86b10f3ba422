"""Meissonic written down once more from its formulas, in numpy and float64, on a state dict of the published names."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray


class Meissonic:
    """`__call__` gives the logits (B, codebook_size, H, W); `weights` are arrays by their published names."""

    def __init__(self, weights: dict[str, Array], config: dict[str, Any]) -> None:
        self.w, self.config = weights, config

    def __call__(self, tokens: Array, states: Array, pooled: Array, timestep: Array, micro: Array) -> Array:
        condition = self.condition(pooled, timestep, micro)
        text = self.rms(self.linear(states, "context_embedder"), "encoder_proj_layer_norm")
        image = self.pixelwise(
            self.rms(self.w["embed.embeddings.weight"][tokens], "embed.layer_norm"), "embed.conv"
        )
        if self.config["downsample"]:
            image = self.halve(self.rms(image, "down_block.downsample.norm"))
        rows, columns = image.shape[1:3]
        image = image.reshape(len(image), rows * columns, -1)
        image = self.linear(self.rms(image, "project_to_hidden_norm"), "project_to_hidden")
        rotation = self.rotation(text.shape[1], rows, columns)
        for number in range(self.config["num_layers"]):
            text, image = self.two_streams(f"transformer_blocks.{number}", text, image, condition, rotation)
        both = np.concatenate([text, image], 1)
        for number in range(self.config["num_single_layers"]):
            both = self.one_stream(f"single_transformer_blocks.{number}", both, condition, rotation)
        image = both[:, text.shape[1] :]
        image = self.linear(self.rms(image, "project_from_hidden_norm"), "project_from_hidden")
        image = image.reshape(len(image), rows, columns, -1)
        if self.config["upsample"]:
            image = self.double(self.rms(image, "up_block.upsample.norm"))
        hidden = self.rms(self.pixelwise(image, "mlm_layer.conv1"), "mlm_layer.layer_norm")
        return self.pixelwise(hidden, "mlm_layer.conv2").transpose(0, 3, 1, 2)

    def condition(self, pooled: Array, timestep: Array, micro: Array) -> Array:
        sizes = np.stack([sinusoid(row).reshape(-1) for row in micro])
        told = self.two_layers(np.concatenate([pooled, sizes], 1), "cond_embed")
        time = self.two_layers(sinusoid(1000 * timestep), "time_text_embed.timestep_embedder")
        return time + self.two_layers(told, "time_text_embed.text_embedder")

    def two_streams(self, at: str, text: Array, image: Array, condition: Array, rotation: Array) -> Any:
        of_image = self.modulation(f"{at}.norm1", condition, 6)
        of_text = self.modulation(f"{at}.norm1_context", condition, 6)
        from_text = self.heads(modulated(text, *of_text[:2]), f"{at}.attn", "add_{}_proj", "norm_added_{}")
        from_image = self.heads(modulated(image, *of_image[:2]), f"{at}.attn", "to_{}", "norm_{}")
        seen = self.attention([from_text, from_image], rotation)
        length = text.shape[1]
        image = image + of_image[2] * self.linear(seen[:, length:], f"{at}.attn.to_out.0")
        text = text + of_text[2] * self.linear(seen[:, :length], f"{at}.attn.to_add_out")
        image = image + of_image[5] * self.feed_forward(modulated(image, *of_image[3:5]), f"{at}.ff")
        text = text + of_text[5] * self.feed_forward(modulated(text, *of_text[3:5]), f"{at}.ff_context")
        return text, image

    def one_stream(self, at: str, both: Array, condition: Array, rotation: Array) -> Array:
        shift, scale, gate = self.modulation(f"{at}.norm", condition, 3)
        x = modulated(both, shift, scale)
        seen = self.attention([self.heads(x, f"{at}.attn", "to_{}", "norm_{}")], rotation)
        hidden = gelu(self.linear(x, f"{at}.proj_mlp"))
        return both + gate * self.linear(np.concatenate([seen, hidden], 2), f"{at}.proj_out")

    def modulation(self, at: str, condition: Array, parts: int) -> list[Array]:
        return np.split(self.linear(silu(condition), f"{at}.linear")[:, None], parts, axis=2)

    def heads(self, x: Array, at: str, projection: str, norm: str) -> tuple[Array, Array, Array]:
        """Queries, keys and values (B, S, heads, width), the first two normalised."""
        width = self.config["attention_head_dim"]
        q, k, v = (
            self.linear(x, f"{at}.{projection.format(name)}").reshape(*x.shape[:2], -1, width)
            for name in "qkv"
        )
        return self.rms(q, f"{at}.{norm.format('q')}"), self.rms(k, f"{at}.{norm.format('k')}"), v

    def attention(self, streams: list[tuple[Array, Array, Array]], rotation: Array) -> Array:
        q, k, v = (np.concatenate(each, 1) for each in zip(*streams, strict=True))
        q, k = rotate(q, rotation), rotate(k, rotation)
        scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return np.einsum("bhqk,bkhd->bqhd", scores, v).reshape(*q.shape[:2], -1)

    def rotation(self, text_length: int, rows: int, columns: int) -> Array:
        """(S, width / 2) angles: none for the text, then those of (0, row, column) on the axes' own dimensions."""
        places = [(0, 0, 0)] * text_length + [(0, r, c) for r in range(rows) for c in range(columns)]
        angles = [
            np.outer(np.array(places)[:, axis], 10000.0 ** (-np.arange(0, width, 2) / width))
            for axis, width in enumerate(self.config["axes_dims_rope"])
        ]
        return np.concatenate(angles, 1)

    def feed_forward(self, x: Array, at: str) -> Array:
        return self.linear(gelu(self.linear(x, f"{at}.net.0.proj")), f"{at}.net.2")

    def two_layers(self, x: Array, at: str) -> Array:
        return self.linear(silu(self.linear(x, f"{at}.linear_1")), f"{at}.linear_2")

    def linear(self, x: Array, at: str) -> Array:
        return x @ self.w[f"{at}.weight"].T + self.w.get(f"{at}.bias", 0.0)

    def pixelwise(self, x: Array, at: str) -> Array:
        return x @ self.w[f"{at}.weight"][:, :, 0, 0].T

    def rms(self, x: Array, at: str) -> Array:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * self.w[f"{at}.weight"]

    def halve(self, x: Array) -> Array:
        """(B, H, W, C) to (B, H/2, W/2, C): each 2x2 block by its own matrices."""
        blocks = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1)
        return np.einsum("byixjc,ocij->byxo", blocks, self.w["down_block.downsample.conv.weight"])

    def double(self, x: Array) -> Array:
        """(B, H, W, C) to (B, 2H, 2W, C)."""
        blocks = np.einsum("byxc,coij->byixjo", x, self.w["up_block.upsample.conv.weight"])
        return blocks.reshape(len(x), 2 * x.shape[1], 2 * x.shape[2], -1)


def sinusoid(values: Array) -> Array:
    """(N, 256): 128 cosines, then 128 sines, of frequencies from 1 down to 1 / 10000."""
    angles = values[:, None] * 10000.0 ** (-np.arange(128) / 128)
    return np.concatenate([np.cos(angles), np.sin(angles)], 1)


def rotate(x: Array, angles: Array) -> Array:
    """Neighbouring pairs of the last dimension as complex numbers, turned by the angles."""
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[None, :, None]
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)


def modulated(x: Array, shift: Array, scale: Array) -> Array:
    return layer_norm(x) * (1 + scale) + shift


def layer_norm(x: Array) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    """The tanh approximation."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
