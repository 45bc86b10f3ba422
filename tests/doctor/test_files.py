"""Files that the parameters name: missing, cut short, of the wrong kind, without the column."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.doctor.conftest import Doctor
from tests.doctor.toy import PARAMS, write_model, write_params
from tgo_pipeline.rewards.files.releases import LAION_AESTHETIC

SHARD = "unet/diffusion_pytorch_model-00002-of-00002.safetensors"
INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def forget(index: Path) -> None:
    places = json.loads(index.read_text())
    places["weight_map"]["lost"] = Path(SHARD).name
    index.write_text(json.dumps(places))


def only_variant(file: Path) -> None:
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))


BROKEN: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "cut short": (SHARD, cut, "is damaged or was not copied to its end"),
    "shard missing": (SHARD, Path.unlink, "00002-of-00002.safetensors of them are missing"),
    "tensor missing": (INDEX, forget, "holds lost, which it does not"),
    "index broken": (INDEX, lambda file: file.write_text("{"), "cannot be read as JSON"),
    "lfs pointer": (
        SHARD,
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "is a Git LFS pointer",
    ),
    "config missing": ("vae/config.json", Path.unlink, "vae has no config.json"),
    "weights missing": ("vae/diffusion_pytorch_model.safetensors", Path.unlink, "vae has no weights"),
    "only a variant": (
        "vae/diffusion_pytorch_model.safetensors",
        only_variant,
        "there is only diffusion_pytorch_model.fp16.safetensors",
    ),
    "no index": ("model_index.json", Path.unlink, "has no model_index.json"),
}


def test_a_whole_model(doctor: Doctor, project: Path):
    write_model(project / "sd")
    write_params(project, model="sd")
    shown = doctor()
    assert shown.code == 0, shown.text
    assert "ok model: sd: unet 30, vae 12." in shown.line
    # float32: 30 trained numbers with gradient and two moments; two checkpoints of three numbers each, 42 in the result
    assert "training take at least 0.48 kB" in shown.line
    assert "take at least 0.888 kB" in shown.line


@pytest.mark.parametrize("what", BROKEN)
def test_a_model_that_is_not_whole(doctor: Doctor, project: Path, what: str):
    file, break_it, message = BROKEN[what]
    break_it(write_model(project / "sd") / file)
    write_params(project, model="sd")
    shown = doctor()
    assert shown.code == 2
    assert message in shown.line
    assert shown.text.count(" fail ") == 1


def test_a_model_that_is_no_folder(doctor: Doctor, project: Path):
    write_params(project, model="no/such/folder", evaluate={"models": {"other": "gone"}})
    shown = doctor()
    assert shown.code == 2
    assert "fail model: model is 'no/such/folder', and there is no such folder" in shown.line
    assert "fail evaluate.models.other: model is 'gone'" in shown.line


def test_rewards_that_are_missing_or_not_what_was_released(doctor: Doctor, project: Path):
    (project / "empty").mkdir()
    (project / "head").mkdir()
    (project / "head" / LAION_AESTHETIC.file).write_bytes(b"x" * (LAION_AESTHETIC.size_bytes or 0))
    rewards = {"pickscore": "demo", "clip": "empty", "imagereward": "gone", "aesthetic": "head"}
    write_params(project, score={"rewards": rewards})
    shown = doctor()
    assert shown.code == 2
    assert "ok score.rewards.pickscore: the demo's" in shown.line
    assert "fail score.rewards.clip: reward clip/openai-l14: empty holds no weights" in shown.line
    assert "fail score.rewards.imagereward: reward imagereward: gone does not exist" in shown.line
    assert "is as long as the official file but is not it: its sha256 is" in shown.line
    assert f"that of the official one is {LAION_AESTHETIC.sha256}" in shown.line


def test_a_reward_of_other_weights_is_noted(doctor: Doctor, project: Path):
    (project / "head").mkdir()
    (project / "head" / LAION_AESTHETIC.file).write_bytes(b"other weights")
    write_params(project, score={"rewards": {"pickscore": "demo", "aesthetic": "head"}})
    assert "note score.rewards.aesthetic: head/sac" in doctor().line


def test_prompts(doctor: Doctor, project: Path):
    (project / "texts.csv").write_text("text\na cat\n")
    (project / "empty.txt").write_text("\n\n")
    (project / "parti").mkdir()
    (project / "parti" / "PartiPrompts.tsv").write_text("Prompt\tChallenge\na cat\tBasic\n")
    test = {
        "good": "demo:plain",
        "gone": "gone.txt",
        "empty": "empty.txt",
        "set": "parti:parti",
        "family": "demo:nix",
    }
    write_params(project, prompts={"train": "texts.csv", "test": test})
    shown = doctor()
    assert shown.code == 2
    assert "fail prompts.train: texts.csv has no column 'prompt'; its columns are: text" in shown.line
    assert "fail prompts.test.gone: gone.txt does not exist" in shown.line
    assert "fail prompts.test.empty: empty.txt holds no prompt" in shown.line
    assert "fail prompts.test.set:" in shown.line
    assert "no column 'Category'" in shown.line
    assert "fail prompts.test.family:" in shown.line
    assert "ok prompts.test.good: demo:plain." in shown.line


@pytest.mark.parametrize(
    ("there", "code", "message"),
    [
        (["0.png", "1.png"], 0, "ok generate.images: pictures: 2 images."),
        (["1.png"], 0, "warn generate.images: pictures: 1 of the first 2 images are not there, the first is"),
        ([], 2, "fail generate.images: pictures/metadata.csv: none of its files is there"),
    ],
)
def test_images(doctor: Doctor, project: Path, there: list[str], code: int, message: str):
    folder = project / "pictures"
    folder.mkdir()
    (folder / "metadata.csv").write_text("file_name,prompt\n0.png,a cat\n1.png,a dog\n")
    for name in there:
        (folder / name).write_bytes(b"x")
    write_params(project, generate={"source": "images", "images": "pictures"})
    shown = doctor()
    assert shown.code == code, shown.text
    assert message in shown.line


def test_images_that_are_no_source(doctor: Doctor, project: Path):
    write_params(project, generate={"source": "images", "images": "pickapic:gone"})
    shown = doctor()
    assert shown.code == 2
    assert "fail generate.images: pickapic:gone: gone does not exist" in shown.line


def test_feedback(doctor: Doctor, project: Path):
    (project / "stars.csv").write_text("file_name,stars\n0.png,4\n")
    good = {"source": "stars.csv", "kind": "rating", "value": "stars"}
    feedback = {"good": good, "bad": {**good, "value": "rating"}, "gone": {**good, "source": "gone.csv"}}
    write_params(project, score={**PARAMS["score"], "feedback": feedback})
    shown = doctor()
    assert shown.code == 2
    assert "ok score.feedback.good: stars.csv: ratings in file_name, stars." in shown.line
    assert "fail score.feedback.bad: stars.csv has no column 'rating'" in shown.line
    assert "fail score.feedback.gone: gone.csv does not exist" in shown.line


@pytest.mark.parametrize(
    ("columns", "code", "message"),
    [
        (["prompt_id", "pickscore"], 0, "ok threshold.proxy: other: 1 shards of scores"),
        (["prompt_id", "clip"], 2, "has no column 'pickscore'"),
        ([], 2, "other holds no shards of scores"),
    ],
)
def test_a_proxy_set(doctor: Doctor, project: Path, columns: list[str], code: int, message: str):
    (project / "other").mkdir()
    if columns:
        pq.write_table(
            pa.table({name: ["x"] for name in columns}), project / "other" / "train-00000-of-00001.parquet"
        )
    write_params(project, threshold={"source": "proxy", "proxy": "other"})
    shown = doctor()
    assert shown.code == code, shown.text
    assert message in shown.line


def test_modules_of_a_guidance(doctor: Doctor, project: Path):
    write_model(project / "base")
    adapter = project / "adapter"
    adapter.mkdir()
    (project / "base" / "vae" / "diffusion_pytorch_model.safetensors").rename(
        adapter / "pytorch_lora_weights.safetensors"
    )
    (adapter / "tgo.json").write_text(json.dumps({"method": "lora", "base": "another/model"}))
    write_params(project, generate={"guidance": {"positive": "adapter", "negative": "gone"}})
    shown = doctor()
    assert shown.code == 2
    assert (
        "ok generate.guidance.positive: adapter/pytorch_lora_weights.safetensors: an adapter of 12"
        in shown.line
    )
    assert "is an adapter of another/model, not of demo" in shown.line
    assert "fail generate.guidance.negative: model is 'gone', and there is no such folder" in shown.line
