"""What is refused of the variables that a launcher sets, before anything is trained."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fine_tune.distributed import launch
from fine_tune.distributed.processes import Group, _require_own_gpus
from tests.project import ROOT
from tgo_pipeline.errors import TgoError

MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29641"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "2", **MEETING}, "WORLD_SIZE is 2, but RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2, but MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a"}, "WORLD_SIZE is 2, but MASTER_PORT is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2", **MEETING}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"RANK": ""}, "RANK is ''"),
        ({"WORLD_SIZE": "2", "RANK": "-1", **MEETING}, "RANK is '-1'"),
        ({"LOCAL_RANK": "1.5"}, "LOCAL_RANK is '1.5'"),
        ({"WORLD_SIZE": "2", "RANK": "0", **MEETING, "MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"WORLD_SIZE": "2", "RANK": "0", **MEETING, "MASTER_PORT": "99999"}, "MASTER_PORT is '99999'"),
        ({"WORLD_SIZE": "2", "RANK": "0", **MEETING, "LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE is '0'"),
    ],
)
def test_variables_that_no_launcher_sets(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*launch.LOWEST, "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TgoError) as caught:
        launch.size()
    assert said in str(caught.value) and "torchrun" in str(caught.value)


def test_one_process_needs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*launch.LOWEST, "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert launch.size() == 1
    monkeypatch.setenv("WORLD_SIZE", " 1 ")
    assert launch.size() == 1
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", **MEETING}.items():
        monkeypatch.setenv(name, value)
    assert launch.size() == 2


def test_the_stage_says_it_in_one_line(tmp_path: Path) -> None:
    """Through the command line; and a port that something else has."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for variables in (
            {"WORLD_SIZE": "2", **MEETING},
            {"WORLD_SIZE": ""},
            {"WORLD_SIZE": "2", "RANK": "0", **MEETING, "MASTER_PORT": port},
        ):
            done = subprocess.run(
                [sys.executable, "-m", "stages.cli", "run", "fine_tune"],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
            assert done.stderr.splitlines()[-1].startswith("tgo fine_tune: ")


class Meeting(Group):
    """A group whose other processes have said something already."""

    def _all(self, value: Any) -> list[Any]:
        return [value, *OTHERS]


OTHERS = [f"{socket.gethostname()} b", f"{socket.gethostname()} c"]


@pytest.mark.parametrize(
    ("host", "uuid", "said"),
    [
        (None, "a", None),
        (None, "b", "2 of 3 processes have a GPU that is another one's too, the first of them ranks 0 and 1"),
        ("elsewhere", "b", None),
    ],
)
def test_processes_that_share_a_gpu_are_refused(
    host: str | None, uuid: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is known by its machine and its uuid: each of two processes may see one GPU alone, and call it cuda:0."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=uuid))
    if host:
        monkeypatch.setattr(socket, "gethostname", lambda: host)
    group = Meeting(0, 3)
    _require_own_gpus(group, "cpu")
    with pytest.raises(TgoError, match=said) if said else contextlib.nullcontext():
        _require_own_gpus(group, "cuda:0")
