"""One spelling, one id."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from tgo_pipeline.prompts import normalise, prompt_id


def test_composes_and_joins_whitespace_and_keeps_case() -> None:
    assert normalise("  Cafe\u0301\t\n at\u00a0night ") == "Caf\u00e9 at night"


@given(st.text())
def test_normalising_twice_changes_nothing_and_never_the_id(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        assert prompt_id(f" {text}\n") == prompt_id(text)


def test_the_id_is_the_head_of_sha256() -> None:
    assert prompt_id("a  cat ") == hashlib.sha256(b"a cat").hexdigest()[:16]
