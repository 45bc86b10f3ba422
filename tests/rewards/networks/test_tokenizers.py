"""Tokenizers against open_clip's and against each other."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from tests.fuzzed_prompts import fuzzed_prompts
from tests.rewards import tiny
from tests.rewards.tiny import MERGES, VOCABULARY
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.files.layouts import LAYOUTS, Files
from tgo_pipeline.rewards.image_reward import blip_tokenizer, read_vocabulary
from tgo_pipeline.rewards.networks.tokenizers import (
    OPEN_CLIP,
    OPENAI,
    OpenClipTokenizer,
    check_vocabulary,
    clip_merges,
    clip_vocabulary,
    hugging_face_tokenizer,
    read_merges,
    well_formed,
)
from tgo_pipeline.rewards.pickscore import _tokenizer

PROMPTS = ["a photo of a cat", "", "Tom &amp; Jerry…  “naïve”", "red " * 100]
LETTERS = "".join(random.Random(0).choices(string.ascii_lowercase, k=2_000))
ODD = {
    "empty": "",
    "blank": " \t\n\u3000 ",
    "10,000 characters": "a castle, " * 1_000,
    "one long word": LETTERS,
    "emoji": "🐱🚀👩‍👩‍👧‍👦 " * 50,
    "right to left": "שלום עולם، مرحبا بالعالم \u202eabc",
    "NUL": "a\0cat\0",
    "control": "\x01\x1b[31m\u2028\ufeff\uffff",
    "lone surrogate": "a \ud83d cat \udc31",
    "surrogate pair": "a \ud83d\udc31",
    "start and end": "<start_of_text> cat <end_of_text> <|endoftext|> [SEP] [ENC]",
}
"""What people and broken files put in as prompts."""


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


@pytest.mark.parametrize("prompt", ODD.values(), ids=ODD)
def test_odd_prompts_are_tokens_as_open_clip_makes_them(prompt: str) -> None:
    assert torch.equal(OpenClipTokenizer()([prompt]), open_clip.tokenize([prompt]))


def test_surrogates_become_what_they_spell() -> None:
    assert well_formed(["a\ud83d\udc31b", "\ud83d", "\udc31\ud83d", "é\0"]) == [
        "a🐱b",
        "\ufffd",
        "\ufffd\ufffd",
        "é\0",
    ]


@pytest.mark.parametrize("count", [300, 6000])
def test_imagereward_reads_prompts_as_the_tokenizer_in_python(count: int) -> None:
    """image-reward has it from transformers 4, which lowered each letter by itself; version 5 ships it as legacy."""
    vocabulary = LAYOUTS["imagereward"].packaged["vocab.txt"]
    published = BertTokenizerLegacy(str(vocabulary))
    published.add_special_tokens({"bos_token": "[DEC]"})
    published.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    reward: Any = tiny.build("imagereward")
    reward.tokenizer, reward.tokens = blip_tokenizer(read_vocabulary(vocabulary)), 35
    prompts = fuzzed_prompts(count)
    options: Any = {"padding": "max_length", "truncation": True, "max_length": 35}
    expected = [published("".join(map(str.lower, prompt)), **options)["input_ids"] for prompt in prompts]
    assert reward.tokenize(prompts).tolist() == expected


def test_each_package_knows_start_and_end_by_its_own_names() -> None:
    """Both are open_clip's tokenizer, and OpenAI's spells them otherwise."""
    prompts = ["a <|endoftext|> b", "a <end_of_text> b"]
    found = {
        ends: (OpenClipTokenizer(ends=ends)(prompts) == 49407).sum(1).tolist() for ends in (OPENAI, OPEN_CLIP)
    }
    assert found == {OPENAI: [2, 1], OPEN_CLIP: [1, 2]}


def test_pickscore_finds_start_and_end_in_capitals(tmp_path: Path) -> None:
    """As transformers 4 does with the published files, whose special tokens are looked for in lower case."""
    (tmp_path / "vocab.json").write_text(json.dumps(clip_vocabulary(), ensure_ascii=False), encoding="utf-8")
    (tmp_path / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *clip_merges()]) + "\n", encoding="utf-8"
    )
    end = {"__type": "AddedToken", "content": "<|endoftext|>", "normalized": True, "lstrip": False}
    start = {**end, "content": "<|startoftext|>"}
    stated = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**stated, "tokenizer_class": "CLIPTokenizer"})
    )
    files = {name: tmp_path / name for name in ("vocab.json", "merges.txt")}
    prompts = ["a <|ENDOFTEXT|>b", "a <|StartOfText|> B", "a |ENDOFTEXT|>"]
    a, b, first, last = 320, 321, 49406, 49407
    for given in (Files("pickscore", tmp_path), Files("pickscore", tmp_path, files)):
        found = _tokenizer(given, 77)(prompts)["input_ids"]
        assert found[:2] == [[first, a, last, b, last], [first, a, first, b, last]]
        assert found[2].count(last) == 1


@pytest.mark.parametrize("name", ["hpsv2.1", "pickscore", "imagereward", "clip"])
def test_every_reward_takes_every_prompt(name: str) -> None:
    reward = tiny.build(name).requires_grad_(False)
    prompts = list(ODD.values())
    tokens = reward.tokenize(prompts)
    assert tokens.shape[0] == len(prompts)
    assert tokens.dtype == torch.int64
    images = [tiny.smooth_image(32, 32)] * len(prompts)
    scores = reward.score(images, prompts)
    assert torch.from_numpy(scores).isfinite().all()
    for index, prompt in enumerate(prompts):
        alone = reward.score(images[:1], [prompt])
        assert scores[index] == pytest.approx(alone[0], abs=1e-5)


@pytest.mark.parametrize("name", ["pickscore", "imagereward"])
def test_a_lone_surrogate_is_the_replacement_character(name: str) -> None:
    reward = tiny.build(name)
    assert torch.equal(reward.tokenize(["cat \ud83d"]), reward.tokenize(["cat \ufffd"]))
    assert torch.equal(reward.tokenize(["cat \ud83d\udc31"]), reward.tokenize(["cat 🐱"]))
