"""What names, specs and columns mean, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import specs
from tgo_pipeline.rewards.files.layouts import LAYOUTS
from tgo_pipeline.rewards.specs import Spec, canonical, parse, resolve, resolve_all


def test_every_reward_has_a_layout() -> None:
    assert list(LAYOUTS) == list(specs.REWARDS)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("hpsv2.1", Spec("hpsv2.1", "hpsv2.1")),
        ("clip=demo", Spec("clip", "clip", "demo")),
        ("clip/openai-l14", Spec("clip/openai-l14", "clip/openai-l14")),
        ("pickscore=org/name@abc", Spec("pickscore", "pickscore", "org/name@abc")),
        ("imagereward=/a=b/c.pt", Spec("imagereward", "imagereward", "/a=b/c.pt")),
        ("my.rewards:sharpness", Spec("sharpness", "my.rewards:sharpness")),
        ("rewards:Judge=weights.pt", Spec("Judge", "rewards:Judge", "weights.pt")),
    ],
)
def test_a_spec_is_a_reward_and_perhaps_a_source(text: str, spec: Spec) -> None:
    assert parse(text) == spec
    assert parse(str(spec)) == spec


def test_clip_is_one_variant_and_says_so() -> None:
    assert canonical("clip") == "clip/openai-l14"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hpsv2", "write hpsv2.1 or hpsv2.0"),
        ("pickscor", "Did you mean pickscore"),
        ("", "is not a reward"),
        ("clip=", "write the source after it"),
        ("my.rewards:", "is not a reward"),
        ("my rewards:f", "is not a reward"),
        ("rewards:error", "cannot have the column 'error'"),
    ],
)
def test_what_is_no_spec_is_refused(text: str, reason: str) -> None:
    with pytest.raises(TgoError, match=reason):
        parse(text)


def test_a_column_has_the_source_of_its_reward_or_names_one() -> None:
    columns = {"clip": "demo", "pickscore": None, "old": "hpsv2.0=weights/old.pt", "sharp": "my:sharp"}
    assert resolve_all(columns) == {
        "clip": Spec("clip", "clip", "demo"),
        "pickscore": Spec("pickscore", "pickscore"),
        "old": Spec("old", "hpsv2.0", "weights/old.pt"),
        "sharp": Spec("sharp", "my:sharp"),
    }


def test_a_vague_column_may_name_its_version() -> None:
    assert resolve("hpsv2", "hpsv2.1=demo") == Spec("hpsv2", "hpsv2.1", "demo")


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("hpsv2", "demo", "write hpsv2.1 or hpsv2.0"),
        ("hpsv2", None, "write hpsv2.1 or hpsv2.0"),
        ("mine", "demo", "'mine' is not a reward"),
        ("mine", None, "'mine' is not a reward"),
        ("clip", "aesthetic", "which is a reward and no source"),
        ("prompt", "clip=demo", "cannot have the column 'prompt'"),
    ],
)
def test_what_is_no_column_is_refused(column: str, value: str | None, reason: str) -> None:
    with pytest.raises(TgoError, match=reason):
        resolve(column, value)


def test_a_reward_fills_a_column_for_each_of_its_numbers() -> None:
    given = resolve_all({"clip": "demo", "hpsv3": "weights", "mine": "hpsv3=weights"})
    filled = specs.columns(given)
    assert list(filled) == ["clip", "hpsv3", "hpsv3.sigma", "mine", "mine.sigma"]
    assert filled["mine.sigma"] == given["mine"]
    with pytest.raises(TgoError, match=r"two columns of scores are called 'hpsv3\.sigma'"):
        specs.columns(resolve_all({"hpsv3": "weights", "hpsv3.sigma": "clip=demo"}))
