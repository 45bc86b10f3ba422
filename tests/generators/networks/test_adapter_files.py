"""Adapters in every layout: used whole or refused, and taken off to the last module."""

from __future__ import annotations

import copy
import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.generators.guided import ATTENTION, BUILDERS, Family, record_call
from tests.generators.networks.test_parts import edit, rewrite, same
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import guided_pipeline, load_pipeline
from tgo_pipeline.generators.adapters import attach, detach
from tgo_pipeline.generators.location import module_fingerprint
from tgo_pipeline.generators.merge import merge
from tgo_pipeline.generators.networks.adapter_files import scaled

WEIGHTS = "pytorch_lora_weights.safetensors"
Snapshot = dict[str, tuple[type, dict[str, torch.Tensor], dict[str, bool], list[str]]]


def snapshot(pipeline: Any) -> Snapshot:
    """Names, modules and tensors of all networks, and which weights want gradients."""
    return {
        name: (
            type(part),
            {key: tensor.clone() for key, tensor in part.state_dict().items()},
            {key: weight.requires_grad for key, weight in part.named_parameters()},
            [f"{key} {type(module).__name__}" for key, module in part.named_modules()],
        )
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }


def assert_unchanged(pipeline: Any, before: Snapshot) -> None:
    now = snapshot(pipeline)
    assert now.keys() == before.keys()
    for name, (kind, tensors, wants, modules) in before.items():
        assert now[name][0] is kind
        assert now[name][2:] == (wants, modules)
        assert now[name][1].keys() == tensors.keys()
        assert all(torch.equal(now[name][1][key], tensor) for key, tensor in tensors.items())
        assert not getattr(getattr(pipeline, name), "peft_config", None)


def with_text(family: Family, folder: Path) -> Path:
    """The SD family's positive adapter by the names of a pipeline, with a part for the text encoder."""
    folder.mkdir(parents=True)
    encoder = load_pipeline(str(family.base)).text_encoder
    state = {f"unet.{name}": tensor for name, tensor in load_file(family.positive / WEIGHTS).items()}
    for name, module in encoder.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            key = f"text_encoder.text_model.{name}"
            state[f"{key}.lora_A.weight"] = torch.randn(2, module.in_features)
            state[f"{key}.lora_B.weight"] = torch.randn(module.out_features, 2)
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    return folder


@pytest.mark.parametrize("name", list(BUILDERS))
def test_a_merge_leaves_the_pipeline_of_the_caller_as_it_was(
    name: str, families: Callable[[str], Family], tmp_path: Path
) -> None:
    family = families(name)
    base = load_pipeline(str(family.base))
    before = snapshot(base)
    merge(base, family.positive, family.negative, strength=0.5, output=tmp_path / "adapter")
    assert_unchanged(base, before)
    merge(base, family.positive, family.full_negative, strength=0.5, output=tmp_path / "whole")
    assert_unchanged(base, before)
    load_pipeline(str(tmp_path / "adapter"))
    merged = load_pipeline(str(tmp_path / "whole"))
    assert snapshot(merged)[family.component][3] == before[family.component][3]


