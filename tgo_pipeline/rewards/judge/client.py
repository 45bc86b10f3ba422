"""Asking a server: a few requests at a time, again where that may help, and never twice for the same content."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.rewards.judge.answers import NoScore
from tgo_pipeline.rewards.judge.settings import PROMPT, Settings
from tgo_pipeline.storage import user_cache
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("tgo")
TOP_LOGPROBS = 20
"""The most that OpenAI's interface gives."""
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
"""Answers that a later request may not get."""
_MISTAKEN = {401: "the key is refused", 403: "the key is refused", 404: "there is no such model or address"}
MOST_PAUSE_S = 30.0


@dataclass
class Usage:
    """What answers have taken so far; those kept from earlier take nothing."""

    answers: int = 0
    kept: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    failures: int = 0

    def cost(self, settings: Settings) -> float:
        """By the prices of the settings."""
        return (self.tokens_in * settings.price_in + self.tokens_out * settings.price_out) / 1e6


class Client:
    """Asks one judge; used by several threads. Answers are kept in the user's cache by the content of the request."""

    def __init__(self, settings: Settings) -> None:
        import httpx

        self._settings = settings
        self._key = _key(settings)
        self._http = httpx.Client(timeout=settings.timeout_s, headers={"User-Agent": "tgo-pipeline"})
        self._lock = threading.Lock()
        self._reached = False
        self.usage = Usage()

    def ask(self, image: Image.Image, prompt: str) -> Mapping[str, Any]:
        """The chat completion about an image and a prompt.

        Raises `NoScore` with the reason where there is none, and `TgoError` if no question could be answered: for a key
        that is refused, an unknown model, a server that was never reached.
        """
        body = self._body(image, prompt)
        place = _place(self._settings.url, body)
        if (kept := _kept(place)) is not None:
            self._count(kept=1)
            return kept
        try:
            reply = self._answered(body)
        except NoScore:
            self._count(failures=1)
            raise
        tokens = reply.get("usage") or {}
        self._count(
            answers=1,
            tokens_in=int(tokens.get("prompt_tokens") or 0),
            tokens_out=int(tokens.get("completion_tokens") or 0),
        )
        if user_cache.is_writable():
            with atomic(place) as temporary:
                temporary.write_text(json.dumps(reply), encoding="utf-8")
        return reply

    def _body(self, image: Image.Image, prompt: str) -> dict[str, Any]:
        settings = self._settings
        content = [
            {"type": "image_url", "image_url": {"url": _data_url(image, settings.max_side)}},
            {"type": "text", "text": settings.template.replace(PROMPT, prompt)},
        ]
        system = [{"role": "system", "content": settings.system}] if settings.system else []
        body = {
            "model": settings.model,
            "messages": [*system, {"role": "user", "content": content}],
            "max_tokens": 1 if settings.answer == "yes" else settings.max_tokens,
            "temperature": settings.temperature,
        }
        if settings.answer == "yes":
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return body | settings.request

    def _answered(self, body: Mapping[str, Any]) -> dict[str, Any]:
        import httpx

        reason = ""
        for attempt in range(self._settings.retries + 1):
            try:
                response = self._post(body)
            except httpx.TransportError as error:
                reason, pause_s = (
                    f"the server did not answer ({type(error).__name__}: {in_one_line(error)})",
                    None,
                )
            else:
                self._reached = True
                if response.is_success:
                    return _object(response)
                reason, pause_s = self._refusal(response), _asked_pause_s(response)
                if response.status_code not in _AGAIN:
                    break
            if attempt < self._settings.retries:
                time.sleep(min(MOST_PAUSE_S, 2.0**attempt if pause_s is None else pause_s))
        if not self._reached:
            raise TgoError(f"reward judge: {self._settings.url}: {reason}. Start the server, or correct url.")
        raise NoScore(reason)

    def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        return self._http.post(
            f"{self._settings.url.rstrip('/')}/chat/completions", json=body, headers=headers
        )

    def _refusal(self, response: httpx.Response) -> str:
        """Why there is no answer. Raises `TgoError` where no question would get one."""
        said = " ".join(response.text.split())[:200]
        if self._key is not None:
            said = said.replace(self._key, "…")
        if mistake := _MISTAKEN.get(response.status_code):
            raise TgoError(
                f"reward judge: {self._settings.url} answered {response.status_code}, {mistake}: {said}"
            )
        return f"the server answered {response.status_code}: {said}"

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                setattr(self.usage, name, getattr(self.usage, name) + number)


def _key(settings: Settings) -> str | None:
    if settings.key_env is None:
        return None
    if not (key := os.environ.get(settings.key_env)):
        raise TgoError(f"reward judge: the environment variable {settings.key_env} (key_env) is not set.")
    return key


def _data_url(image: Image.Image, max_side: int | None) -> str:
    if max_side is not None and max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _place(url: str, body: Mapping[str, Any]) -> Path:
    """Where an answer is kept: by the address and the content of the request, which holds no key."""
    digest = hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()
    return user_cache.location() / "judge" / digest[:2] / f"{digest}.json"


def _kept(place: Path) -> dict[str, Any] | None:
    try:
        return json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError as error:
        raise NoScore("the server's answer is not JSON") from error
    if not isinstance(found, dict):
        raise NoScore("the server's answer is no JSON object")
    return found


def _asked_pause_s(response: httpx.Response) -> float | None:
    """How long a server asks to wait."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
