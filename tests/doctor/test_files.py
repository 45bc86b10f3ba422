"""Files that the parameters name: missing, cut short, of the wrong kind, without the column."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.doctor.conftest import Doctor
from tests.doctor.toy import PARAMS, UNET, VAE, write_model, write_params
from tgo_pipeline import demo
from tgo_pipeline.doctor import weights
from tgo_pipeline.rewards.files.releases import LAION_AESTHETIC

SHARD = "unet/diffusion_pytorch_model-00002-of-00002.safetensors"
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def forget(index: Path) -> None:
    places = json.loads(index.read_text())
    places["weight_map"]["lost"] = Path(SHARD).name
    index.write_text(json.dumps(places))


def another_variant(file: Path) -> None:
    file.rename(file.with_name("diffusion_pytorch_model.ema.safetensors"))


def change(file: Path, tensors: dict[str, Any]) -> None:
    save_file({**load_file(file), **tensors}, file)


def wrap(file: Path) -> None:
    save_file({f"module._orig_mod.{key}": value for key, value in load_file(file).items()}, file)


def without(file: Path, name: str) -> None:
    save_file({key: value for key, value in load_file(file).items() if key != name}, file)


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
    "config missing": ("vae/config.json", Path.unlink, "vae/config.json cannot be read"),
    "weights missing": (VAE_FILE, Path.unlink, "vae has no weights"),
    "only another variant": (
        VAE_FILE,
        another_variant,
        "there is only diffusion_pytorch_model.ema.safetensors",
    ),
    "tensor left out": (VAE_FILE, lambda file: without(file, "quant_conv.bias"), "it lacks quant_conv.bias"),
    "tensor too many": (
        VAE_FILE,
        lambda file: change(file, {"more": np.zeros(3, np.float32)}),
        "it has unknown more",
    ),
    "names of a wrapper": (VAE_FILE, wrap, "was saved from a wrapped network: its names have module., _orig"),
    "another shape": (
        VAE_FILE,
        lambda file: change(file, {"quant_conv.bias": np.zeros(3, np.float32)}),
        "another shape for quant_conv.bias (3,) instead of (8,)",
    ),
    "whole numbers": (
        VAE_FILE,
        lambda file: change(file, {"quant_conv.bias": np.zeros(8, np.int64)}),
        "no numbers of the kind of quant_conv.bias",
    ),
    "config of other sizes": (
        "vae/config.json",
        lambda file: file.write_text('{"block_out_channels": [8], "norm_num_groups": 2}'),
        "another shape for",
    ),
    "config of a wrong type": (
        "vae/config.json",
        lambda file: file.write_text('{"block_out_channels": "wide"}'),
        "vae/config.json describes no network that can be built",
    ),
    "config nested too deeply": (
        "vae/config.json",
        lambda file: file.write_text("[" * 100_000 + "]" * 100_000),
        "vae/config.json cannot be read as JSON",
    ),
    "part of a wrong type": (
        "model_index.json",
        lambda file: file.write_text(file.read_text().replace('["diffusers", "AutoencoderKL"]', "null")),
        "model_index.json: vae is None, not a library and a class",
    ),
    "index that leads elsewhere": (
        INDEX,
        lambda file: file.write_text(file.read_text().replace(Path(SHARD).name, "../x.safetensors")),
        "is in '../x.safetensors', which is no file beside it",
    ),
    "no index": ("model_index.json", Path.unlink, "has no model_index.json"),
}


def test_a_whole_model(doctor: Doctor, project: Path):
    write_model(project / "sd")
    write_params(project, model="sd")
    shown = doctor()
    assert shown.code == 0, shown.text
    assert f"ok model: sd: unet {UNET:,}, vae {VAE:,}." in shown.line
    # float32: trained numbers with gradient and two moments; two checkpoints of three numbers each, and the result
    assert f"training take at least {4 * 4 * UNET / 1e3:.3g} kB" in shown.line
    assert f"take at least {4 * (2 * 3 * UNET + UNET + VAE) / 1e3:.3g} kB" in shown.line


@pytest.mark.parametrize("what", BROKEN)
def test_a_model_that_is_not_whole(doctor: Doctor, project: Path, what: str):
    file, break_it, message = BROKEN[what]
    break_it(write_model(project / "sd") / file)
    write_params(project, model="sd")
    shown = doctor()
    assert shown.code == 2
    assert message in shown.line
    assert shown.text.count(" fail ") == 1


def test_a_tokenizer_without_its_words(tmp_path: Path):
    folder = Path(shutil.copytree(demo.weights_path("diffusion"), tmp_path / "sd"))
    assert [found.level for found in weights.pipeline("model", folder)] == ["ok"]
    (folder / "tokenizer/tokenizer.json").unlink()
    (found,) = weights.pipeline("model", folder)
    assert (found.level, found.subject) == ("fail", "model, tokenizer")
    assert f"{folder / 'tokenizer'}: it knows 2 words and its text encoder" in found.message


def test_a_model_that_is_read_with_a_note(doctor: Doctor, project: Path):
    model = write_model(project / "sd")
    file = model / VAE_FILE
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    write_params(project, model="sd")
    shown = doctor()
    assert shown.code == 0, shown.text
    assert "note model: sd/vae: there is only the variant fp16 of its weights" in shown.line
    assert f"ok model: sd: unet {UNET:,}, vae {VAE:,}." in shown.line


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
        (["0.png", "1.png"], 0, "ok generate.images: photos: 2 images."),
        (["1.png"], 0, "warn generate.images: photos: 1 of the first 2 images are not there, the first is"),
        ([], 2, "fail generate.images: photos/metadata.csv: none of its files is there"),
    ],
)
def test_images(doctor: Doctor, project: Path, there: list[str], code: int, message: str):
    folder = project / "photos"
    folder.mkdir()
    (folder / "metadata.csv").write_text("file_name,prompt\n0.png,a cat\n1.png,a dog\n")
    for name in there:
        (folder / name).write_bytes(b"x")
    write_params(project, generate={"source": "images", "images": "photos"})
    shown = doctor()
    assert shown.code == code, shown.text
    assert message in shown.line


def test_images_are_all_counted_and_the_first_looked_into(doctor: Doctor, project: Path):
    folder = project / "scans"
    folder.mkdir()
    Image.new("1", (12_000, 8_000)).save(folder / "0.png")
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (folder / "1.heic").write_bytes(heic)
    for number in range(2, 1203):
        (folder / f"{number}.png").symlink_to(folder / "0.png")
        (folder / f"{number}.txt").write_text("a scan")
    write_params(project, generate={"source": "images", "images": "scans"})
    shown = doctor()
    assert shown.code == 0, shown.text
    assert "ok generate.images: scans: 1,203 images." in shown.line
    assert (
        "20 of the first 20 images cannot be used, the first is scans/0.png: 12000 x 8000 pixels"
        in shown.line
    )
    assert "are more than 89 million, the limit (runtime.max_image_megapixels" in shown.line
    write_params(
        project, generate={"source": "images", "images": "scans"}, runtime={"max_image_megapixels": 100}
    )
    assert "1 of the first 20 images cannot be used, the first is scans/1.heic:" in doctor().line


def test_images_that_are_no_source(doctor: Doctor, project: Path):
    write_params(project, generate={"source": "images", "images": "pickapic:gone"})
    shown = doctor()
    assert shown.code == 2
    assert "fail generate.images: pickapic:gone: gone does not exist" in shown.line


def test_feedback_that_people_have_yet_to_give_is_a_warning_where_images_are_sampled(
    doctor: Doctor, project: Path
):
    stars = {"stars": {"source": "ratings.jsonl", "kind": "rating"}}
    write_params(project, score={**PARAMS["score"], "feedback": stars})
    assert "warn score.feedback.stars: ratings.jsonl does not exist" in doctor().line
    answer = {"id": "1", "kind": "rating", "images": ["a"], "value": 4, "rater": "ann"}
    header = {"format": "tgo ratings", "version": 1}
    (project / "ratings.jsonl").write_text(f"{json.dumps(header)}\n{json.dumps(answer)}\n")
    assert "ok score.feedback.stars: ratings.jsonl: 1 ratings of `tgo rate`." in doctor().line
    (project / "ratings.jsonl").unlink()
    write_params(
        project, generate={"source": "images", "images": "x"}, score={**PARAMS["score"], "feedback": stars}
    )
    assert "fail score.feedback.stars: ratings.jsonl does not exist" in doctor().line


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
        f"ok generate.guidance.positive: adapter/pytorch_lora_weights.safetensors: an adapter of {VAE:,}"
        in shown.line
    )
    assert "is an adapter of another/model, not of demo" in shown.line
    assert "fail generate.guidance.negative: model is 'gone', and there is no such folder" in shown.line
