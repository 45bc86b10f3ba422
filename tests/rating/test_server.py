"""Who may ask the server of the page, and what it answers."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from tests.rating.conftest import Serve
from tgo_pipeline.rating.server import MOST_BYTES, RatingServer

JSON = {"Content-Type": "application/json"}


def ask(
    server: RatingServer, method: str, path: str, content: Any = None, **headers: str
) -> tuple[int, Any, http.client.HTTPMessage]:
    """Status, content and headers of one request below the token."""
    return raw(server, method, f"/{server.token}/{path}", content, **headers)


def raw(
    server: RatingServer, method: str, path: str, content: Any = None, **headers: str
) -> tuple[int, Any, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    body = (
        content if isinstance(content, bytes) else None if content is None else json.dumps(content).encode()
    )
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {**(JSON if method == "POST" else {}), **named})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    found = json.loads(data) if answer.headers.get_content_type() == "application/json" else data
    return answer.status, found, answer.headers


def test_the_page_is_small_and_asks_nobody_else(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "r.jsonl") as server:
        sizes = 0
        for name in ("", "rate.css", "rate.js"):
            status, data, headers = ask(server, "GET", name)
            assert status == 200
            assert b"http" not in data.replace(b"http-equiv", b"")
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "unsafe" not in headers["Content-Security-Policy"]
            sizes += len(data)
        assert sizes < 25_000
        status, data, headers = ask(server, "GET", "image/7")
        assert (status, headers["Content-Type"], data[:4]) == (200, "image/png", b"\x89PNG")


@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/next", "/wrong/image/0", "/..%2f/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_token_is_refused(serve: Serve, tmp_path: Path, path: str, method: str) -> None:
    with serve(tmp_path / "r.jsonl") as server:
        assert raw(server, method, path, {"rater": "ann"} if method == "POST" else None)[0] == 403


@pytest.mark.parametrize(
    "host", ["example.org", "example.org:{port}", "127.0.0.1.example.org", "", "192.168.0.7:{port}"]
)
def test_another_host_is_refused(serve: Serve, tmp_path: Path, host: str) -> None:
    with serve(tmp_path / "r.jsonl") as server:
        named = host.format(port=server.server_address[1])
        assert ask(server, "GET", "", Host=named)[0] == 403
        assert ask(server, "POST", "next", {"rater": "ann"}, Host=named)[0] == 403


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1", "[::1]:80"])
def test_names_of_this_machine_are_good_through_a_tunnel_too(serve: Serve, tmp_path: Path, host: str) -> None:
    with serve(tmp_path / "r.jsonl") as server:
        assert ask(server, "GET", "", Host=host)[0] == 200


def test_it_listens_on_the_loopback_interface_alone(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "r.jsonl") as server:
        assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        ({"rater": "ann"}, {"Content_Type": "text/plain"}, 403),
        ({"rater": "ann"}, {"Content_Type": "application/x-www-form-urlencoded"}, 403),
        ({"rater": "ann"}, {"Origin": "http://example.org"}, 403),
        ({"rater": "ann"}, {"Origin": "null"}, 403),
        (b"x" * (MOST_BYTES + 1), {}, 413),
        ({"rater": "ann"}, {"Content_Length": "9" * 5000}, 413),
        (b"[1]", {}, 400),
        (b"{", {}, 400),
        (b"\xff", {}, 400),
        ({}, {}, 400),
        ({"rater": 7}, {}, 400),
        ({"rater": "  "}, {}, 400),
        ({"rater": "a" * 61}, {}, 400),
        ({"rater": "a\u202eb"}, {}, 400),
    ],
)
def test_what_is_no_question_of_this_page_is_refused(
    serve: Serve, tmp_path: Path, content: Any, headers: dict[str, str], status: int
) -> None:
    with serve(tmp_path / "r.jsonl") as server:
        assert ask(server, "POST", "next", content, **headers)[0] == status
        assert ask(server, "POST", "next", {"rater": "ann"})[0] == 200


@pytest.mark.parametrize(
    "change",
    [
        {"value": 6},
        {"value": 0.5},
        {"value": True},
        {"value": [1]},
        {"value": "3"},
        {"question": "60"},
        {"question": "1-2"},
        {"question": "x"},
        {"question": 3},
        {"question": "9" * 5000},
        {"id": ""},
        {"id": None},
        {"id": "a b c d e f"},
        {"rater": None},
    ],
)
def test_an_answer_that_cannot_be_is_refused_and_not_kept(
    serve: Serve, tmp_path: Path, change: dict[str, Any]
) -> None:
    answer = {"rater": "ann", "question": "3", "value": 4, "id": "0123456789abcdef", "seconds": 1}
    with serve(tmp_path / "r.jsonl") as server:
        status, found, _ = ask(server, "POST", "answer", answer | change)
        assert (status, list(found)) == (400, ["error"])
        assert server.session.store.answers == []
        for _ in range(2):  # a page that got no reply sends it again
            status, found, _ = ask(server, "POST", "answer", answer | {"seconds": "soon"})
            assert (status, found["done"]) == (200, 1)
        assert [each.seconds for each in server.session.store.answers] == [None]


@pytest.mark.parametrize(
    "path", ["nothing", "image/60", "image/-1", "image/1e1", f"image/{'9' * 5000}", "rate.css/", "../x"]
)
def test_what_is_not_there_is_not_found(serve: Serve, tmp_path: Path, path: str) -> None:
    with serve(tmp_path / "r.jsonl") as server:
        assert ask(server, "GET", path)[0] == 404
        assert ask(server, "POST", path, {})[0] == 404


def test_undo_without_an_answer_says_so(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "r.jsonl") as server:
        status, found, _ = ask(server, "POST", "undo", {"rater": "ann"})
        assert (status, found["nothing"], found["done"]) == (200, True, 0)
