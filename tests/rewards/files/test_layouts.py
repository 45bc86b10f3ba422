"""Finding a reward's files, and the fingerprint of their content."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.rewards import tiny
from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.checkpoint import read_weights
from tgo_pipeline.rewards import fingerprint, load_reward
from tgo_pipeline.rewards.files import releases
from tgo_pipeline.rewards.files.layouts import LAYOUTS, locate


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "cache"))


def test_an_unknown_reward_names_the_known_ones() -> None:
    with pytest.raises(TgoError, match=r"'pick' is not a reward.*Choose from clip, hpsv2.1"):
        load_reward("pick", "demo")


def test_a_missing_folder_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match=r"nowhere does not exist.*med_config.json"):
        locate("imagereward", str(tmp_path / "nowhere"))


def test_a_folder_without_weights_says_which(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match=r"holds no weights, model.safetensors or HPS_v2.1_compressed.pt"):
        locate("hpsv2.1", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "lost"),
    [("pickscore", "config.json"), ("aesthetic", "clip/model.safetensors")],
)
def test_a_missing_companion_is_named(name: str, lost: str, tmp_path: Path) -> None:
    tiny.write(name, tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(TgoError, match=f"lacks {lost}"):
        locate(name, str(tmp_path))


def test_the_oracle_has_no_weights() -> None:
    assert fingerprint("oracle", "demo") == fingerprint("oracle", "demo")
    with pytest.raises(TgoError, match="must be `demo`"):
        fingerprint("oracle", "somewhere")


def test_the_fingerprint_is_that_of_the_files_in_use(tmp_path: Path) -> None:
    tiny.write("hpsv2.1", tmp_path / "a")
    tiny.write("hpsv2.1", tmp_path / "b")
    first = fingerprint("hpsv2.1", str(tmp_path / "a"))
    assert fingerprint("hpsv2.1", str(tmp_path / "b")) == first
    (tmp_path / "a/README.md").write_text("a note")
    assert fingerprint("hpsv2.1", str(tmp_path / "a")) == first
    assert fingerprint("hpsv2.0", str(tmp_path / "a")) != first
    for file in ("merges.txt", "open_clip_config.json"):
        text = (tmp_path / "a" / file).read_text()
        (tmp_path / "a" / file).write_text(text + "\n")
        assert fingerprint("hpsv2.1", str(tmp_path / "a")) != first
        (tmp_path / "a" / file).write_text(text)
    tiny.write("hpsv2.1", tmp_path / "a", seed=1)
    assert fingerprint("hpsv2.1", str(tmp_path / "a")) != first


def test_planning_loads_no_network_library() -> None:
    code = (
        "import sys, tgo_pipeline.scoring.stage, stages.score\n"
        "sys.exit(str({'torch', 'pyarrow', 'polars', 'transformers', 'open_clip'} & set(sys.modules)) != 'set()')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_official_file_of_the_same_length_must_have_the_official_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write("hpsv2.1", tmp_path)
    official = tmp_path / releases.HPSV2_1.file
    (tmp_path / "model.safetensors").rename(official)
    digest = hashlib.sha256(official.read_bytes()).hexdigest()
    known = replace(releases.HPSV2_1, size_bytes=official.stat().st_size)
    layout = LAYOUTS["hpsv2.1"]
    monkeypatch.setitem(LAYOUTS, "hpsv2.1", replace(layout, official={known.file: known}))
    with pytest.raises(TgoError, match="damaged or was changed") as refused:
        locate("hpsv2.1", str(tmp_path))
    assert digest in str(refused.value) and str(known.sha256) in str(refused.value)
    monkeypatch.setitem(
        LAYOUTS, "hpsv2.1", replace(layout, official={known.file: replace(known, sha256=digest)})
    )
    assert locate("hpsv2.1", str(tmp_path)).weights == official
    assert locate("hpsv2.1", str(official)).weights == official


def test_other_weights_under_an_official_name_are_used_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.write("hpsv2.1", tmp_path)
    torch.save({"state_dict": read_weights(tmp_path / "model.safetensors")}, tmp_path / releases.HPSV2_1.file)
    (tmp_path / "model.safetensors").unlink()
    with caplog.at_level(logging.WARNING, "tgo"):
        reward = load_reward("hpsv2.1", str(tmp_path))
        load_reward("hpsv2.1", str(tmp_path / releases.HPSV2_1.file))
    assert caplog.text.count("is not the official file of that name") == 1
    assert reward.identity == {
        "reward": "hpsv2.1",
        "version": str(LAYOUTS["hpsv2.1"].version),
        "source": str(tmp_path),
        "sha256": hashlib.sha256((tmp_path / releases.HPSV2_1.file).read_bytes()).hexdigest(),
        "dtype": "fp32",
    }


@pytest.mark.parametrize(
    ("name", "file", "owner"),
    [
        ("hpsv2.1", "HPS_v2_compressed.pt", "hpsv2.0"),
        ("hpsv2.0", "HPS_v2.1_compressed.pt", "hpsv2.1"),
        ("hpsv2.1", "open_clip_pytorch_model.bin", "clip/laion-h14-hpspad"),
        ("aesthetic", "ImageReward.pt", "imagereward"),
    ],
)
def test_the_official_file_of_another_reward_is_refused(
    name: str, file: str, owner: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(b"weights")
    with pytest.raises(TgoError, match=f"{file} is the official file of {owner}"):
        locate(name, str(tmp_path / file))


def test_a_name_that_many_use_is_no_sign_of_another_reward(tmp_path: Path) -> None:
    tiny.write("imagereward", tmp_path)
    (tmp_path / "ImageReward.safetensors").rename(tmp_path / "model.safetensors")
    assert locate("imagereward", str(tmp_path / "model.safetensors")).weights.name == "model.safetensors"


@pytest.mark.parametrize("file", ["HPS_v2.1_compressed.pt", "model.safetensors"])
def test_a_pointer_instead_of_weights_is_refused(file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(TgoError, match="is a Git LFS pointer"):
        locate("hpsv2.1", str(tmp_path))


def test_errors_about_a_pickle_name_the_file_that_was_given(tmp_path: Path) -> None:
    tiny.write("hpsv2.1", tmp_path)
    state = read_weights(tmp_path / "model.safetensors")
    del state["logit_scale"]
    torch.save(state, tmp_path / "mine.pt")
    with pytest.raises(
        TgoError, match=rf"{re.escape(str(tmp_path))}/mine.pt does not fit.*lacks logit_scale"
    ):
        load_reward("hpsv2.1", str(tmp_path / "mine.pt"))


def test_the_vocabulary_of_bert_is_the_published_one() -> None:
    """The sha256 of bert-base-uncased's vocab.txt, as many projects record it."""
    vocabulary = LAYOUTS["imagereward"].packaged["vocab.txt"]
    digest = hashlib.sha256(vocabulary.read_bytes()).hexdigest()
    assert digest == "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


