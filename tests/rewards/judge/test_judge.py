"""The judge against a server of its protocol: numbers, reasons, repetitions, what is kept, and the key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.rewards.judge.server import Server, brightness, serving, text
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import fingerprint, load_reward, score_all
from tgo_pipeline.rewards.judge import client
from tgo_pipeline.rewards.judge.reward import Judge

IMAGES = [Image.new("RGB", (20, 10), (shade,) * 3) for shade in (0, 51, 102, 255)]
PROMPTS = ["a {prompt} of grey", "b", "c", "d"]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(client.time, "sleep", lambda _: None)
    return iter(())


def described(folder: Path, server: Server | None = None, **more: Any) -> str:
    """The file of a judge."""
    stated = {
        "url": server.url if server else "http://127.0.0.1:9/v1",
        "model": "m",
        "template": "Rate {prompt}: 0-10.",
    }
    path = folder / "judge.yaml"
    path.write_text(yaml.safe_dump({**stated, **more}))
    return str(path)


def test_numbers_are_those_of_the_answers_and_asked_once(tmp_path: Path) -> None:
    with serving(brightness) as server:
        source = described(tmp_path, server, price_in=2.0, price_out=10.0, system="Be fair.")
        judge = load_reward("judge", source)
        assert isinstance(judge, Judge)
        found = judge.score(IMAGES, PROMPTS)
        np.testing.assert_allclose(found, [0, 2, 4, 10], atol=1e-3)
        assert sorted(body["messages"][1]["content"][1]["text"] for body in server.requests)[0] == (
            "Rate a {prompt} of grey: 0-10."
        )
        assert server.requests[0]["messages"][0] == {"role": "system", "content": "Be fair."}
        used = judge.client.usage
        assert (used.answers, used.kept, used.tokens_in, used.tokens_out) == (4, 0, 400, 12)
        assert used.cost(judge.settings) == pytest.approx((400 * 2 + 12 * 10) / 1e6)
    again = load_reward("judge", source)  # the server is gone
    np.testing.assert_array_equal(again.score(IMAGES, PROMPTS), found)
    with pytest.raises(TgoError, match=r"did not answer.*Start the server"):
        again.score(IMAGES[:1], ["another prompt"])


def test_an_answer_without_a_number_has_a_reason(tmp_path: Path) -> None:
    said = iter(["none at all", "11 points", "7\nI mean 6.5"])

    def answer(body: dict[str, Any], image: Image.Image) -> tuple[int, Any]:
        return text(next(said)) if image.getpixel((0, 0)) != (255,) * 3 else (400, {"error": "a filter"})

    with serving(answer) as server:
        judge = load_reward("judge", described(tmp_path, server, concurrency=1))
        scores = score_all({"taste": judge}, IMAGES, PROMPTS, batch_size=4)
    assert np.isnan(scores.columns["taste"][[0, 1, 3]]).all() and scores.columns["taste"][2] == 6.5
    assert scores.errors == {
        0: "taste gave no score: no number in the answer 'none at all'",
        1: "taste gave no score: the answer '11 points' is not from 0 to 10",
        3: 'taste gave no score: the server answered 400: {"error": "a filter"}',
    }


def test_a_pattern_and_the_probability_of_yes(tmp_path: Path) -> None:
    top = [{"token": " Yes", "logprob": np.log(0.6)}, {"token": "no", "logprob": np.log(0.2)}]
    top += [{"token": "yes", "logprob": np.log(0.1)}, {"token": "Well", "logprob": np.log(0.1)}]
    answers = {
        "yes": text("Yes", logprobs={"content": [{"top_logprobs": top}]}),
        "pattern": text("3 then score=4.5!"),
    }
    for kind, wanted in (("yes", 0.7 / 0.9), ("pattern", 4.5)):
        with serving(lambda body, image, kind=kind: answers[kind]) as server:
            more = {"pattern": r"score=([\d.]+)"} if kind == "pattern" else {}
            found = load_reward("judge", described(tmp_path, server, answer=kind, **more)).score(
                IMAGES[:1], ["a"]
            )
        assert found[0] == pytest.approx(wanted)
        assert server.requests[0].get("logprobs") is (True if kind == "yes" else None)


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    replies = iter(
        [(503, b"busy"), (429, b"slow down"), text("5"), (500, b"broken"), (500, b"broken"), (500, b"gone")]
    )
    with serving(lambda *_: next(replies)) as server:
        judge = load_reward("judge", described(tmp_path, server, concurrency=1))
        found = score_all({"j": judge}, IMAGES[:2], PROMPTS[:2])
    assert found.columns["j"][0] == 5 and found.errors == {
        1: "j gave no score: the server answered 500: gone"
    }
    assert len(server.requests) == 6


def test_not_more_are_asked_at_a_time_than_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("TGO_CACHE", str(tmp_path / "cache"))
    with serving(brightness, pause_s=0.05) as server:
        judge = load_reward("judge", described(tmp_path, server, concurrency=3))
        judge.score([Image.new("RGB", (8, 8), (n, n, n)) for n in range(12)], prompt="a", batch_size=12)
    assert server.most == 3


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "sk-hidden-4711"
    with serving(lambda *_: (401, f"no such key: {key}".encode())) as server:
        source = described(tmp_path, server, key_env="JUDGE_KEY")
        with pytest.raises(TgoError, match="the environment variable JUDGE_KEY"):
            load_reward("judge", source)
        monkeypatch.setenv("JUDGE_KEY", key)
        with pytest.raises(TgoError, match="answered 401, the key is refused") as raised:
            load_reward("judge", source).score(IMAGES[:1], ["a"])
    assert key not in str(raised.value) and key not in caplog.text
    with serving(brightness) as server:
        judge = load_reward("judge", described(tmp_path, server, key_env="JUDGE_KEY"))
        judge.score(IMAGES, PROMPTS)
    assert server.keys == [f"Bearer {key}"] * 4
    assert key not in str(judge.description)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"template": "Rate it."}, r"template does not hold \{prompt\}"),
        ({"answer": "star"}, "answer is 'star'"),
        ({"answer": "pattern"}, "pattern belongs to"),
        ({"answer": "pattern", "pattern": "(a)(b"}, "one group"),
        ({"url": "ftp://host"}, "write http"),
        ({"url": "http://user:pw@host/v1"}, "holds a key"),
        ({"url": "http://host/v1?key=3"}, "holds a key"),
        ({"low": 3, "high": 3}, "low must be below high"),
        ({"concurrency": "four"}, "must be of type int"),
        ({"wishes": 1}, "unknown keys"),
        ({"request": {"messages": []}}, "may not hold messages"),
    ],
)
def test_a_file_that_cannot_be_used(given: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(TgoError, match=reason):
        load_reward("judge", described(tmp_path, **given))


def test_a_judge_needs_a_file_and_is_known_by_it(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="was given no source"):
        load_reward("judge")
    with pytest.raises(TgoError, match="which is no file"):
        load_reward("judge", str(tmp_path))
    (tmp_path / "bare.yaml").write_text("model: m\n")
    with pytest.raises(TgoError, match="lacks url, template"):
        load_reward("judge", str(tmp_path / "bare.yaml"))
    before = fingerprint("judge", described(tmp_path))
    assert before == fingerprint("judge", described(tmp_path))
    assert before != fingerprint("judge", described(tmp_path, temperature=0.5))
