"""Systems other than Linux, as far as Linux can stand in for them: what they lack is taken away."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.project import run
from tests.rewards.tiny import png, smooth_image

NO_LOCKS = "import sys\nsys.modules['fcntl'] = None\n"
REFUSED = (
    "needs the file locks of POSIX systems (Python's fcntl), which linux lacks: on Windows, install it inside"
)
LIKE_MACOS = """
import multiprocessing, os, resource, select, signal, sys

def require_there(path):
    if str(path).startswith(("/proc", "/sys", "/dev/shm")):
        raise FileNotFoundError(2, "taken away", str(path))

def without(function):
    def found(path, *given, **named):
        require_there(path)
        return function(path, *given, **named)
    return found

for module, names in {
    os: (
        "memfd_create", "sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "pipe2",
        "copy_file_range", "fdatasync", "eventfd", "getxattr", "setxattr", "listxattr", "removexattr", "O_DIRECT",
        "O_TMPFILE", "O_PATH", "O_NOATIME", "pidfd_open", "splice", "process_cpu_count",
    ),
    select: ("epoll",),
    signal: ("sigwaitinfo", "sigtimedwait", "SIGRTMIN", "SIGRTMAX", "SIGPWR"),
    resource: ("prlimit",),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
multiprocessing.set_start_method("spawn")
os.stat, os.lstat = without(os.stat), without(os.lstat)
sys.addaudithook(lambda event, given: require_there(given[0]) if event == "open" else None)
"""


def standing_in(folder: Path, code: str) -> dict[str, str]:
    """Variables with which every Python runs `code` first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}"}


@pytest.mark.parametrize("words", [("cli", "--help"), ("cli", "score", "a.png"), ("score",), ("inputs",)])
def test_without_locks_a_command_says_what_it_needs(tmp_path: Path, words: tuple[str, ...]) -> None:
    variables = standing_in(tmp_path / "site", NO_LOCKS)
    refused = run(
        tmp_path, sys.executable, "-m", f"stages.{words[0]}", *words[1:], ok=False, variables=variables
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"tgo: tgo-pipeline {REFUSED}") and refused.stderr.count("\n") == 1


def test_without_locks_the_library_says_what_it_needs(tmp_path: Path) -> None:
    variables = standing_in(tmp_path / "site", NO_LOCKS)
    refused = run(
        tmp_path, sys.executable, "-c", "import tgo_pipeline.rewards", ok=False, variables=variables
    )
    assert refused.stderr.splitlines()[-1].startswith(f"ImportError: tgo-pipeline {REFUSED}")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_images_are_scored_without_what_linux_alone_has(tmp_path: Path, workers: str) -> None:
    variables = standing_in(tmp_path / "site", LIKE_MACOS)
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(smooth_image(32, 32 + number)))
    scores = {}
    for name, given in (("there", None), ("gone", variables)):
        words = (
            "score",
            "*.png",
            "--prompt",
            "a red circle",
            "--rewards",
            "clip=demo",
            "--out",
            f"{name}.csv",
        )
        run(tmp_path, sys.executable, "-m", "stages.cli", *words, "--workers", workers, variables=given)
        scores[name] = (tmp_path / f"{name}.csv").read_text()
    assert scores["gone"] == scores["there"]
