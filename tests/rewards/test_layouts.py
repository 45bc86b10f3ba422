"""Finding a reward's files, and the fingerprint of their content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.rewards import tiny
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import REWARDS, fingerprint, load_reward
from tgo_pipeline.rewards.layouts import LAYOUTS, locate


def test_every_reward_has_a_layout() -> None:
    assert list(LAYOUTS) == list(REWARDS)


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
        "import sys, tgo_pipeline.rewards.stage, stages.score\n"
        "sys.exit(str({'torch', 'pyarrow', 'polars', 'transformers', 'open_clip'} & set(sys.modules)) != 'set()')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
