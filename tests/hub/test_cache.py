"""What is remembered between runs, that it is right, and that nothing depends on it."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub import cache
from tgo_pipeline.hub.checkpoint import read_weights
from tgo_pipeline.storage import fingerprints

LARGE = 5 << 20


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pickle(path: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """A checkpoint of half precision with something besides the weights, as the official HPS file is."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        "weight": torch.randn(64, 48, generator=generator).half(),
        "steps": torch.arange(7),
        "scale": torch.randn((), generator=generator),
    }
    torch.save({"epoch": 3, "state_dict": {**state, "tied": state["weight"]}}, path)
    return state


def test_the_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.location() == tmp_path / "cache"
    monkeypatch.delenv("TGO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.location() == tmp_path / "xdg/tgo-pipeline"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.location() == tmp_path / "home/.cache/tgo-pipeline"


def test_a_large_file_is_hashed_once_in_all_processes(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(LARGE))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert cache.sha256(path) == digest
    (record,) = (folder / "sha256").iterdir()
    stored = json.loads(record.read_text())
    record.write_text(json.dumps({**stored, "sha256": "remembered"}))
    code = f"from pathlib import Path; from tgo_pipeline.hub import cache; print(cache.sha256(Path({str(path)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "remembered"


@pytest.mark.parametrize("change", ["content", "time", "inode"])
def test_a_file_that_changed_is_hashed_again(change: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(LARGE))
    cache.sha256(path)
    stat = path.stat()
    content = os.urandom(LARGE)
    if change == "inode":
        (tmp_path / "new").write_bytes(content)
        os.utime(tmp_path / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        (tmp_path / "new").replace(path)
    else:
        path.write_bytes(content + (b"more" if change == "content" else b""))
        if change == "content":
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_spoilt_record_is_written_anew(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(LARGE))
    digest = cache.sha256(path)
    (record,) = (folder / "sha256").iterdir()
    for spoilt in ("", "[]", '{"sha256": "x"}'):
        record.write_text(spoilt)
        fingerprints._remembered.cache_clear()
        assert cache.sha256(path) == digest


def test_a_pickle_is_converted_once_and_keeps_its_types(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.pt"
    state = pickle(path)
    with caplog.at_level(logging.INFO, "tgo"):
        converted = cache.as_safetensors(path)
        assert cache.as_safetensors(path) == converted
    assert caplog.text.count("to safetensors, once") == 1
    stored = load_file(converted)
    assert stored.keys() == {*state, "tied"}
    assert converted.stat().st_mode & 0o777 == 0o644
    for key, value in state.items():
        assert stored[key].dtype == value.dtype and torch.equal(stored[key], value)
    assert torch.equal(stored["tied"], state["weight"])
    copy = tmp_path / "same content, other name.bin"
    copy.write_bytes(path.read_bytes())
    assert cache.as_safetensors(copy) == converted
    pickle(path, seed=1)
    assert cache.as_safetensors(path) != converted


def test_safetensors_are_used_as_they_are(tmp_path: Path) -> None:
    assert cache.as_safetensors(tmp_path / "model.safetensors") == tmp_path / "model.safetensors"


def test_a_damaged_pickle_leaves_nothing_behind(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "model.pt"
    pickle(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(TgoError, match=r"model.pt cannot be read as weights"):
        cache.as_safetensors(path)
    assert not [file for file in (folder / "weights").iterdir() if file.suffix != ".lock"]


def _convert(path: Path, started: object) -> None:
    started.wait()  # type: ignore[attr-defined]
    cache.as_safetensors(path)


def test_processes_that_convert_at_once_make_one_whole_file(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "model.pt"
    state = pickle(path)
    context = multiprocessing.get_context("fork")
    started = context.Barrier(3)
    processes = [context.Process(target=_convert, args=(path, started)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    (converted,) = (folder / "weights").glob("*.safetensors")
    assert torch.equal(load_file(converted)["weight"], state["weight"])


def test_without_a_cache_everything_works_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file where the folder should be: not even root can write there."""
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "taken"))
    path = tmp_path / "model.pt"
    state = pickle(path)
    big = tmp_path / "big.bin"
    big.write_bytes(os.urandom(LARGE))
    with caplog.at_level(logging.WARNING, "tgo"):
        assert cache.as_safetensors(path) == path
        assert cache.sha256(big) == hashlib.sha256(big.read_bytes()).hexdigest()
        assert cache.folder("files").is_dir()
    assert caplog.text.count("cannot be written") == 1
    assert torch.equal(read_weights(path)["weight"], state["weight"])
