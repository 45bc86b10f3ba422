"""What describes a judge: a YAML file, which is the source of the reward `judge`."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.formats import yaml_text
from tgo_pipeline.formats.files import read_text

PROMPT = "{prompt}"
ANSWERS = ("number", "yes", "pattern")


@dataclass(frozen=True)
class Settings:
    """How a judge is asked, and how its answers become numbers; `url` is what precedes `/chat/completions`."""

    url: str
    model: str
    template: str
    """The question; `{prompt}` stands for the prompt."""
    answer: str = "number"
    """`number`: the last number of the answer; `pattern`: the group of `pattern`; `yes`: P(yes) / (P(yes) + P(no))."""
    pattern: str | None = None
    low: float = 0.0
    high: float = 10.0
    """What an answer may be; another one is no score."""
    system: str | None = None
    key_env: str | None = None
    """The environment variable with the server's key, which is never written anywhere."""
    max_tokens: int = 16
    temperature: float = 0.0
    concurrency: int = 8
    retries: int = 2
    timeout_s: float = 60.0
    max_side: int | None = None
    """Larger images are made smaller before they are sent."""
    price_in: float = 0.0
    price_out: float = 0.0
    """Of a million tokens, in any currency."""
    request: dict[str, Any] = field(default_factory=dict)
    """Further fields of the request, such as `seed`."""

    @classmethod
    def read(cls, path: Path) -> Settings:
        """From a YAML file. Raises `TgoError` for unknown or missing keys and values that cannot be used."""
        try:
            given = yaml_text.loads(read_text(path))
        except (OSError, UnicodeDecodeError) as error:
            raise TgoError(f"{path} cannot be read ({in_one_line(error)}).") from error
        except TgoError as error:
            raise TgoError(f"{path}: {error}") from error
        known = {each.name: each for each in dataclasses.fields(cls)}
        if not isinstance(given, dict) or (strange := sorted(given.keys() - known)):
            what = f"has unknown keys ({', '.join(strange)})" if isinstance(given, dict) else "is no mapping"
            raise TgoError(f"{path} {what}: a judge has {', '.join(known)}.")
        needed = [name for name, each in known.items() if _is_required(each) and name not in given]
        if needed:
            raise TgoError(f"{path} lacks {', '.join(needed)}.")
        try:
            return cls(**{name: _typed(known[name], value) for name, value in given.items()})
        except TgoError as error:
            raise TgoError(f"{path}: {error}") from error

    def __post_init__(self) -> None:
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise TgoError(f"url is {self.url!r}: write http(s)://host/v1.")
        if address.query or address.username or address.password:
            raise TgoError(
                "url holds a key or a query, which would be stored: name a variable in key_env instead."
            )
        if PROMPT not in self.template:
            raise TgoError(f"template does not hold {PROMPT}: the judge would not see the prompt.")
        if self.answer not in ANSWERS:
            raise TgoError(f"answer is {self.answer!r}: it must be one of {', '.join(ANSWERS)}.")
        if (self.answer == "pattern") != (self.pattern is not None):
            raise TgoError("pattern belongs to `answer: pattern`, which needs it.")
        if self.pattern is not None and _groups(self.pattern) != 1:
            raise TgoError(
                f"pattern {self.pattern!r} must be a regular expression with one group, the number."
            )
        if not self.low < self.high or min(self.concurrency, self.max_tokens) < 1 or self.retries < 0:
            raise TgoError(
                "low must be below high, concurrency and max_tokens at least 1, retries at least 0."
            )
        if not self.timeout_s > 0 or (self.max_side is not None and self.max_side < 1):
            raise TgoError("timeout_s and max_side must be above 0.")
        if taken := {"model", "messages"} & self.request.keys():
            raise TgoError(f"request may not hold {', '.join(sorted(taken))}, which a judge states itself.")


_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "dict[str, Any]": (dict,),
}


def _is_required(each: dataclasses.Field) -> bool:
    return each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING


def _typed(each: dataclasses.Field, value: Any) -> Any:
    kind, *optional = str(each.type).split(" | ")
    if value is None and optional:
        return None
    if not isinstance(value, _KINDS[kind]) or isinstance(value, bool):
        raise TgoError(f"{each.name} is {value!r}: it must be of type {kind.split('[')[0]}.")
    known: Any = value
    return float(known) if kind == "float" else known


def _groups(pattern: str) -> int | None:
    try:
        return re.compile(pattern).groups
    except re.error:
        return None
