"""The table of devices."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.parsing import read_data
from tgo_pipeline.planning import gpus
from tgo_pipeline.planning.gpus import device, devices, utilisation


def test_hours_follow_from_peak_and_utilisation() -> None:
    gpu = device("h100")
    assert gpu.hours(989e12 * 3600 * utilisation()["half"], "bf16") == pytest.approx(1)
    assert gpu.hours(67e12 * 3600 * utilisation()["single"], "fp32") == pytest.approx(1)


def test_the_processor_is_measured() -> None:
    here = device("cpu")
    assert here.half_tflops == here.single_tflops > 0


def test_an_unknown_gpu_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(TgoError, match=r"'A100'.*Did you mean .*A100-80.*RTX4090"):
        device("A100")


def test_every_device_has_its_source_and_is_found_by_its_name_in_any_case() -> None:
    for name, listed in devices().items():
        assert "NVIDIA" in listed.source
        assert device(name.lower()) == listed


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIE"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000ADA"),
        ("NVIDIA GeForce RTX 5090", "RTX5090"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA A100-PCIE-40GB", "A100-40"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("Tesla T4", "T4"),
    ],
)
def test_what_torch_calls_a_gpu_is_found_in_the_table(
    monkeypatch: pytest.MonkeyPatch, title: str, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: title)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80e9))
    found = device(None)
    assert (found.name, found.memory_gb) == (name, 80)


@pytest.mark.parametrize(
    "title", ["NVIDIA L400", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA GeForce RTX 4090 D"]
)
def test_a_gpu_of_another_name_is_asked_for(monkeypatch: pytest.MonkeyPatch, title: str) -> None:
    """Not taken for one whose name is part of its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: title)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=20e9))
    with pytest.raises(
        TgoError, match=rf"{title}, is not in the table.*--gpu-tflops N .*--gpu-memory 20, or name"
    ):
        device(None)


def test_a_gpu_is_described_by_its_rate_and_memory() -> None:
    gpu = device("X9000", 200, 64)
    assert (gpu.name, gpu.half_tflops, gpu.memory_gb) == ("X9000", 200, 64)
    for rate, memory in ((200, None), (None, 64)):
        with pytest.raises(TgoError, match="described by both"):
            device(None, rate, memory)


def test_no_two_devices_share_a_name() -> None:
    titles = [title for each in devices().values() for title in each.calls]
    assert len(set(titles)) == len(titles) and all(each.calls for each in devices().values())


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("half_tflops: 10", "half_tflops: 0", r"devices\[0\]\.half_tflops is 0\.0: it must be above 0"),
        ("half: 0.3", "half: 30", r"utilisation\.half is 30: it must be a fraction"),
        (", source: s", "", r"devices\[0\]\.source is missing"),
    ],
)
def test_a_mistake_in_the_table_names_the_file_and_the_place(
    tmp_path: Path, right: str, wrong: str, message: str
) -> None:
    good = (
        "utilisation: {half: 0.3, single: 0.6}\n"
        "devices: [{name: X, half_tflops: 10, single_tflops: 5, memory_gb: 8, source: s}]"
    )
    path = tmp_path / "gpus.yaml"
    path.write_text(good)
    assert read_data(path, gpus._File).devices[0].name == "X"
    path.write_text(good.replace(right, wrong))
    with pytest.raises(TgoError, match=rf"gpus\.yaml: {message}"):
        read_data(path, gpus._File)
