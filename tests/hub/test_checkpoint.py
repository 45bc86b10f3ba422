"""Reading weights: what is refused and with which words, and how little memory half precision takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.checkpoint import load_weights, read_weights, write_weights
from tgo_pipeline.hub.weight_files import refuse_imposter

STATE = {"a.weight": torch.ones(3, 2).half(), "a.bias": torch.zeros(3), "n": torch.tensor(5)}


def test_types_are_those_of_the_file(tmp_path: Path) -> None:
    write_weights(tmp_path / "model.safetensors", STATE)
    torch.save(STATE, tmp_path / "model.pt")
    torch.save({"state_dict": STATE}, tmp_path / "wrapped.pt")
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("model.safetensors", "model.pt", "wrapped.pt", "old.pth"):
        read = read_weights(tmp_path / name)
        assert {key: value.dtype for key, value in read.items()} == {
            key: value.dtype for key, value in STATE.items()
        }


def test_weights_become_the_type_of_the_module(tmp_path: Path) -> None:
    module = nn.Linear(2, 3, device="meta")
    load_weights(module, {"weight": STATE["a.weight"], "bias": STATE["a.bias"]}, tmp_path / "x")
    assert module.weight.dtype == torch.float32 and module.weight.device.type == "cpu"
    assert torch.equal(module.weight, torch.ones(3, 2))


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {
        "0.weight": torch.ones(3, 3),
        "0.bias": torch.zeros(3),
        "1.bias": torch.zeros(1, dtype=torch.int64),
        "2.weight": torch.ones(1),
    }
    with pytest.raises(TgoError) as refused:
        load_weights(module, state, Path("weights.pt"))
    message = str(refused.value)
    assert message.startswith("weights.pt does not fit the network")
    assert "it lacks 1.weight" in message
    assert "it has unknown 2.weight" in message
    assert "another shape for 0.weight (3, 3) instead of (3, 2)" in message
    assert "no numbers of the kind of 1.bias (torch.float32)" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:c57a38fb\nsize 1972490005\n",
            "is a Git LFS pointer of 7. bytes.*git lfs pull",
        ),
        (b"\n<!DOCTYPE html>\n<html><head><title>404</title>", "is a web page, not weights"),
        (b"<html>\r\n<body>Sign in</body></html>", "is a web page, not weights"),
    ],
)
def test_what_often_lies_under_the_name_of_weights(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "HPS_v2.1_compressed.pt"
    path.write_bytes(content)
    with pytest.raises(TgoError, match=reason):
        refuse_imposter(path)


@pytest.mark.parametrize("name", ["model.pt", "old.pth", "model.safetensors"])
def test_a_truncated_file_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    state = {"weight": torch.randn(100, 100)}
    if name == "model.safetensors":
        write_weights(path, state)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "model.pt")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TgoError, match=rf"{name} cannot be read as weights .*download it again") as refused:
        read_weights(path)
    assert "\n" not in str(refused.value)


class Code:
    """Something that is not a tensor; unpickling it would import this module."""


def test_a_pickle_with_code_is_not_run_and_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1), "config": Code()}, tmp_path / "model.pt")
    with pytest.raises(TgoError, match=r"holds more than tensors.*Code.*plain state dict") as refused:
        read_weights(tmp_path / "model.pt")
    assert "\n" not in str(refused.value) and "weights_only" not in str(refused.value)


@pytest.mark.parametrize("content", [[torch.ones(1)], {"weight": 1.0}, torch.ones(2)])
def test_what_is_no_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(TgoError, match="is not a state dict"):
        read_weights(tmp_path / "model.pt")


MEASURE = """
import re, sys, torch
from pathlib import Path
from torch import nn
from tgo_pipeline.hub import cache
from tgo_pipeline.rewards.base import empty
from tgo_pipeline.hub.checkpoint import load_weights, read_weights

def anonymous_mb():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

source = Path(sys.argv[1])
torch.zeros(1) + 1
before = anonymous_mb()
peak = [before]
converted = cache.as_safetensors(source)
peak.append(anonymous_mb())
module = empty(lambda: nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(40)))
state = {key: value for key, value in read_weights(converted).items()}
original = torch.Tensor.to
def to(*args, **kwargs):
    result = original(*args, **kwargs)
    peak.append(anonymous_mb())
    return result
torch.Tensor.to = to
load_weights(module, state, converted)
del state
print(max(peak) - before, sum(p.numel() * 4 for p in module.parameters()) / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_half_precision_loads_with_little_more_memory_than_the_network_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 MB of halves to a network of 160 MB: converting and loading together take no more than 176."""
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "cache"))
    state = {f"{index}.weight": torch.randn(1024, 1024).half() for index in range(40)}
    torch.save({"state_dict": state}, tmp_path / "model.pt")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "model.pt")],
        capture_output=True,
        text=True,
        check=True,
    )
    peak_mb, network_mb = map(float, done.stdout.split())
    assert network_mb == 160
    assert peak_mb < 1.1 * network_mb
