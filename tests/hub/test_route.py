"""A hub that is not there is said in seconds, and what is in the cache goes on being used."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from huggingface_hub import constants
from PIL import Image

from tests.hub_server import HubServer
from tests.project import ROOT, run, set_params
from tgo_pipeline.hub.errors import Unreachable
from tgo_pipeline.hub.route import hub_out_of_reach, require_route

TGO = (sys.executable, "-m", "stages.cli")
PACKAGE = {"PYTHONPATH": str(ROOT)}


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


class Silent(NamedTuple):
    """A server that takes connections and never says a word."""

    address: str
    connections: list[socket.socket]


@pytest.fixture
def silent() -> Iterator[Silent]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = Silent(f"127.0.0.1:{server.getsockname()[1]}", [])

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    found.connections.append(server.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        yield found
        server.shutdown(socket.SHUT_RDWR)
    for each in found.connections:
        each.close()


@pytest.fixture
def closed() -> str:
    """An address that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_answers_anything_can_be_reached() -> None:
    with HubServer() as hub:  # which knows no such page
        require_route(f"{hub.endpoint}/org/name/resolve/main/file", 5)
        assert hub.requests == ["HEAD /"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_port_that_refuses(closed: str, scheme: str) -> None:
    with pytest.raises(Unreachable, match=r"^127\.0\.0\.1 is out of reach: Connection refused$"):
        require_route(f"{scheme}://{closed}", 5)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_never_answers(silent: Silent, scheme: str) -> None:
    started_s = time.monotonic()
    with pytest.raises(Unreachable, match=r"^127\.0\.0\.1 is out of reach: no answer in 0\.3 s$"):
        require_route(f"{scheme}://{silent.address}", 0.3)
    assert time.monotonic() - started_s < 2


def test_a_server_that_hangs_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        with pytest.raises(Unreachable, match=r"closed the connection|reset by peer"):
            require_route(f"http://127.0.0.1:{server.getsockname()[1]}", 5)


@pytest.mark.parametrize("url", ["https://nowhere.invalid", "http://127.0.0.1:99999999"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(Unreachable, match="is out of reach: "):
        require_route(url, 5)


def test_the_proxy_is_what_must_answer(closed: str, silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer() as proxy:
        monkeypatch.setenv("https_proxy", proxy.endpoint)
        require_route(f"https://{closed}", 5)
    monkeypatch.setenv("https_proxy", closed)
    with pytest.raises(Unreachable, match="Connection refused"):
        require_route(f"https://{silent.address}", 5)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(Unreachable, match="no answer in"):
        require_route(f"https://{silent.address}", 0.3)


def test_where_the_network_is_forbidden_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with HubServer() as hub, pytest.raises(Unreachable, match="HF_HUB_OFFLINE forbids downloads"):
        require_route(hub.endpoint)
    assert hub.requests == []
    assert hub_out_of_reach() is None  # the hub's library looks into its cache by itself


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with prompts, whose model is on the hub, and an image to score."""
    folder = tmp_path_factory.mktemp("route") / "project"
    run(folder.parent, *TGO, "init", "project", "--demo", variables=PACKAGE)
    set_params(folder, {"model": "org/name", "revision": "a" * 40, "prompts": {"limit": 4}})
    run(folder, *TGO, "run", "prompts", variables=PACKAGE)
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    return folder


MODEL = ("run", "generate")
REWARD = ("score", "a.png", "--prompt", "x", "--rewards", "clip")
ROWS = ("score", "hf:org/name@abc/train", "--rewards", "clip=demo")
CACHED = "is not in the local cache, and HF_HUB_OFFLINE forbids downloads"


@pytest.mark.parametrize(
    ("hub", "command", "said"),
    [
        ("silent", MODEL, "no answer in"),
        ("silent", REWARD, "no answer in"),
        ("silent", ROWS, "no answer in"),
        ("closed", MODEL, "Connection refused"),
        ("offline", MODEL, CACHED),
        ("offline", ROWS, CACHED),
    ],
)
def test_commands_say_so_after_one_look(
    project: Path, hub: str, command: tuple[str, ...], said: str, silent: Silent, closed: str
) -> None:
    """Nothing but the look waits: the hub's library does not begin, which would try again and again."""
    variables = {
        "HF_HUB_OFFLINE": "1" if hub == "offline" else "0",
        "HF_ENDPOINT": f"http://{silent.address if hub == 'silent' else closed}",
        "HF_HOME": str(project / "hf"),
    }
    done = run(project, *TGO, *command, ok=False, variables=PACKAGE | variables)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("tgo")]
    assert said in line
    assert "Retrying" not in done.stderr
    assert len(silent.connections) == (hub == "silent")
