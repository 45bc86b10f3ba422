"""CLIP's tokenizer as it was published: ftfy's repairs, then open_clip's byte pairs, which share no code with ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ftfy
import pytest
import regex
from diffusers import DiffusionPipeline
from open_clip.tokenizer import SimpleTokenizer

from tests.fuzzed_prompts import fuzzed_prompts
from tests.tiny import tiny_diffusion_pipeline
from tests.tiny_families import tiny_flux_pipeline, tiny_sd3_pipeline, tiny_sdxl_pipeline
from tests.tiny_masked import tiny_amused_pipeline, tiny_meissonic_pipeline
from tgo_pipeline.generators.networks.clip_prompts import published, version
from tgo_pipeline.generators.networks.clip_tokenizer import PublishedCLIPTokenizer
from tgo_pipeline.generators.pipelines import open_pipeline
from tgo_pipeline.rewards.networks.tokenizers import clip_merges, clip_vocabulary

FAMILIES = (
    tiny_diffusion_pipeline,
    tiny_sdxl_pipeline,
    tiny_sd3_pipeline,
    tiny_flux_pipeline,
    tiny_amused_pipeline,
    tiny_meissonic_pipeline,
)
TYPOGRAPHIC = "It’s a “fox”…  in a ﬁeld"
STRAIGHT = 'it\'s a "fox"… in a field'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's own vocabulary in the files that Stable Diffusion 1 has."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps(clip_vocabulary(), ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *clip_merges()]) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "<|endoftext|>"}))
    return folder


def reference() -> SimpleTokenizer:
    """transformers' tokenizer in Python cleaned a text less than OpenAI's, which also unescapes HTML twice."""
    tokenizer = SimpleTokenizer()
    tokenizer.clean_fn = lambda text: regex.sub(r"\s+", " ", ftfy.fix_text(text)).strip().lower()
    return tokenizer


@pytest.mark.parametrize("count", [400, 6000])
def test_prompts_become_the_published_tokens(folder: Path, count: int) -> None:
    prompts = fuzzed_prompts(count)
    ours = PublishedCLIPTokenizer.from_pretrained(folder)
    found = ours(prompts, padding="max_length", truncation=True, max_length=77)["input_ids"]
    expected = reference()(prompts).tolist()
    for prompt, row, tokens in zip(prompts, found, expected, strict=True):
        end = tokens.index(49407)
        assert row == tokens[:end] + [49407] * (77 - end), prompt


def test_the_library_s_own_tokenizer_has_drifted(folder: Path) -> None:
    """Else this package needs none of its own."""
    from transformers import CLIPTokenizer

    theirs, ours = CLIPTokenizer.from_pretrained(folder), PublishedCLIPTokenizer.from_pretrained(folder)
    assert theirs(TYPOGRAPHIC)["input_ids"] != theirs(STRAIGHT)["input_ids"]
    assert ours(TYPOGRAPHIC)["input_ids"] == ours(STRAIGHT)["input_ids"] == theirs(STRAIGHT)["input_ids"]
    assert ours.tokenize(TYPOGRAPHIC) == ours.tokenize(STRAIGHT)
    assert ours.encode(TYPOGRAPHIC) == theirs(STRAIGHT)["input_ids"]


def test_the_end_of_a_text_stays_one_token(folder: Path) -> None:
    ours = PublishedCLIPTokenizer.from_pretrained(folder)
    assert ours("it’s<|endoftext|> &lt;b")["input_ids"] == [
        *ours("it's")["input_ids"],
        *ours("<b")["input_ids"][1:],
    ]


@pytest.mark.parametrize("make", FAMILIES)
def test_every_family_reads_prompts_as_published_and_is_saved_as_before(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "model")
    pipeline = open_pipeline(str(folder))
    names = [
        name
        for name in ("tokenizer", "tokenizer_2")
        if "CLIP" in type(getattr(pipeline, name, None)).__name__
    ]
    assert names
    for name in names:
        tokenizer = getattr(pipeline, name)
        assert tokenizer(TYPOGRAPHIC)["input_ids"] == tokenizer(STRAIGHT)["input_ids"]
    pipeline.save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved/model_index.json").read_text())
    assert {name: index[name] for name in names} == {key: ["transformers", "CLIPTokenizer"] for key in names}
    stored = json.loads((tmp_path / f"saved/{names[0]}/tokenizer_config.json").read_text())
    assert stored["tokenizer_class"] == "CLIPTokenizer"
    if index["_class_name"] != "MeissonicPipeline":
        DiffusionPipeline.from_pretrained(tmp_path / "saved")


def test_only_prompts_that_were_read_otherwise_have_a_version() -> None:
    assert version(["a photo of a cat, 8K!", "ein Fuchs im Schnée", "狐"]) == {}
    assert version(["a photo of a cat", TYPOGRAPHIC]) == {"clip_prompts": 2}
    assert version(["salt &amp; pepper"]) == {"clip_prompts": 2}
    assert published("  It’s\n FINE ") == "it's fine"