def test_a_part_for_the_text_encoder_wraps_nothing_and_is_announced(
    sd: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = load_pipeline(str(sd.base))
    before = snapshot(base)
    folder = with_text(sd, tmp_path / "text")
    guided = guided_pipeline(base, folder, strength=1.0)
    assert "its part for text_encoder is not used" in caplog.text
    assert snapshot(guided)["text_encoder"][3] == before["text_encoder"][3]
    merge(str(sd.base), folder, sd.full_negative, strength=0.5, output=tmp_path / "whole")
    assert same(load_pipeline(str(tmp_path / "whole")).text_encoder, load_pipeline(str(sd.base)).text_encoder)


def test_a_base_with_an_adapter_on_its_text_encoder(sd: Family, tmp_path: Path) -> None:
    tuned = with_text(sd, tmp_path / "tuned")
    (tuned / "tgo.json").write_text(json.dumps({"method": "lora", "base": str(sd.base)}))
    loaded = load_pipeline(str(tuned))
    assert loaded.text_encoder.peft_config.keys() == {"default_0"}
    with pytest.raises(TgoError, match="adapter on its text_encoder, which a merged adapter cannot hold"):
        merge(str(tuned), sd.negative, strength=0.5, output=tmp_path / "adapter")
    merge(str(tuned), sd.full_negative, strength=0.5, output=tmp_path / "whole")
    whole = load_pipeline(str(tmp_path / "whole"))
    prompt = "a cat", "cpu", 1, False
    torch.testing.assert_close(
        whole.encode_prompt(*prompt)[0], loaded.encode_prompt(*prompt)[0], atol=1e-5, rtol=1e-5
    )


def test_a_part_for_a_text_encoder_that_the_model_has_not_is_refused(sd: Family, tmp_path: Path) -> None:
    tuned = with_text(sd, tmp_path / "tuned")
    (tuned / "tgo.json").write_text(json.dumps({"method": "lora", "base": str(sd.base)}))
    rewrite(
        tuned / WEIGHTS,
        lambda tensors: tensors | {"text_encoder_2.text_model.q_proj.lora_A.weight": torch.zeros(2, 2)},
    )
    with pytest.raises(TgoError, match="has a part for text_encoder_2, and the model has no text_encoder_2"):
        load_pipeline(str(tuned))


def test_a_module_that_does_not_fit_takes_all_off(sd: Family, tmp_path: Path) -> None:
    base = load_pipeline(str(sd.base))
    before = snapshot(base)
    wrong = Path(shutil.copytree(sd.negative, tmp_path / "wrong"))
    rewrite(wrong / WEIGHTS, lambda tensors: {**tensors, "mid_block.nix.lora_A.weight": torch.zeros(2, 2)})
    with pytest.raises(TgoError, match=r"no place for mid_block\.nix\.lora_A"):
        guided_pipeline(base, sd.positive, wrong, strength=1.0)
    assert_unchanged(base, before)


def test_adapters_of_the_caller_stay(sd: Family) -> None:
    base = load_pipeline(str(sd.base))
    attach(base, sd.positive / WEIGHTS, "mine")
    base.unet.set_adapter(["mine"])
    before = {key: tensor.clone() for key, tensor in base.unet.state_dict().items()}
    attach(base, sd.negative / WEIGHTS, "other")
    detach(base.unet, "other")
    assert base.unet.active_adapters() == ["mine"]
    assert base.unet.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in base.unet.state_dict().items())


MISFITS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "half of a layer": (
        lambda t: {name: each for name, each in t.items() if name != next(n for n in t if "lora_B" in n)},
        "the file lacks .*lora_B.weight",
    ),
    "a layer of another model": (
        lambda t: {**t, "far.lora_A.weight": torch.zeros(2, 2), "far.lora_B.weight": torch.zeros(2, 2)},
        "no place for far.lora_A.weight, far.lora_B.weight",
    ),
    "another part": (
        lambda t: {f"controlnet.{name}": each for name, each in t.items()},
        "holds no adapter for the unet",
    ),
    "DoRA of another program": (
        lambda t: {**t, f"{next(iter(t)).removesuffix('.lora_A.weight')}.dora_scale": torch.ones(2)},
        "is a DoRA in a layout that diffusers reads without its scales",
    ),
    "nothing": (lambda t: {}, "holds no adapter"),
}


@pytest.mark.parametrize("what", list(MISFITS))
def test_an_adapter_that_would_be_used_in_part_is_refused(what: str, sd: Family, tmp_path: Path) -> None:
    change, reason = MISFITS[what]
    folder = Path(shutil.copytree(sd.positive, tmp_path / "adapter"))
    rewrite(folder / WEIGHTS, change)
    (folder / "tgo.json").write_text(json.dumps({"method": "lora", "base": str(sd.base)}))
    base = load_pipeline(str(sd.base))
    before = snapshot(base)
    with pytest.raises(TgoError, match=reason):
        attach(base, folder / WEIGHTS, "adapter")
    assert_unchanged(base, before)
    with pytest.raises(TgoError, match=reason):
        load_pipeline(str(folder))


