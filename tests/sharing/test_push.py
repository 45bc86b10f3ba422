"""Pushes to a hub on this machine by the command line: what arrives is what was sent, whatever happens between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import DatasetCardData

from tests.sharing.hub_server import HubServer, Repo
from tgo_pipeline.errors import TgoError
from tgo_pipeline.sharing.folders import shared_files
from tgo_pipeline.sharing.push import plan

REFUSED = 2
NO_NETWORK = "http://127.0.0.1:9"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small data set as `tgo card` leaves it, with what does not belong to it in between."""
    folder = tmp_path / "dataset"
    rng = np.random.default_rng(0)
    for part in ("generations", "scores", "labels"):
        for index in range(2):
            path = folder / part / f"train-{index:05d}-of-00002.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.bytes(1_200_000 if part == "generations" else 300))
    (folder / "README.md").write_text(f"---\n{DatasetCardData(license='mit').to_yaml()}\n---\n# Foxes\n")
    (folder / "empty.txt").touch()
    for left in (
        ".tmp-1-x.parquet",
        "scores/.tmp-2-y.parquet",
        "data.lock",
        "checkpoints/step-1/state.safetensors",
    ):
        path = folder / left
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("left over")
    return folder


def start(endpoint: str, *arguments: str, token: str = "writer", **environment: str) -> subprocess.Popen[str]:
    """`tgo push` in a process of its own: the hub's library reads its endpoint once, when it is imported."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": token,
        "HF_HOME": "/nonexistent",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return subprocess.Popen(
        [sys.executable, "-m", "stages.cli", "push", *arguments],
        env={**inherited, **{key: value for key, value in settings.items() if value}},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def push(
    endpoint: str, folder: Path, *more: str, token: str = "writer", **environment: str
) -> tuple[int, str]:
    """Push the folder to me/foxes; the exit code with what was said."""
    arguments = ("dataset", "me/foxes", "--from", str(folder), *more)
    process = start(endpoint, *arguments, token=token, **environment)
    out, err = process.communicate(timeout=100)
    return process.returncode, out + err


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in shared_files(folder)}


def test_a_model_goes_to_the_models(hub: HubServer, folder: Path) -> None:
    process = start(hub.endpoint, "model", "me/foxes", "--from", str(folder))
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert out.startswith(f"{hub.endpoint}/me/foxes: 8 files sent")
    assert hub.files("model", "me/foxes") == content(folder)


def test_what_arrives_is_what_was_sent_and_nothing_is_sent_twice(hub: HubServer, folder: Path) -> None:
    code, said = push(hub.endpoint, folder)
    assert code == 0, said
    sent = content(folder)
    assert hub.files("dataset", "me/foxes") == sent
    assert len(sent) == 8
    assert f"{hub.endpoint}/datasets/me/foxes: 8 files sent (2.4 MB), 0 were there already" in said
    assert any("/lfs/" in line and line.endswith("/2") for line in hub.requests)  # in parts
    before = len(hub.uploads)
    code, said = push(hub.endpoint, folder)
    assert (code, len(hub.uploads)) == (0, before), said
    assert "0 files sent (0 B), 8 were there already" in said
    first, last = hub.repos["dataset", "me/foxes"].commits
    assert (set(first), last) == (set(sent) - {"README.md"}, ["README.md"])


def test_a_push_that_was_killed_goes_on_with_what_is_missing(hub: HubServer, folder: Path) -> None:
    process: list[subprocess.Popen[str]] = []

    def kill(number: int) -> None:
        if number == 2:
            process[0].send_signal(signal.SIGKILL)
            process[0].wait()

    hub.before_upload = kill
    process.append(start(hub.endpoint, "dataset", "me/foxes", "--from", str(folder)))
    process[0].communicate(timeout=100)
    assert process[0].returncode == -signal.SIGKILL
    assert hub.files("dataset", "me/foxes") == {}
    kept = list(hub.uploads)
    hub.before_upload = lambda number: None
    code, said = push(hub.endpoint, folder)
    assert code == 0, said
    assert hub.files("dataset", "me/foxes") == content(folder)
    assert len(hub.uploads) == len(set(hub.uploads)) == 6
    assert hub.uploads[: len(kept)] == kept


def test_a_repository_of_something_else_is_left_alone_until_update(hub: HubServer, folder: Path) -> None:
    stale = "scores/train-00000-of-00007.parquet"
    theirs = {".gitattributes": b"x", "README.md": b"# mine", stale: b"old", "notes.txt": b"keep"}
    hub.repos["dataset", "me/foxes"] = Repo(branches={"main": dict(theirs)})
    code, said = push(hub.endpoint, folder)
    assert code == REFUSED
    assert "me/foxes exists already and holds files that are not those of this dataset" in said
    assert "--update" in said
    assert hub.repos["dataset", "me/foxes"].branches["main"] == theirs
    code, said = push(hub.endpoint, folder, "--update")
    assert code == 0, said
    assert hub.files("dataset", "me/foxes") == {**content(folder), "notes.txt": b"keep"}
    assert "1 of an earlier push removed" in said


def test_private_and_a_branch(hub: HubServer, folder: Path) -> None:
    code, said = push(hub.endpoint, folder, "--private", "--revision", "second")
    assert code == 0, said
    assert hub.repos["dataset", "me/foxes"].private
    assert hub.files("dataset", "me/foxes", "second") == content(folder)
    assert hub.files("dataset", "me/foxes") == {}


def test_private_data_never_go_into_a_public_repository(hub: HubServer, folder: Path) -> None:
    hub.repos["dataset", "me/foxes"] = Repo()
    code, said = push(hub.endpoint, folder, "--private")
    assert code == REFUSED
    assert "exists already and is public, but --private is given" in said
    assert hub.uploads == []


def test_a_dry_run_lists_files_and_bytes_without_network_or_token(folder: Path) -> None:
    code, said = push(NO_NETWORK, folder, "--dry-run", token="")
    assert code == 0, said
    assert "       300  scores/train-00001-of-00002.parquet" in said
    total = sum(len(data) for data in content(folder).values())
    assert f"8 files, {total:,} bytes, would go to the dataset me/foxes; nothing was sent." in said
    assert "tmp" not in said
    assert "checkpoints" not in said


@pytest.mark.parametrize(
    ("token", "environment", "message"),
    [
        ("", {}, "no token for http"),
        ("stranger", {}, "the hub does not accept the token"),
        ("reader", {}, "the token may not write there"),
        ("writer", {"HF_ENDPOINT": NO_NETWORK}, "is out of reach"),
        ("writer", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids the network"),
    ],
)
def test_a_refusal_says_what_was_given_and_what_to_do(
    hub: HubServer, folder: Path, token: str, environment: dict[str, str], message: str
) -> None:
    code, said = push(hub.endpoint, folder, token=token, **environment)
    assert code == REFUSED
    assert said.startswith("tgo push: ")
    assert message in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1
    assert not hub.uploads


@pytest.mark.parametrize(
    ("card", "reason"),
    [("---\ntags: [a]\n---\n# No licence\n", "license"), ("---\ntags: [a\n---\n# Broken\n", "flow sequence")],
)
def test_a_card_that_the_hub_refuses_is_named_before_anything_is_sent(
    hub: HubServer, folder: Path, card: str, reason: str
) -> None:
    (folder / "README.md").write_text(card)
    code, said = push(hub.endpoint, folder)
    assert code == REFUSED
    assert "the hub refuses the front matter" in said
    assert reason in said
    assert hub.repos == {}


@pytest.mark.parametrize(
    "name", ["foxes", "me/", "me/fo xes", "me/foxes/more", "-me/foxes", "https://hub/me/foxes"]
)
def test_a_name_that_no_repository_has(folder: Path, name: str) -> None:
    with pytest.raises(TgoError, match="is not the name of a repository"):
        plan("dataset", name, folder)


def test_a_folder_without_a_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match=r"has no README.md: run `tgo card model` first"):
        plan("model", "me/foxes", tmp_path)


def test_a_set_of_many_files_arrives_whole(hub: HubServer, folder: Path) -> None:
    for number in range(300):
        (folder / f"labels/train-{number:05d}-of-00300.parquet").write_bytes(b"%d" % number)
    code, said = push(hub.endpoint, folder)
    assert code == 0, said
    assert hub.files("dataset", "me/foxes") == content(folder)
    assert "308 files sent" in said


def test_a_card_that_was_changed_is_all_that_is_sent(hub: HubServer, folder: Path) -> None:
    assert push(hub.endpoint, folder)[0] == 0
    with (folder / "README.md").open("a") as card:
        card.write("More words.\n")
    code, said = push(hub.endpoint, folder, "--update")
    assert code == 0, said
    assert "1 files sent" in said
    assert hub.repos["dataset", "me/foxes"].commits[2:] == [["README.md"]]
    assert hub.files("dataset", "me/foxes") == content(folder)


def test_a_stale_file_with_a_pattern_for_a_name_takes_no_other_file_with_it(
    hub: HubServer, folder: Path
) -> None:
    assert push(hub.endpoint, folder)[0] == 0
    hub.repos["dataset", "me/foxes"].branches["main"]["scores/train-[0]*.parquet"] = b"old"
    code, said = push(hub.endpoint, folder, "--update")
    assert code == 0, said
    assert "1 of an earlier push removed" in said
    assert hub.files("dataset", "me/foxes") == content(folder)
