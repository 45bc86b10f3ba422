"""How commands end: interrupted at any moment, on any terminal, in folders that may not be written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from stages.ending import ending
from tests.faults.rights import drop_rights, read_only, require_rights_to_drop
from tests.plugins.modules import project_folder
from tests.project import PROMPTS, ROOT, environment
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.storage.shards import Interrupted

PARAMS = """\
seed: 0
model: demo
revision: null
prompts: {train: prompts.txt, test_fraction: 0.5}
generate: {steps: 2, images_per_prompt: 2}
score: {rewards: {clip: demo}}
target: {reward: clip}
threshold: {}
label: {}
fine_tune: {}
evaluate: {}
report: {}
"""
SIGNS = ("status", "presets", "score --help", "doctor", "run prompts")
"""Commands that print signs of this package's own."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with nothing but its parameters and prompts."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    shutil.copy(ROOT / "dvc.yaml", folder)
    return folder


def start(folder: Path, *words: str, rights: bool = True, **variables: str) -> subprocess.Popen[bytes]:
    """`tgo WORDS` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "stages.cli", *words],
        cwd=folder,
        env={**environment(), "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=None if rights else drop_rights,
    )


def run(folder: Path, *words: str, rights: bool = True, **variables: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `tgo WORDS`."""
    process = start(folder, *words, rights=rights, **variables)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii:strict"])
def test_terminals_that_lack_letters(project: Path, encoding: str) -> None:
    (project / "prompts.txt").write_text("a red ring – τ 😀\n\u202ea blue ring\n", encoding="utf-8")
    for words in (*SIGNS, *(["plan"] if encoding == "cp1252" else [])):
        code, output, errors = run(project, *words.split(), PYTHONIOENCODING=encoding)
        assert "Traceback" not in errors and code in (0, 2), (words, errors)
        assert output or errors


def test_what_a_terminal_lacks_is_spelled(project: Path) -> None:
    code, _, errors = run(project, "status", "--params", "τ–😀.yaml", PYTHONIOENCODING="ascii:strict")
    assert code == 2
    assert errors.startswith("tgo: tau-\\U0001f600.yaml does not exist")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_the_first_second_is_one_line(project: Path, number: int) -> None:
    (project / "data").mkdir()
    commands = (
        "status",
        "plan",
        "doctor",
        "run report",
        "run generate",
        "presets",
        "score x.png --rewards clip=demo",
    )
    codes = []
    for place, words in enumerate(commands):
        process = start(project, *words.split())
        time.sleep(0.08 + 0.1 * place)
        process.send_signal(number)
        errors = process.communicate(timeout=120)[1].decode()
        assert "Traceback" not in errors, errors
        assert process.returncode in (0, 2, 130, -number), errors  # it may have ended, or be about to
        codes.append(process.returncode)
        assert not list(project.rglob(".tmp-*"))
    assert 130 in codes


def test_an_interrupted_stage_says_so_and_leaves_nothing_half_written(project: Path) -> None:
    assert run(project, "run", "prompts")[0] == 0
    for words in ("generate", "evaluate", "report", "threshold"):
        process = start(project, "run", words)
        time.sleep(0.7)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=120)[1].decode()
        assert "Traceback" not in errors, errors
        if process.returncode == 130:
            assert (
                errors.splitlines()[-1].startswith(f"tgo {words}: interrupted") or "before anything" in errors
            )
    assert not list(project.rglob(".tmp-*"))


