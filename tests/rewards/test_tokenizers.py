"""Tokenizers against open_clip's and against each other."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch

from tests.rewards.tiny import MERGES, VOCABULARY
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.tokenizers import (
    OpenClipTokenizer,
    check_vocabulary,
    hugging_face_tokenizer,
    read_merges,
)

PROMPTS = ["a photo of a cat", "", "Tom &amp; Jerry…  “naïve”", "red " * 100]


def test_the_default_vocabulary_is_clips() -> None:
    tokenizer = OpenClipTokenizer()
    assert tokenizer.vocabulary_size == 49408
    assert torch.equal(tokenizer(PROMPTS), open_clip.tokenize(PROMPTS))


def test_merges_survive_a_file(tmp_path: Path) -> None:
    tokenizer = OpenClipTokenizer(MERGES, 12)
    tokenizer.save(tmp_path)
    again = OpenClipTokenizer(read_merges(tmp_path / "merges.txt"), 12)
    assert again.vocabulary_size == VOCABULARY
    assert torch.equal(again(PROMPTS), tokenizer(PROMPTS))


def test_known_words_are_one_token_and_the_end_is_kept() -> None:
    tokens = OpenClipTokenizer(MERGES, 6)(["red blue", "red " * 9])
    start, end = VOCABULARY - 2, VOCABULARY - 1
    red, blue = 512 + MERGES.index("re d</w>"), 512 + MERGES.index("blu e</w>")
    assert tokens.tolist() == [[start, red, blue, end, 0, 0], [start, red, red, red, red, end]]


def test_both_tokenizers_number_plain_text_alike() -> None:
    for merges in (None, MERGES):
        ours, theirs = OpenClipTokenizer(merges, 77), hugging_face_tokenizer(merges)
        for prompt in ("a photo of a cat", "RED blue, 3 cats!", "red " * 100):
            ids = theirs([prompt], truncation=True, max_length=77)["input_ids"][0]
            assert ours([prompt])[0, : len(ids)].tolist() == ids


def test_a_file_that_is_no_list_of_merges_is_refused(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(TgoError, match="two symbols"):
        read_merges(tmp_path / "merges.txt")


def test_more_tokens_than_embeddings_are_refused() -> None:
    check_vocabulary("clip", 521, 521)
    with pytest.raises(TgoError, match="521 tokens, its weights embed 520"):
        check_vocabulary("clip", 521, 520)
