"""Sources on the hub: asked of a stand-in of it, looked for in the cache where there is no way to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.doctor.conftest import Doctor
from tests.doctor.hub_server import SHA, HubServer, Repo
from tests.doctor.toy import ROOT, UNET, VAE, Shown, write_model, write_params
from tgo_pipeline.doctor.hub.findings import pipeline_files
from tgo_pipeline.doctor.hub.urls import size_at
from tgo_pipeline.hub.errors import Unavailable
from tgo_pipeline.rewards.files.releases import OPENAI_L14

PICKAPIC = "pickapic:hf:org/pickapic"
PARQUET = "data/train-00000-of-00001-0123456789abcdef.parquet"
MODEL = {
    "model_index.json": 500,
    "unet/diffusion_pytorch_model.safetensors": 3_000_000_000,
    "unet/diffusion_pytorch_model.fp16.safetensors": 1_500_000_000,
    "unet/diffusion_pytorch_model.bin": 3_000_000_000,
    "vae/diffusion_pytorch_model.bin": 300_000_000,
    "safety_checker/model.safetensors": 1_200_000_000,
    "v1-5-pruned.safetensors": 7_000_000_000,
}
OFFICIAL = {"model.safetensors": OPENAI_L14.size_bytes or 0, "config.json": 4000}
REPOS = {
    "org/model": Repo(MODEL),
    "org/gated": Repo(MODEL, gated=True),
    "org/slow": Repo(MODEL, delay_s=30),
    "org/ill": Repo(MODEL, status=503),
    "org/other": Repo({"README.md": 10}),
    "org/pickapic": Repo({PARQUET: 10**9, "data/test_unique-00000-of-00001.parquet": 10**6}),
    "org/pickscore": Repo({"pytorch_model.bin": 10**6, "config.json": 10, "merges.txt": 5}),
    OPENAI_L14.place.repo: Repo(OFFICIAL, {"model.safetensors": "0" * 64}, (OPENAI_L14.place.revision,)),  # type: ignore[union-attr]
}
PARAMS = {
    "model": "org/model",
    "revision": SHA,
    "prompts": {
        "train": f"{PICKAPIC}@COMMIT/train",
        "test": {"other": f"{PICKAPIC}@{SHA}/validation", "rows": f"hf:org/pickapic@{SHA}/train"},
    },
    "generate": {"source": "images", "images": f"{PICKAPIC}@{SHA}/train"},
    "score": {"rewards": {"pickscore": f"org/pickscore@{SHA}", "clip": None}},
    "evaluate": {
        "models": {
            "gated": f"org/gated@{SHA}",
            "slow": f"org/slow@{SHA}",
            "ill": f"org/ill@{SHA}",
            "other": f"org/other@{SHA}",
            "gone": f"org/gone@{SHA}",
            "old": "org/model@v9",
            "moving": "org/model@main",
        }
    },
}


def ask(project: Path, hub: HubServer, token: str = "") -> Shown:
    """`tgo doctor` in a process of its own, for which `hub` is the hub."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
    }
    environment |= {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(project.parent / "hf"),
        "HF_HUB_ETAG_TIMEOUT": "3",
    }
    environment |= {"PYTHONPATH": str(ROOT), **({"HF_TOKEN": token} if token else {})}
    done = subprocess.run(
        [sys.executable, "-m", "stages.cli", "doctor"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stderr == ""
    return Shown(done.returncode, done.stdout)


def test_what_the_hub_says_of_every_source(project: Path):
    write_params(project, **PARAMS)
    with HubServer(REPOS) as hub:
        shown = ask(project, hub)
        assert not (project.parent / "hf" / "hub").exists()
    assert shown.code == 2
    said = shown.line
    assert f"ok endpoint: {hub.endpoint} can be reached, without a token." in said
    assert f"ok model: org/model@{SHA}: about 3.3 GB to download." in said
    assert (
        "fail evaluate.models.gated: org/gated is gated and the hub did not let you in: accept its licence on"
        in said
    )
    assert "`hf auth login`" in said
    assert f"fail evaluate.models.slow: {hub.endpoint}/org/slow is out of reach" in said
    assert f"fail evaluate.models.ill: {hub.endpoint}/org/ill: the hub answered with status 503" in said
    assert f"fail evaluate.models.other: org/other@{SHA} has no model_index.json" in said
    assert "fail evaluate.models.gone: the hub has no repository org/gone, or you may not read it" in said
    assert "fail evaluate.models.old: org/model has no revision " in said
    assert "warn evaluate.models.moving: org/model at main may change between two runs: pin a commit." in said
    assert f"note evaluate.models.moving: the newest commit of org/model is {SHA}." in said
    assert "replace COMMIT by the commit that you pin" in said
    assert f"note prompts.train: the newest commit of org/pickapic is {SHA}." in said
    assert "fail prompts.test.other:" in said
    assert "there is no split 'validation'" in said
    assert f"ok prompts.test.rows: org/pickapic@{SHA}: 2 file(s), streamed" in said
    assert f"ok generate.images: org/pickapic@{SHA}: 1 file(s), streamed" in said
    assert f"ok score.rewards.pickscore: org/pickscore@{SHA}: 1 MB to download." in said
    assert f"has the sha256 {'0' * 64}, and {OPENAI_L14.sha256} was expected" in said
    assert "hf/hub go 5.01 GB." in said  # 3.3 of the model, once, 1.71 of CLIP, 0.001 of PickScore
    assert all(request.startswith(("GET /api/", "HEAD ")) for request in hub.requests)
    assert len(hub.requests) == len(set(hub.requests))


def test_a_token_that_is_let_in(project: Path):
    write_params(project, model="org/gated", revision=SHA)
    with HubServer({"org/gated": Repo(MODEL, gated=True, let_in="friend")}) as hub:
        shown = ask(project, hub, token="friend")
    assert shown.code == 0, shown.text
    assert "can be reached, with a token." in shown.line


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def keep(cache: Path, repository: str, revision: str) -> Path:
    """The folder of the cache for a repository at a revision."""
    return cache / f"models--{repository.replace('/', '--')}" / "snapshots" / revision


def test_offline_everything_is_looked_for_in_the_cache(
    doctor: Doctor, project: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    write_model(keep(cache, "org/model", SHA))
    write_params(
        project,
        model="org/model",
        revision=SHA,
        prompts={"train": f"{PICKAPIC}@{SHA}/train", "test": {"plain": "demo:plain"}},
        score={"rewards": {"pickscore": f"org/pickscore@{SHA}"}},
    )
    shown = doctor()
    assert shown.code == 2
    assert "note endpoint: HF_HUB_OFFLINE is set" in shown.line
    assert f"unet {UNET:,}, vae {VAE:,}." in shown.line
    assert "the cache has no config.json, model.safetensors or pytorch_model.bin" in shown.line
    assert f"fail prompts.train: org/pickapic@{SHA} is streamed from the hub: name a local copy" in shown.line


def test_without_a_way_to_the_hub_what_is_cached_will_do(
    doctor: Doctor, project: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    with HubServer() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    write_params(project, model="org/model", revision=SHA)
    missing = doctor()
    assert missing.code == 2
    assert "warn endpoint: http://127.0.0.1" in missing.line
    assert "cannot be reached (127.0.0.1 is out of reach: Connection refused)" in missing.line
    assert (
        f"fail model: org/model@{SHA} is not in the cache: download it where there is a network"
        in missing.line
    )
    write_model(keep(cache, "org/model", SHA))
    assert doctor().code == 0


def test_an_official_file_in_the_cache_that_is_not_what_was_released(
    doctor: Doctor, project: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = keep(cache, OPENAI_L14.place.repo, OPENAI_L14.place.revision)  # type: ignore[union-attr]
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (folder / name).write_text("{}")
    write_params(project, score={"rewards": {"pickscore": "demo", "clip": None}})
    shown = doctor()
    assert shown.code == 2
    assert "fail score.rewards.clip:" in shown.line
    assert f"instead of {OPENAI_L14.sha256}" in shown.line


def test_a_file_at_a_url_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (tmp_path / "weights").write_bytes(b"x" * 12)
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.command)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        assert size_at(f"{base}/weights", 5) == 12
        with pytest.raises(Unavailable, match="not found"):
            size_at(f"{base}/gone", 5)
        server.shutdown()
    assert set(asked) == {"HEAD"}


def test_a_pipeline_is_loaded_from_safetensors_without_variant():
    names = [
        *MODEL,
        "text_encoder/model-00001-of-00002.safetensors",
        "unet/model.onnx",
        "unet/flax_model.msgpack",
    ]
    assert pipeline_files(names) == [
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model.bin",
    ]


def test_a_part_in_half_precision_alone_is_loaded_from_that():
    names = [
        "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/model.ema.safetensors",
    ]
    assert pipeline_files(names) == ["vae/diffusion_pytorch_model.bin", *names[:2]]
