"""The instruction comes from the user's copy of the official file, which is parsed, checked, and never run."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.rewards.vision_language import tiny
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.files import instruction
from tgo_pipeline.rewards.files.instruction import OfficialText, read_instruction, string_constants
from tgo_pipeline.rewards.files.layouts import LAYOUTS

FIRST, SECOND = "\nMark it.  \nWish - {text_prompt}\n{{twice}}", "\n<|Reward|>\n"
SOURCE = (
    f"import nowhere\nINSTRUCTION = {FIRST!r}\nprompt_with_special_token = '''{SECOND}'''\nraise SystemExit\n"
)


def official(package: str | None = None) -> OfficialText:
    """As HPSv3's, with a text of our own."""
    texts = zip(instruction.HPSV3.constants, (FIRST, SECOND), strict=True)
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts}
    return replace(instruction.HPSV3, constants=digests, package=package)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "cache"))


def test_the_text_is_that_of_the_file_to_the_last_blank(tmp_path: Path) -> None:
    path = tmp_path / "data_collator_qwen.py"
    path.write_text(SOURCE)
    found = read_instruction("hpsv3", {path.name: path}, official())
    assert found.before + "X" + found.after == FIRST.format(text_prompt="X") + SECOND


def test_it_is_found_in_the_cache_and_in_the_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site/judging_package"
    (package / "dataset").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(TgoError, match=r"does not ship: .*hpsv3==1\.0\.0.*texts"):
        read_instruction("hpsv3", {}, official("judging_package"))
    (package / "dataset/data_collator_qwen.py").write_text(SOURCE)
    assert read_instruction("hpsv3", {}, official("judging_package")).after.endswith(SECOND)
    (tmp_path / "cache/texts").mkdir(parents=True)
    (tmp_path / "cache/texts/data_collator_qwen.py").write_text(SOURCE)
    assert read_instruction("hpsv3", {}, official()).after.endswith(SECOND)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            SOURCE.replace("Mark it.  ", "Mark it."),
            "INSTRUCTION is not the text that the official scores come from",
        ),
        (SOURCE.replace("INSTRUCTION", "OTHER"), "has no text named INSTRUCTION"),
        (SOURCE.replace("'''", "'''", 1) + "(", "is no Python file"),
        ("\0", "is no Python file"),
    ],
)
def test_another_text_is_refused(source: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "data_collator_qwen.py"
    path.write_text(source)
    with pytest.raises(TgoError, match=reason):
        read_instruction("hpsv3", {path.name: path}, official())


def test_a_text_of_ones_own_has_a_place_for_the_prompt(tmp_path: Path) -> None:
    path = tmp_path / "instruction.txt"
    path.write_bytes(b"No place.\n")
    with pytest.raises(TgoError, match=r"must hold \{text_prompt\} once"):
        read_instruction("hpsv3", {path.name: path}, official())
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TgoError, match="cannot be read as text"):
        read_instruction("hpsv3", {path.name: path}, official())


def test_constants_are_read_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text('A = B = "x" "y"\nif True:\n    C = "inner"\nD = 3\n')
    assert string_constants(path, ["B", "A"]) == {"B": "xy", "A": "xy"}
    with pytest.raises(TgoError, match="no text named C, D"):
        string_constants(path, ["A", "C", "D"])


@pytest.mark.parametrize("name", ["hpsv3", "videoreward"])
def test_without_it_the_reward_says_what_to_get(name: str, tmp_path: Path) -> None:
    if name == "hpsv3":
        tiny.write_hpsv3(tmp_path / "weights")
    else:
        tiny.write_videoreward(tmp_path / "weights", tiny.videoreward_states()[0], lora=False)
    (tmp_path / "weights/instruction.txt").unlink()
    file = {"hpsv3": "data_collator_qwen.py", "videoreward": "prompt_template.py"}[name]
    with pytest.raises(TgoError, match=f"belongs to its authors.*{file}"):
        load_reward(name, str(tmp_path / "weights"))
    assert not (tmp_path / "cache/weights").exists(), "nothing is converted before"
    (tmp_path / "weights" / file).write_text("A = 1\n")
    with pytest.raises(TgoError, match="it is not the official file"):
        load_reward(name, str(tmp_path / "weights"))


def test_the_recorded_hashes_are_of_the_official_texts() -> None:
    assert LAYOUTS["hpsv3"].instruction is instruction.HPSV3
    from tests.rewards.vision_language import golden

    if not golden.FOLDER.is_dir():
        pytest.skip("the recorded hashes are not beside this repository")
    recorded = golden.golden()["hpsv3"]["official_text"]["constants"]
    assert {
        name: recorded[name]["sha256"] for name in instruction.HPSV3.constants
    } == instruction.HPSV3.constants
    text = golden.golden()["videoreward"]["official_text"]
    assert instruction.VIDEOREWARD.constants == {text["constant"]: text["sha256"]}
