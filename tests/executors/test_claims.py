"""Claims: one holder at a time, let go at the end, taken over from who is gone or hangs, whatever clocks say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tgo_pipeline.executors import claims as module
from tgo_pipeline.executors.claims import Claims

NAME = "train-00000-of-00002.parquet"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / module.FOLDER).iterdir())


def elsewhere(folder: Path, host: str = "another", process: int = 1) -> Path:
    """A claim of a process that does not beat."""
    path = folder / module.FOLDER / f"{NAME}.claim"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"token": "theirs", "beat": 0, "host": host, "process": process}))
    return path


def test_one_process_holds_a_claim_until_it_lets_go(tmp_path: Path) -> None:
    with Claims(tmp_path) as mine, Claims(tmp_path) as theirs:
        assert mine.take(NAME) and not theirs.take(NAME) and mine.held and not theirs.held
        assert theirs.take("another")
        theirs.release(NAME)
        assert not theirs.take(NAME)
        mine.release(NAME)
        assert theirs.take(NAME)
    assert files(tmp_path) == []


def test_of_many_that_try_at_once_one_gets_it(tmp_path: Path) -> None:
    each = [Claims(tmp_path) for _ in range(8)]
    start, got = threading.Barrier(len(each)), []

    def race(one: Claims) -> None:
        start.wait()
        got.append(one.take(NAME))

    for _ in range(20):
        for one in each:
            one._folder.mkdir(exist_ok=True)
        threads = [threading.Thread(target=race, args=(one,)) for one in each]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got.count(True) == 1
        got.clear()
        for one in each:
            one.release(NAME)


def test_a_claim_that_does_not_change_is_taken_over_after_a_lease(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    with Claims(tmp_path, lease_s=0.3) as mine:
        began = time.monotonic()
        while not mine.take(NAME):
            assert time.monotonic() - began < 10
            time.sleep(0.02)
        assert time.monotonic() - began > 0.3
        assert files(tmp_path) == [f"{NAME}.claim"]


def test_a_holder_that_lives_keeps_its_claim_beyond_a_lease(tmp_path: Path) -> None:
    with Claims(tmp_path, lease_s=0.5) as theirs, Claims(tmp_path, lease_s=0.5) as mine:
        assert theirs.take(NAME)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert not mine.take(NAME)
            time.sleep(0.05)


@pytest.mark.parametrize("date", [0, 2**31])
def test_the_date_of_a_claim_says_nothing(tmp_path: Path, date: int) -> None:
    path = elsewhere(tmp_path)
    os.utime(path, (date, date))
    with Claims(tmp_path, lease_s=60) as mine:
        assert not mine.take(NAME) and not mine.take(NAME)


def test_the_claim_of_a_process_of_this_machine_that_is_gone_is_free(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    elsewhere(tmp_path, host=module.socket.gethostname(), process=int(child.stdout))
    with Claims(tmp_path, lease_s=60) as mine:
        assert mine.take(NAME)


def test_a_claim_that_was_taken_over_is_not_touched_by_who_held_it(tmp_path: Path) -> None:
    with Claims(tmp_path, lease_s=60) as theirs:
        assert theirs.take(NAME)
        path = elsewhere(tmp_path)
        content = path.read_text()
        theirs._beats += 1
        theirs.release(NAME)
        assert path.read_text() == content


def test_a_claim_that_changed_while_it_was_taken_over_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = elsewhere(tmp_path)
    with Claims(tmp_path, lease_s=60) as mine:
        assert not mine.take(NAME)
        monkeypatch.setattr(mine, "_lease_s", -1.0)
        real = Path.rename

        def rename(source: Path, target: Path) -> Path:
            source.write_text(json.dumps({"token": "a third one", "host": "another", "process": 1}))
            return real(source, target)

        monkeypatch.setattr(Path, "rename", rename)
        assert not mine.take(NAME)
    assert json.loads(path.read_text())["token"] == "a third one"
    assert files(tmp_path) == [f"{NAME}.claim"]