def test_clip_of_laion_is_the_same_network_as_hpsv2_under_its_own_name(tmp_path: Path) -> None:
    tiny.write("hpsv2.1", tmp_path / "hps")
    shutil.copytree(tmp_path / "hps", tmp_path / "laion")
    (tmp_path / "laion/model.safetensors").rename(tmp_path / "laion/open_clip_model.safetensors")
    hps = load_reward("hpsv2.1", str(tmp_path / "hps"))
    clip = load_reward("clip/laion-h14-hpspad", str(tmp_path / "laion"))
    images, prompts = [tiny.smooth_image(40, 30)] * 2, ["red cat", "blue"]
    assert clip.score(images, prompts).tolist() == hps.score(images, prompts).tolist()
    assert clip.identity["reward"] == "clip/laion-h14-hpspad" and "laion" in clip.scale


def test_clip_always_says_which_clip(tmp_path: Path) -> None:
    reward = load_reward("clip", str(tiny.write("clip", tmp_path)))
    assert reward.identity["reward"] == "clip/openai-l14" and "openai-l14" in reward.scale
    assert fingerprint("clip", str(tmp_path)) == fingerprint("clip/openai-l14", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("clip=demo", "demo"), "names a source already"),
        (("clip", "demo", "cpu", "fp8"), "dtype is 'fp8': it must be one of auto, fp32, fp16"),
        (("clip", "demo", "gpu"), "'gpu' cannot be used by torch"),
        (("clip", "demo", "cpu", torch.bfloat16), "bf16|bfloat16"),
    ],
)
def test_arguments_that_contradict_or_cannot_be(arguments: tuple, reason: str) -> None:
    with pytest.raises(TgoError, match=reason):
        load_reward(*arguments)


def test_a_spec_is_enough(tmp_path: Path) -> None:
    folder = tiny.write("aesthetic", tmp_path)
    spec = load_reward(f"aesthetic={folder}")
    assert spec.score([tiny.smooth_image(30, 30)], prompt="") == load_reward("aesthetic", str(folder)).score(
        [tiny.smooth_image(30, 30)], prompt=""
    )
    assert not any(parameter.requires_grad for parameter in spec.parameters()) and not spec.training
