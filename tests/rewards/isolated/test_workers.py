"""Rewards in an interpreter of their own: what a user sees of workers that print, fail, crash, hang and run out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import fingerprint, load_reward, score_all, specs
from tgo_pipeline.rewards.isolated.process import TIMEOUT

MODULE = '''
"""Prints wherever it can, and does to an image what its red level says."""

import os
import subprocess
import sys
import time

print("loading ...")
os.write(1, b"\\x00\\xff stray bytes")
subprocess.run(["echo", "from a child"])


def brightness(images, prompts):
    print("scoring", len(images))
    return [act(image, prompt, len(images)) for image, prompt in zip(images, prompts)]


def act(image, prompt, together):
    red, green, blue = image.getpixel((0, 0))
    if red == 201:
        raise ValueError("I cannot\\nread that")
    if red == 202:
        print("about to end", file=sys.stderr, flush=True)
        os._exit(7)
    if red == 203:
        time.sleep(60)
    if red == 204 and together > 1:
        raise MemoryError("no room")
    if red == 205:
        return float("nan")
    if red == 206:
        sys.exit("enough")
    if red == 207:
        os.kill(os.getpid(), 9)
    if red == 208:
        raise MemoryError("no room at all")
    return red + len(prompt) + 1 / 3


brightness.scale = "levels"


class Weighted:
    needs_prompt = False
    typical_range = (0, 255)

    def __init__(self, source, device):
        self.factor, self.files = float(open(source).read()), [source]
        self.packages = ["pillow"]

    def __call__(self, images, prompts):
        return [self.factor * image.getpixel((0, 0))[0] for image in images]


class Sides:
    scale = "pixels"
    parts = {"height": "rows of pixels"}

    def __init__(self, source, device):
        self.packages = ["pillow"]

    def __call__(self, images, prompts):
        for image in images:
            act(image, "", len(images))
        return [(image.width, image.height if image.width != 4 else float("nan")) for image in images]


class Narrow(Sides):
    parts = {"height": "rows of pixels", "depth": "nothing"}


class Broken:
    def __init__(self, source, device):
        raise RuntimeError("no weights here")
'''


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "judge.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return f"worker:python={sys.executable}:judge:brightness"


def pictures(*reds: int) -> list[Image.Image]:
    return [Image.new("RGB", (3 + place, 2), (red, 0, 0)) for place, red in enumerate(reds)]


def test_scores_come_back_exact_whatever_the_package_prints(judge: str) -> None:
    reward = load_reward(judge)
    found = reward.score(pictures(1, 2, 3), ["a", "", "“c”"])
    np.testing.assert_array_equal(found, np.float32([2 + 1 / 3, 2 + 1 / 3, 6 + 1 / 3]))
    assert reward.scale == "levels" and not reward.has_gradient
    assert reward.identity["python"] == sys.version.split()[0]
    assert "judge.py" in reward.identity["sha256"] and "pillow" in reward.identity["packages"]


def test_a_class_gets_its_source_and_says_what_it_read(judge: str, tmp_path: Path) -> None:
    (tmp_path / "factor.txt").write_text("0.5")
    reward = load_reward(judge.replace("brightness", "Weighted=factor.txt"))
    assert reward.score(pictures(10), prompt="").tolist() == [5.0]
    assert (reward.needs_prompt, reward.typical_range) == (False, [0.0, 255.0])
    assert set(reward.identity["sha256"].split(", ")[1].split()) > {"factor.txt"}
    assert reward.identity["packages"].startswith("pillow ") and "," not in reward.identity["packages"]


def test_further_numbers_have_columns_of_their_own(judge: str) -> None:
    name = judge.replace("brightness", "Sides")
    filled = specs.columns({"own": specs.parse(name)})
    assert list(filled) == ["own", "own.height"], "as the file states them: no worker is started"
    scores = score_all({"own": load_reward(name)}, pictures(1, 2, 202, 201), prompt="", parts=True)
    np.testing.assert_array_equal(scores.columns["own"], np.float32([3, 4, np.nan, np.nan]))
    np.testing.assert_array_equal(scores.columns["own.height"], np.float32([2, np.nan, np.nan, np.nan]))
    assert [scores.errors[row].split(" (")[0][:30] for row in (1, 2, 3)] == [
        "own gave nan",
        "own has none: its worker ended",
        "own raised ValueError: I canno",
    ]
    narrow = load_reward(judge.replace("brightness", "Narrow"))
    with pytest.raises(TgoError, match="2 numbers for an image: expected 3, the score and height, depth"):
        narrow.score(pictures(1), prompt="")


def test_an_image_that_fails_costs_its_own_row_and_gets_the_reason(judge: str) -> None:
    scores = score_all({"own": load_reward(judge)}, pictures(1, 201, 3, 205), prompt="")
    assert np.isnan(scores.columns["own"]).tolist() == [False, True, False, True]
    assert scores.errors == {
        1: "own raised ValueError: I cannot read that (judge.py, line 22)",
        3: "own gave nan",
    }


def test_a_worker_that_ends_is_started_again_without_the_image_that_ended_it(judge: str) -> None:
    scores = score_all({"own": load_reward(judge)}, pictures(1, 202, 3, 4), prompt="")
    assert scores.columns["own"].round().tolist()[2:] == [3.0, 4.0]
    assert list(scores.errors) == [1]
    assert "ended with exit code 7; the last that it printed: about to end" in scores.errors[1]


def test_a_worker_that_hangs_is_ended(judge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT, "2")
    scores = score_all({"own": load_reward(judge)}, pictures(1, 203), prompt="")
    assert list(scores.errors) == [1] and "gave no answer in time" in scores.errors[1]
    assert scores.columns["own"][0].round() == 1


def test_where_memory_runs_out_fewer_images_are_asked_for(judge: str) -> None:
    scores = score_all({"own": load_reward(judge)}, pictures(1, 204, 3), prompt="")
    assert not scores.errors and scores.columns["own"].round().tolist() == [1.0, 204.0, 3.0]


def test_an_image_that_no_memory_is_enough_for_costs_its_own_row(judge: str) -> None:
    scores = score_all({"own": load_reward(judge)}, pictures(1, 208, 3), prompt="")
    assert list(scores.errors) == [1] and "raised MemoryError: no room at all (judge.py" in scores.errors[1]
    assert scores.columns["own"].round().tolist()[::2] == [1.0, 3.0]


def test_a_worker_that_the_system_kills_for_its_memory_is_started_again(judge: str) -> None:
    scores = score_all({"own": load_reward(judge)}, pictures(1, 207, 3), prompt="")
    assert list(scores.errors) == [1]
    assert "its worker was ended by signal 9, as when memory runs out" in scores.errors[1]
    assert scores.columns["own"].round().tolist()[::2] == [1.0, 3.0]


def test_a_package_that_wants_to_exit_fails_an_image_alone(judge: str) -> None:
    reward = load_reward(judge)
    reward.score(pictures(1), prompt="")
    scores = score_all({"own": reward}, pictures(206), prompt="")
    assert "SystemExit: enough" in scores.errors[0]


@pytest.mark.parametrize(("red", "said"), [(201, "raised ValueError: I cannot read that"), (205, "gave nan")])
def test_a_reward_that_scores_nothing_at_first_ends_the_run(judge: str, red: int, said: str) -> None:
    with pytest.raises(TgoError, match=said):
        load_reward(judge).score(pictures(red, red), prompt="")


def test_a_worker_that_always_ends_ends_the_run(judge: str) -> None:
    with pytest.raises(TgoError, match=r"exit code 7.*started 3 times and scored nothing in between"):
        load_reward(judge).score(pictures(*[202] * 6), prompt="")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("judge:Broken", "cannot be loaded: RuntimeError: no weights here"),
        ("judge:nothing", "has no attribute 'nothing'"),
        ("absent:thing", "No module named 'absent'"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(judge: str, name: str, said: str) -> None:
    with pytest.raises(TgoError, match=said) as caught:
        load_reward(judge.replace("judge:brightness", name))
    assert "\n" not in str(caught.value)


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)
    return path


def test_what_an_interpreter_prints_before_it_runs_is_passed_over(judge: str, tmp_path: Path) -> None:
    python = script(tmp_path / "python", "echo activating", f'exec "{sys.executable}" "$@"')
    reward = load_reward(judge.replace(sys.executable, str(python)))
    assert reward.score(pictures(1), prompt="").round().tolist() == [1.0]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["echo 'no such licence' >&2", "exit 3"],
            "ended with exit code 3; the last that it printed: no such licence",
        ),
        (["yes"], "it is no Python"),
        (["kill -9 $$"], "ended by signal 9, as when memory runs out"),
    ],
)
def test_what_is_no_python_is_refused(judge: str, tmp_path: Path, lines: list[str], said: str) -> None:
    python = script(tmp_path / "python", *lines)
    with pytest.raises(TgoError, match=said):
        load_reward(judge.replace(sys.executable, str(python)))


def test_the_worker_ends_with_its_parent_however_that_ends(judge: str, tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom tgo_pipeline.rewards import load_reward\n"
        f"reward = load_reward({judge!r})\nprint(reward.function._process._process.pid, flush=True)\ntime.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":  # ended; whoever adopted it has not looked yet
            return
        time.sleep(0.05)
    raise AssertionError("the worker goes on without its parent")


def test_the_fingerprint_follows_the_code_and_the_source(judge: str, tmp_path: Path) -> None:
    (tmp_path / "factor.txt").write_text("0.5")
    names = [judge, judge.replace("brightness", "Weighted=factor.txt")]
    before = [fingerprint(name) for name in names]
    (tmp_path / "factor.txt").write_text("0.7")
    assert [fingerprint(name) == old for name, old in zip(names, before, strict=True)] == [True, False]
    (tmp_path / "judge.py").write_text(MODULE + "\n# changed\n")
    assert fingerprint(judge) != before[0]