OPTIONS: dict[str, dict[str, Any]] = {
    "alpha": {"r": 4, "lora_alpha": 16},
    "patterns": {"r": 4, "lora_alpha": 2, "rank_pattern": {"to_k": 2}, "alpha_pattern": {"to_q": 32}},
    "rslora": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "dora": {"r": 4, "lora_alpha": 8, "use_dora": True},
}


def peft_folder(network: Any, folder: Path, **options: Any) -> Any:
    """Write what peft's `save_pretrained` does; the tuned network as peft has it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=list(ATTENTION), init_lora_weights=False, **options)
    tuned = get_peft_model(copy.deepcopy(network), config)
    tuned.save_pretrained(folder)
    return tuned


@pytest.mark.parametrize("options", list(OPTIONS))
@pytest.mark.parametrize("name", ["sd", "flux", "meissonic"])
def test_the_folder_of_peft_answers_as_peft_does(
    name: str, options: str, families: Callable[[str], Family], tmp_path: Path
) -> None:
    family = families(name)
    base = load_pipeline(str(family.base))
    args, kwargs, _ = record_call(family.network(base), base)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tuned = peft_folder(family.network(base), tmp_path / "peft", **OPTIONS[options])
    with torch.no_grad():
        expected = tuned(*args, **kwargs)
        for module in (tmp_path / "peft", tmp_path / "peft" / "adapter_model.safetensors"):
            guided = guided_pipeline(str(family.base), module, strength=1.0)
            answer = family.network(guided)(*args, **kwargs)
            first = [each if isinstance(each, torch.Tensor) else each[0] for each in (answer, expected)]
            torch.testing.assert_close(*first, atol=1e-5, rtol=1e-5)


def test_the_fingerprint_of_a_folder_of_peft_follows_its_scale(sd: Family, tmp_path: Path) -> None:
    peft_folder(load_pipeline(str(sd.base)).unet, tmp_path / "peft", r=4, lora_alpha=8)
    before = module_fingerprint(str(tmp_path / "peft"))
    edit(tmp_path / "peft" / "adapter_config.json", lora_alpha=16)
    assert module_fingerprint(str(tmp_path / "peft")) != before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA': only LORA"),
        ({"bias": "all"}, "bias is 'all', which changes weights of the model itself"),
        ({"modules_to_save": ["conv_in"]}, r"modules_to_save is \['conv_in'\]"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": "four"}, "adapter"),
        (None, "has no adapter_config.json beside it"),
    ],
)
def test_a_folder_of_peft_that_cannot_be_used(
    changes: dict[str, Any] | None, reason: str, sd: Family, tmp_path: Path
) -> None:
    peft_folder(load_pipeline(str(sd.base)).unet, tmp_path / "peft", r=4, lora_alpha=8)
    config = tmp_path / "peft" / "adapter_config.json"
    config.unlink() if changes is None else edit(config, **changes)
    with pytest.raises(TgoError, match=reason) as refused:
        guided_pipeline(str(sd.base), tmp_path / "peft", strength=1.0)
    assert "\n" not in str(refused.value)


def of_other_programs(network: Any, encoder: Any, file: Path) -> tuple[Any, Any]:
    """Write an adapter by kohya's names whose layers have ranks and alphas of their own, or no alpha.

    Returns the two networks with the product of the matrices added to their weights by hand.
    """
    rank = itertools.cycle([1, 2, 4])
    alpha = itertools.cycle([4.0, 0.5, None, 2.0])
    state: dict[str, torch.Tensor] = {}
    tuned = copy.deepcopy(network), copy.deepcopy(encoder)
    places = (
        ("lora_unet_", tuned[0], ("to_q", "to_v", "to_out.0", "conv1")),
        ("lora_te_text_model_", tuned[1], ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")),
    )
    for prefix, part, endings in places:
        for name, layer in part.named_modules():
            if not name.endswith(endings):
                continue
            key, r, a = prefix + name.replace(".", "_"), next(rank), next(alpha)
            down, up = torch.randn(r, *layer.weight.shape[1:]) * 0.2, torch.randn(len(layer.weight), r) * 0.2
            layer.weight.data += ((a or r) / r * up @ down.flatten(1)).view(layer.weight.shape)
            state[f"{key}.lora_down.weight"] = down
            state[f"{key}.lora_up.weight"] = up.reshape(*up.shape, *[1] * (down.ndim - 2))
            if a is not None:
                state[f"{key}.alpha"] = torch.tensor(a)
    file.parent.mkdir(exist_ok=True)
    save_file(state, file, {"format": "pt"})
    return tuned


def test_every_layer_has_the_alpha_that_the_file_gives_it(sd: Family, tmp_path: Path) -> None:
    base = load_pipeline(str(sd.base))
    args, kwargs, _ = record_call(base.unet, base)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tuned = of_other_programs(base.unet, base.text_encoder, tmp_path / "kohya" / WEIGHTS)
    with torch.no_grad():
        expected, read = tuned[0](*args, **kwargs)[0], tuned[1](ids)[0]
        guided = guided_pipeline(str(sd.base), tmp_path / "kohya", strength=1.0)
        torch.testing.assert_close(guided.unet(*args, **kwargs)[0], expected, atol=1e-5, rtol=1e-4)
        (tmp_path / "kohya" / "tgo.json").write_text(json.dumps({"method": "lora", "base": str(sd.base)}))
        loaded = load_pipeline(str(tmp_path / "kohya"))
        torch.testing.assert_close(loaded.unet(*args, **kwargs)[0], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(loaded.text_encoder(ids)[0], read, atol=1e-5, rtol=1e-4)
        assert (read - base.text_encoder(ids)[0]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("alphas", "reason"),
    [
        ({"transformer.a.alpha": math.nan}, "transformer.a.alpha is nan"),
        ({"transformer.b.alpha": 2.0}, "transformer.b.alpha belongs to no layer of the file"),
    ],
)
def test_an_alpha_that_says_nothing_is_refused(alphas: dict[str, float], reason: str) -> None:
    state = {"transformer.a.lora_A.weight": torch.ones(2, 3), "transformer.a.lora_B.weight": torch.ones(3, 2)}
    with pytest.raises(ValueError, match=reason):
        scaled(state, alphas)


def test_alphas_of_the_pipelines_own_names() -> None:
    state = {"transformer.a.lora_A.weight": torch.ones(2, 3), "transformer.a.lora_B.weight": torch.ones(3, 2)}
    found = scaled(state, {"transformer.a.alpha": torch.tensor(3.0)})
    assert torch.equal(found["transformer.a.lora_B.weight"], torch.full((3, 2), 1.5))
    assert torch.equal(found["transformer.a.lora_A.weight"], torch.ones(2, 3))


def test_an_adapter_of_numbers_that_are_none_is_refused_in_one_line(
    sd: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(sd.positive, tmp_path / "adapter"))
    first = next(iter(load_file(folder / WEIGHTS)))
    rewrite(folder / WEIGHTS, lambda t: {**t, first: t[first] * math.nan})
    with pytest.raises(TgoError, match=r"holds NaN or infinity \(.*lora_.*\): its training has diverged"):
        merge(str(sd.base), folder, strength=1.0, output=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    rewrite(folder / WEIGHTS, lambda t: {**t, "far.lora_A.weight": torch.zeros(2, 2)})
    with pytest.raises(TgoError):
        guided_pipeline(str(sd.base), folder, strength=1.0)
    assert not [record for record in caplog.records if record.name.startswith("diffusers")]
