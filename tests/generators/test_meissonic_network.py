"""Meissonic's transformer: the published names and shapes, and its forward pass against its formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.generators.meissonic_formulas import Meissonic
from tests.rounding import assert_same_numbers
from tests.tiny_masked import CODES, GRID, MASK_TOKEN, WIDTH, tiny_meissonic_config
from tgo_pipeline.generators.meissonic_network import MeissonicTransformer2DModel, positions

PUBLISHED = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 14,
    "num_single_layers": 28,
    "attention_head_dim": 128,
    "num_attention_heads": 8,
    "joint_attention_dim": 1024,
    "pooled_projection_dim": 1024,
    "guidance_embeds": False,
    "axes_dims_rope": [16, 56, 56],
    "vocab_size": 8256,
    "codebook_size": 8192,
    "downsample": True,
    "upsample": True,
}


def published_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the published state dict."""
    head = config["attention_head_dim"]
    d = config["num_attention_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    linear("time_text_embed.timestep_embedder.linear_1", 256, d)
    linear("time_text_embed.timestep_embedder.linear_2", d, d)
    linear("time_text_embed.text_embedder.linear_1", config["pooled_projection_dim"], d)
    linear("time_text_embed.text_embedder.linear_2", d, d)
    linear("context_embedder", config["joint_attention_dim"], d)
    linear("cond_embed.linear_1", 1280 + config["pooled_projection_dim"], d, bias=False)
    linear("cond_embed.linear_2", d, d, bias=False)
    linear("project_to_hidden", d, d, bias=False)
    linear("project_from_hidden", d, d, bias=False)
    for norm in ("encoder_proj_layer_norm", "project_to_hidden_norm", "project_from_hidden_norm"):
        shapes[f"{norm}.weight"] = (d,)
    shapes["embed.embeddings.weight"] = (config["vocab_size"], d)
    shapes |= {"embed.layer_norm.weight": (d,), "embed.conv.weight": (d, d, 1, 1)}
    shapes |= {"mlm_layer.conv1.weight": (d, d, 1, 1), "mlm_layer.layer_norm.weight": (d,)}
    shapes["mlm_layer.conv2.weight"] = (config["codebook_size"], d, 1, 1)
    for name in ("down_block.downsample",) * config["downsample"] + ("up_block.upsample",) * config[
        "upsample"
    ]:
        shapes |= {f"{name}.norm.weight": (d,), f"{name}.conv.weight": (d, d, 2, 2)}
    for number in range(config["num_layers"]):
        at = f"transformer_blocks.{number}"
        linear(f"{at}.norm1.linear", d, 6 * d)
        linear(f"{at}.norm1_context.linear", d, 6 * d)
        for name in (
            "to_q",
            "to_k",
            "to_v",
            "add_q_proj",
            "add_k_proj",
            "add_v_proj",
            "to_out.0",
            "to_add_out",
        ):
            linear(f"{at}.attn.{name}", d, d)
        for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            shapes[f"{at}.attn.{norm}.weight"] = (head,)
        for stream in ("ff", "ff_context"):
            linear(f"{at}.{stream}.net.0.proj", d, 4 * d)
            linear(f"{at}.{stream}.net.2", 4 * d, d)
    for number in range(config["num_single_layers"]):
        at = f"single_transformer_blocks.{number}"
        linear(f"{at}.norm.linear", d, 3 * d)
        linear(f"{at}.proj_mlp", d, 4 * d)
        linear(f"{at}.proj_out", 5 * d, d)
        for name in ("to_q", "to_k", "to_v"):
            linear(f"{at}.attn.{name}", d, d)
        for norm in ("norm_q", "norm_k"):
            shapes[f"{at}.attn.{norm}.weight"] = (head,)
    return shapes


def random_weights(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Under the published names; norms scatter around one."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in published_shapes(config).items():
        values = torch.randn(shape, generator=generator) * (0.2 if len(shape) > 1 else 0.3)
        weights[name] = 1 + values if "norm" in name and len(shape) == 1 and "linear" not in name else values
    return weights


def inputs(grid: tuple[int, int] = (GRID, GRID)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(CODES, (3, *grid), generator=generator)
    tokens[torch.rand(tokens.shape, generator=generator) < 0.5] = MASK_TOKEN
    return {
        "hidden_states": tokens,
        "encoder_hidden_states": torch.randn(3, 5, WIDTH, generator=generator),
        "pooled_projections": torch.randn(3, WIDTH, generator=generator),
        "timestep": torch.tensor([0.0, 2.0, 63.0]),
        "micro_conds": torch.tensor([[32.0, 32, 0, 0, 6], [1024, 768, 0, 0, 6], [512, 512, 4, 8, 5.5]]),
    }


@pytest.mark.parametrize("downsample", [True, False])
def test_the_published_model_has_our_names_and_shapes(downsample: bool) -> None:
    config = PUBLISHED | {"downsample": downsample, "upsample": downsample}
    with torch.device("meta"):
        model = MeissonicTransformer2DModel(**config)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == published_shapes(
        config
    )


def test_defaults_are_the_published_configuration() -> None:
    with torch.device("meta"):
        config = json.loads(MeissonicTransformer2DModel().to_json_string())
    assert {name: config[name] for name in PUBLISHED} == PUBLISHED
    assert set(config) == set(PUBLISHED) | {"_class_name", "_diffusers_version"}
    assert config["_class_name"] == "Transformer2DModel"


@pytest.mark.parametrize("downsample", [True, False])
@pytest.mark.parametrize(
    ("grid", "timesteps", "tolerance"), [((8, 8), [0, 0.02, 0.1], 1e-4), ((4, 6), [2, 30, 63], 2e-2)]
)
def test_forward_is_what_the_formulas_say(
    downsample: bool, grid: tuple[int, int], timesteps: list[float], tolerance: float
) -> None:
    """Float32 knows the angle of timestep 63, which is 63000 radians, to no more than 1 / 256; the frequency that it is
    multiplied with is an exponential, off by another unit or two.
    """
    config = tiny_meissonic_config(downsample)
    weights = random_weights(config)
    model = MeissonicTransformer2DModel(**config)
    model.load_state_dict(weights, strict=True)
    given = inputs(grid) | {"timestep": torch.tensor(timesteps)}
    with torch.no_grad():
        logits = model(**given)
    formulas = Meissonic({name: value.double().numpy() for name, value in weights.items()}, config)
    tokens, *others = given.values()
    expected = formulas(tokens.numpy(), *(value.double().numpy() for value in others))
    assert logits.shape == (3, CODES, *grid)
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits.numpy(), expected, atol=tolerance * expected.std(), rtol=0)


def test_one_timestep_serves_the_whole_batch() -> None:
    model = MeissonicTransformer2DModel(**tiny_meissonic_config())
    given = inputs()
    with torch.no_grad():
        one = model(**given | {"timestep": torch.tensor([7])})
        each = model(**given | {"timestep": torch.tensor([7, 7, 7])})
    torch.testing.assert_close(one, each)


@pytest.mark.parametrize("downsample", [True, False])
def test_positions_count_the_halved_grid_if_and_only_if_the_model_halves_it(downsample: bool) -> None:
    model = MeissonicTransformer2DModel(**tiny_meissonic_config(downsample))
    seen: list[torch.Tensor] = []
    model.pos_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(**inputs((4, 6)))
    rows, columns = (2, 3) if downsample else (4, 6)
    expected = [[0, 0, 0]] * 5 + [[0, row, column] for row in range(rows) for column in range(columns)]
    assert seen[0].tolist() == expected
    assert torch.equal(positions(5, rows, columns, torch.device("cpu")), seen[0])


def test_half_precision_does_not_round_the_timestep() -> None:
    """63000 would become 62976, whose sinusoids are others."""
    model = MeissonicTransformer2DModel(**tiny_meissonic_config()).to(torch.bfloat16)
    seen: list[torch.Tensor] = []
    model.time_text_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    given = {name: x.bfloat16() if x.is_floating_point() else x for name, x in inputs().items()}
    with torch.no_grad():
        assert model(**given).dtype == torch.bfloat16
    assert seen[0].dtype == torch.float32
    assert seen[0].tolist() == [0, 2000, 63000]


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    model = MeissonicTransformer2DModel(**tiny_meissonic_config())
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "Transformer2DModel"
    loaded = MeissonicTransformer2DModel.from_pretrained(tmp_path)
    weights = model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    with torch.no_grad():
        assert_same_numbers(model(**inputs()), loaded(**inputs()))


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="pooled_projection_dim is 99 and the network is 16 wide"):
        MeissonicTransformer2DModel(**tiny_meissonic_config() | {"pooled_projection_dim": 99})
    with pytest.raises(ValueError, match=r"\(4, 5\) tokens cannot be halved"):
        MeissonicTransformer2DModel(**tiny_meissonic_config())(**inputs((4, 5)))
