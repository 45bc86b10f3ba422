"""Weights of a reward in other forms: shards, half precision alone, the names of a wrapped network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hub_server import HubServer
from tests.rewards import tiny
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards import fingerprint, load_reward
from tgo_pipeline.rewards.files.layouts import local_weight_files
from tgo_pipeline.rewards.specs import Spec
from tgo_pipeline.scoring.memory import groups

REWARDS = ("pickscore", "hpsv2.1", "imagereward", "aesthetic", "clip")
SHA = "a" * 40
Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "cache"))


def weight_file(name: str, folder: Path) -> Path:
    return folder / ("ImageReward.safetensors" if name == "imagereward" else "model.safetensors")


def shard(file: Path, suffix: str = "safetensors") -> None:
    """Cut a safetensors file in two, of either kind."""
    tensors = load_file(file)
    names = list(tensors)
    stem = "pytorch_model" if suffix == "bin" else file.stem
    places: dict[str, str] = {}
    for index, part in enumerate((names[::2], names[1::2])):
        target = file.with_name(f"{stem}-{index + 1:05d}-of-00002.{suffix}")
        content = {name: tensors[name] for name in part}
        torch.save(content, target) if suffix == "bin" else save_file(content, target)
        places |= dict.fromkeys(part, target.name)
    file.with_name(f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": places}))
    file.unlink()


def halve(file: Path) -> None:
    save_file(
        {name: t.half() for name, t in load_file(file).items()},
        file.with_name(f"{file.stem}.fp16.safetensors"),
    )
    file.unlink()


def wrap(file: Path) -> None:
    save_file({f"module._orig_mod.{name}": tensor for name, tensor in load_file(file).items()}, file)


def scores(name: str, folder: Path) -> np.ndarray:
    return load_reward(name, str(folder)).score(
        [tiny.smooth_image(40, 32), tiny.smooth_image(32, 50)], ["a cat", "red"]
    )


@pytest.mark.parametrize("change", [shard, halve, wrap], ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_scores_as_from_its_own_file(
    name: str, change: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny.write(name, tmp_path / "a")
    expected, before = scores(name, folder), fingerprint(name, str(folder))
    files = [weight_file(name, folder)] + [
        file for file in [folder / "clip/model.safetensors"] if file.is_file()
    ]
    for file in files:
        change(file)
    rtol = 0.02 if change is halve else 1e-5  # where tensors lie in memory, products may round otherwise
    np.testing.assert_allclose(scores(name, folder), expected, rtol)
    assert fingerprint(name, str(folder)) != before
    said = {halve: "only the variant fp16", wrap: "read without module., _orig_mod."}.get(change)
    assert said is None or said in caplog.text


def test_shards_of_pickles_too(tmp_path: Path) -> None:
    folder = tiny.write("pickscore", tmp_path / "a")
    expected = scores("pickscore", folder)
    shard(folder / "model.safetensors", "bin")
    np.testing.assert_allclose(scores("pickscore", folder), expected, rtol=1e-5)


def test_a_changed_shard_changes_the_fingerprint(tmp_path: Path) -> None:
    folder = tiny.write("clip", tmp_path / "a")
    shard(folder / "model.safetensors")
    before = fingerprint("clip", str(folder))
    first = load_reward("clip", str(folder)).identity["sha256"]
    file = folder / "model-00001-of-00002.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    assert fingerprint("clip", str(folder)) != before
    assert load_reward("clip", str(folder)).identity["sha256"] != first


def test_shards_count_in_memory(tmp_path: Path) -> None:
    folder = tiny.write("pickscore", tmp_path / "a")
    numbers = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    shard(folder / "model.safetensors")
    specs = {name: Spec(name, "pickscore", str(folder)) for name in ("a", "b")}
    for budget, together in ((2 * 4 * numbers + 8, 1), (2 * 4 * numbers - 8, 2)):
        runtime = RuntimeParams(device="cpu", score_memory_gb=budget / 1e9)
        assert len(groups(specs, "fp32", runtime)) == together


def test_broken_shards_are_named(tmp_path: Path) -> None:
    folder = tiny.write("pickscore", tmp_path / "a")
    shard(folder / "model.safetensors")
    assert len(local_weight_files("pickscore", str(folder))) == 2
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        TgoError, match=r"model\.safetensors\.index\.json names 2 files, and model-00002-of-00002"
    ):
        load_reward("pickscore", str(folder))


@pytest.mark.parametrize("change", [shard, halve], ids=lambda each: each.__name__)
def test_a_repository_in_another_form(change: Callable[[Path], None], hub: HubServer, tmp_path: Path) -> None:
    folder = tiny.write("aesthetic", tmp_path / "a")
    expected = scores("aesthetic", folder)
    for file in ("model.safetensors", "clip/model.safetensors"):
        change(folder / file)
    for path in folder.rglob("*"):
        if path.is_file():
            hub.files[f"org/aesthetic/{SHA}/{path.relative_to(folder)}"] = path.read_bytes()
    reward = load_reward("aesthetic", f"org/aesthetic@{SHA}")
    found = reward.score([tiny.smooth_image(40, 32), tiny.smooth_image(32, 50)], ["a cat", "red"])
    np.testing.assert_allclose(found, expected, rtol=0.02 if change is halve else 1e-5)
