"""Device, memory, disk and versions: what is said of machines that are not this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.doctor.conftest import Doctor
from tests.doctor.toy import write_params
from tgo_pipeline.doctor.device import Gpu, about_gpu, about_precision, about_processes
from tgo_pipeline.doctor.findings import Finding
from tgo_pipeline.doctor.resources import about_shared, available_bytes, training_disk, training_memory
from tgo_pipeline.params import FineTuneParams, LoraParams

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
BUILT_FOR = ["sm_75", "sm_80", "sm_86", "sm_90", "compute_90"]


def gpu(capability: tuple[int, int] = (9, 0), free_bytes: int = 70_000_000_000) -> Gpu:
    return Gpu(0, "NVIDIA X", capability, free_bytes, 80_000_000_000, has_bf16=capability[0] >= 8)


def levels(findings: object) -> list[str]:
    return [finding.level for finding in findings if isinstance(finding, Finding)]  # type: ignore[attr-defined]


@without_gpu
@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (None, "cuda is asked for, but there is no NVIDIA driver"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue\n", "cannot use driver 470.57.02"),
    ],
)
def test_cuda_without_a_driver_that_torch_can_use(
    doctor: Doctor, project: Path, monkeypatch: pytest.MonkeyPatch, driver: str | None, message: str
):
    file = project.parent / "driver"
    if driver is not None:
        file.write_text(driver)
    monkeypatch.setattr("tgo_pipeline.doctor.device.DRIVER", file)
    write_params(project, runtime={"device": "cuda"})
    shown = doctor()
    assert shown.code == 2
    if torch.version.cuda is None:
        assert "is built without CUDA" in shown.line
    else:
        assert message in shown.line


def test_a_device_that_torch_does_not_know(doctor: Doctor, project: Path):
    write_params(project, runtime={"device": "quantum"})
    shown = doctor()
    assert shown.code == 2
    assert "fail runtime.device: device 'quantum' cannot be used by torch here" in shown.line


def test_fp16_on_a_cpu(doctor: Doctor, project: Path):
    write_params(project, fine_tune={"precision": "fp16"})
    shown = doctor()
    assert shown.code == 2
    assert "fail fine_tune.precision: fp16 needs a GPU" in shown.line


def test_a_gpu_that_is_free_busy_too_old_or_too_new():
    assert levels(about_gpu(gpu(), BUILT_FOR)) == ["ok"]
    assert levels(about_gpu(gpu(free_bytes=1), BUILT_FOR)) == ["ok", "warn"]
    assert levels(about_gpu(gpu((8, 9)), BUILT_FOR)) == ["ok"]  # runs code for 8.6
    assert levels(about_gpu(gpu((7, 0)), BUILT_FOR)) == ["ok", "fail"]
    assert levels(about_gpu(gpu((12, 0)), BUILT_FOR)) == ["ok"]  # by the intermediate code
    assert levels(about_gpu(gpu((12, 0)), BUILT_FOR[:-1])) == ["ok", "fail"]
    assert levels(about_gpu(gpu(), ["gfx90a"])) == ["ok"]


def test_precision():
    assert levels(about_precision("bf16", "cuda", [gpu()])) == ["ok"]
    assert levels(about_precision("bf16", "cuda", [gpu(), gpu((7, 5))])) == ["fail"]
    assert levels(about_precision("fp16", "cuda", [gpu((7, 5))])) == ["ok"]
    assert levels(about_precision("bf16", "cpu", [])) == ["note"]


def test_processes():
    assert levels(about_processes(1, 0, 4)) == ["ok"]
    assert levels(about_processes(5, 0, 4)) == ["warn"]
    assert levels(about_processes(2, 1, 4)) == ["warn"]
    assert levels(about_processes(1, 8, 4)) == ["note"]
    assert levels(about_processes(8, 8, 4)) == ["ok"]


def test_shared_memory():
    assert levels(about_shared(64 << 20, several=True, count=1)) == ["ok"]
    assert levels(about_shared(64 << 20, several=True, count=2)) == ["warn"]
    assert levels(about_shared(0, several=True, count=0)) == ["fail"]
    assert levels(about_shared(0, several=False, count=0)) == ["ok"]


def test_needs_are_counted_in_float32():
    parts = {"transformer": 100, "vae": 10}
    full = FineTuneParams()
    assert training_memory(parts, full).size_bytes == 4 * 100 * 4
    assert training_memory(parts, FineTuneParams(ema=0.9)).size_bytes == 5 * 100 * 4
    assert training_memory(parts, FineTuneParams(optimizer="adafactor")).size_bytes == 2 * 100 * 4
    assert training_disk(parts, full).size_bytes == (2 * 3 * 100 + 110) * 4
    assert training_disk(parts, FineTuneParams(method="lora", lora=LoraParams())).size_bytes == 0


def test_a_full_disk(doctor: Doctor, monkeypatch: pytest.MonkeyPatch):
    real = shutil.disk_usage

    def full(path: Path) -> object:
        return real(path)._replace(free=60_000_000)

    monkeypatch.setattr("tgo_pipeline.doctor.resources.shutil.disk_usage", full)
    shown = doctor()
    assert shown.code == 2
    assert (
        "fail disk: 60 MB free; checkpoints and the tuned model (images come on top) take at least"
        in shown.line
    )


def test_a_container_has_what_it_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    most, now = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr("tgo_pipeline.doctor.resources.CONTAINER", {most: now})
    free = available_bytes()
    most.write_text("max\n")
    now.write_text("900\n")
    assert free is not None
    assert (available_bytes() or 0) > free / 2
    most.write_text("1000\n")
    assert available_bytes() == 100


def pretend(folder: Path, name: str, version: str, *lines: str) -> None:
    """Metadata of an installed package."""
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir(parents=True)
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]
    (place / "METADATA").write_text("\n".join(head) + "\n")


def test_versions_that_are_not_what_is_needed(doctor: Doctor, project: Path, monkeypatch: pytest.MonkeyPatch):
    site = project.parent / "site"
    pretend(site, "pyyaml", "1.0")
    pretend(site, "torchvision", "0.99", "Requires-Dist: torch (==1.0)")
    needs = [
        "Requires-Dist: pyyaml>=6",
        "Requires-Dist: not-there>=2,<3",
        "Requires-Dist: nor-this; extra == 'dev'",
    ]
    pretend(site, "tgo_pipeline", "0.1.0", "Requires-Python: >=99", *needs)
    monkeypatch.syspath_prepend(str(site))
    (project / "constraints.txt").write_text("pyyaml==6.0.2\nnot-there==2.0\n# comment\n")
    shown = doctor()
    assert shown.code == 2
    assert "and tgo-pipeline needs >=99" in shown.line
    assert "fail pyyaml: 1.0 is outside >=6: pip install 'pyyaml>=6'" in shown.line
    assert "fail not-there: is not installed: pip install 'not-there<3,>=2'" in shown.line
    assert "nor-this" not in shown.line
    assert "fail torchvision: 0.99 is built for torch ==1.0, found" in shown.line
    assert (
        "note constraints.txt: 1 packages are of another version than the tested one: pyyaml 1.0 (tested 6.0.2)"
        in shown.line
    )
