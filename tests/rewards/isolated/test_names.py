"""What rewards in an interpreter of their own are called, as a reward and as the source of one."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.isolated import environments
from tgo_pipeline.rewards.specs import Spec, parse, resolve


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("official:hpsv2.1", Spec("hpsv2.1-official", "official:hpsv2.1")),
        (
            "official:imagereward=w/ImageReward.pt",
            Spec("imagereward-official", "official:imagereward", "w/ImageReward.pt"),
        ),
        ("hpsv2.0=official:hpsv2", Spec("hpsv2.0", "official:hpsv2.0")),
        ("hpsv2.1=official:hpsv2:w/HPS.pt", Spec("hpsv2.1", "official:hpsv2.1", "w/HPS.pt")),
        ("worker:python=/e/j:a.b:C.d", Spec("d", "worker:python=/e/j:a.b:C.d")),
        ("worker:python=/e/j:a:C=w:x=1", Spec("C", "worker:python=/e/j:a:C", "w:x=1")),
    ],
)
def test_specs_of_the_command_line(text: str, spec: Spec) -> None:
    assert parse(text) == spec


def test_entries_of_the_parameters() -> None:
    assert resolve("hpsv2.1", "official:hpsv2") == Spec("hpsv2.1", "official:hpsv2.1")
    assert resolve("theirs", "imagereward=official:imagereward") == Spec("theirs", "official:imagereward")
    assert resolve("mine", "worker:python=/e:m:f") == Spec("mine", "worker:python=/e:m:f")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("official:hpsv2", "write official:hpsv2.1 or official:hpsv2.0"),
        ("official:pickscore", "there are official:hpsv2.1"),
        ("pickscore=official:hpsv2", "no source of pickscore"),
        ("imagereward=official:hpsv2", "imagereward=official:imagereward"),
        ("worker:/e:m:f", "not of the form worker:python="),
        ("worker:python=/e:m", "not of the form worker:python="),
    ],
)
def test_what_is_no_name_is_refused(text: str, said: str) -> None:
    with pytest.raises(TgoError, match=said):
        parse(text)


def test_a_second_call_waits_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tgo")
    monkeypatch.setenv("TGO_CACHE", str(tmp_path))
    monkeypatch.setattr(environments, "LOOK_AGAIN_S", 0.02)
    built, going = [], threading.Event()

    def build(environment: environments.Environment, *, overlay: bool) -> Path:
        built.append(overlay)
        going.set()
        while "waiting" not in caplog.text:
            time.sleep(0.01)
        (environment.folder / "bin").mkdir(parents=True)
        for file in (environment.folder / "bin/python", environment.folder / environments.DONE):
            file.touch()
        return environment.folder

    monkeypatch.setattr(environments, "_build", build)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(environments.create, "official-rewards")
        assert going.wait(60)
        second = pool.submit(environments.create, "official-rewards")
        assert first.result(60) == second.result(60) == tmp_path / "environments/official-rewards"
    assert built == [True] and "is being written by another run" in caplog.text
    assert [each.name for each in (tmp_path / "environments").iterdir()] == ["official-rewards"]


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="is not there: name the interpreter"):
        load_reward(f"worker:python={tmp_path / 'no'}:m:f")
    with pytest.raises(TgoError, match="a folder without bin/python"):
        load_reward(f"worker:python={tmp_path}:m:f")


def test_an_environment_that_is_not_built_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGO_CACHE", str(tmp_path))
    monkeypatch.delenv("TGO_ENV_OFFICIAL_REWARDS", raising=False)
    with pytest.raises(TgoError, match="tgo env create official-rewards"):
        load_reward("hpsv2.1", "official:hpsv2")
    with pytest.raises(TgoError, match="no environment 'nothing': there are official-rewards"):
        environments.create("nothing")


def test_an_environment_of_other_versions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGO_CACHE", str(tmp_path))
    monkeypatch.delenv("TGO_ENV_OFFICIAL_REWARDS", raising=False)
    environment = environments.ENVIRONMENTS["official-rewards"]
    before = environments.versions("official-rewards")
    packages = environment.folder / "lib/python3.11/site-packages"
    (packages / "hpsv2-1.1.0.dist-info").mkdir(parents=True)
    (environment.folder / "bin").mkdir()
    (environment.folder / "bin/python").touch()
    (environment.folder / environments.DONE).touch()
    assert environments.versions("official-rewards") == {**before, "hpsv2": "1.1.0"}
    with pytest.raises(TgoError, match=r"has hpsv2 1\.1\.0, not what this version asks for"):
        environments.python("official-rewards")