@pytest.mark.parametrize(("first", "code"), [(Interrupted(), 130), (TgoError("no such file."), 2)])
def test_an_interrupt_on_the_way_out_says_nothing_more(
    first: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, ending("tgo"):
        try:
            with ending("tgo generate"):
                raise first
        finally:
            raise KeyboardInterrupt
    assert ended.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tgo generate: ")


def test_a_folder_that_may_not_be_written_is_named_in_one_line(project: Path, tmp_path: Path) -> None:
    require_rights_to_drop(tmp_path)
    assert run(project, "run", "prompts")[0] == 0
    commands = (
        "run inputs",
        "run prompts",
        "run generate",
        "recipe use sdxl --to x.yaml",
        "demo train --output w",
    )
    with read_only(project):
        for words in commands:
            code, _, errors = run(project, *words.split(), rights=False, HOME="/proc/nowhere", TGO_CACHE="")
            assert code == 2 and "Traceback" not in errors, (words, errors)
            assert "Permission denied" in errors.splitlines()[-1], (words, errors)
        image = "score prompts.txt --rewards clip=demo --prompt x"
        code, _, errors = run(project, *image.split(), rights=False)
        assert code == 2 and "Traceback" not in errors and "Permission denied" in errors
        for words in ("status", "plan", "doctor", "presets"):
            code, output, errors = run(
                project, *words.split(), rights=False, HOME="/proc/nowhere", TGO_CACHE=""
            )
            assert "Traceback" not in errors and output, (words, errors)


def test_nothing_that_is_typed_acts_on_the_terminal(project: Path) -> None:
    for words in (
        ["\x1b[31mx"],
        ["run", "\x1b[31mx"],
        ["status", "--params", "\x1b]0;t\x07\u202e"],
        ["plan", "--gpu\x1b[2J"],
    ):
        code, output, errors = run(project, *words)
        assert code == 2
        assert not {"\x1b", "\x07", "\u202e"} & set(output + errors)


def test_an_interrupt_inside_of_an_import_comes_after_it(tmp_path: Path) -> None:
    """And one that comes out of code in text, as in dataclasses, does not change the exit code."""
    (tmp_path / "slow.py").write_text("import os\nos.kill(os.getpid(), 15)\nprint('imported')\n")
    (tmp_path / "work.py").write_text(
        "from stages.ending import ending\n"
        "with ending('tgo work'):\n"
        "    import slow, time\n"
        "    exec('time.sleep(60)')\n"
    )
    code, output, errors = _ended(tmp_path, "-m", "work")
    assert (code, output) == (130, "imported\n")
    assert errors == "tgo work: interrupted; what was finished is kept, run it again to continue.\n"


def test_an_interrupt_that_waits_for_an_import_does_not_come_after_the_end(tmp_path: Path) -> None:
    (tmp_path / "last.py").write_text("import os\nos.kill(os.getpid(), 15)\n")
    (tmp_path / "work.py").write_text(
        "from stages.ending import ending\n"
        "with ending('tgo work'):\n"
        "    import last\n"
        "import time\n"
        "time.sleep(0.2)\n"
        "print('end')\n"
    )
    assert _ended(tmp_path, "-m", "work") == (0, "end\n", "")


def _ended(folder: Path, *words: str) -> tuple[int, str, str]:
    environ = {**environment(), "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_number_that_no_folder_can_have_takes_no_time(project: Path) -> None:
    assert run(project, "run", "prompts")[0] == 0
    for key, value in (("generate", 100_000_000), ("evaluate", 10**12)):
        text = PARAMS.replace("evaluate: {}", f"evaluate: {{images_per_prompt: {value}}}")
        if key == "generate":
            text = PARAMS.replace("images_per_prompt: 2", f"images_per_prompt: {value}")
        (project / "params.yaml").write_text(text)
        for words in ("status", "plan", f"run {key}"):
            began = time.monotonic()
            code, output, errors = run(project, *words.split(), COLUMNS="1000")
            assert time.monotonic() - began < 60
            assert "Traceback" not in errors and code in (0, 2), (words, errors)
            if key == "generate" and words != "plan":
                assert f"images_per_prompt is {value:,} with" in output + errors, (words, output, errors)


def test_code_of_ones_own_that_ends_the_process_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a command that has done nothing ends with exit code 0."""
    with project_folder(tmp_path, monkeypatch, leaving="def f(images, prompts):\n    raise SystemExit(0)\n"):
        reward = load_reward("leaving:f")
        with pytest.raises(SystemExit) as ended, ending("tgo"):
            reward.score([Image.new("RGB", (8, 8))], ["a"])
    assert ended.value.code == 2
    assert (
        capsys.readouterr().err == "tgo: reward f, leaving.py, line 2: SystemExit: 0 (leaving.py, line 2).\n"
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_lead_nowhere(project: Path, closed: str) -> None:
    command = f"{sys.executable} -m stages.cli presets {closed}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=project, env=environment(), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    opened = (
        "import os, sys; sys.argv[0] = 'tgo'; import stages.begin; "
        "assert os.open('file', os.O_CREAT | os.O_RDWR) > 2; print('heard', flush=True)"
    )
    subprocess.run(
        ["sh", "-c", f'{sys.executable} -c "{opened}" {closed}'], cwd=project, env=environment(), check=True
    )
    assert (project / "file").read_bytes() == b""
