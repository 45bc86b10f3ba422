"""The size of a JPEG, and how much of a quoted text is read."""

from __future__ import annotations

import importlib.util
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from tests.rewards.tiny import smooth_image
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import load_reward, score_all
from tgo_pipeline.rewards.measures.quoted_text import edit_distance, quoted, share_read

HAS_OCR = importlib.util.find_spec("rapidocr") is not None


def test_the_size_is_that_of_the_file() -> None:
    images = [smooth_image(90, 60), Image.new("RGB", (90, 60), "red")]
    found = load_reward("jpeg_kb").score(images)
    for image, size in zip(images, found, strict=True):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=95)
        assert size == np.float32(len(file.getvalue()) / 1000)
    assert found[0] > 2 * found[1]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('a sign "Open Late" and "No"', ["Open Late", "No"]),
        ("a sign “Open”, „Zu“ and «Fermé»", ["Open", "Zu", "Fermé"]),
        ("the dog's bone, 5' 3\" tall", []),
        ("nothing", []),
    ],
)
def test_what_a_prompt_quotes(prompt: str, texts: list[str]) -> None:
    assert quoted(prompt) == texts


@given(st.text("ab ", max_size=8), st.text("ab ", max_size=8), st.text("ab ", max_size=8))
def test_the_edit_distance_is_a_distance(one: str, two: str, three: str) -> None:
    assert (edit_distance(one, two) == 0) == (one == two)
    assert edit_distance(one, two) == edit_distance(two, one) <= max(len(one), len(two))
    assert edit_distance(one, three) <= edit_distance(one, two) + edit_distance(two, three)


def test_the_share_that_is_read() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert share_read("welcomeopenlate", "openlate") == 1
    assert share_read("opemlate", "openlate") == pytest.approx(7 / 8)
    assert share_read("", "open") == 0 and share_read("something else entirely", "open") == 0
    assert math.isnan(share_read("open", ""))


@pytest.mark.skipif(HAS_OCR, reason="RapidOCR is installed")
def test_without_its_package_it_says_what_to_install() -> None:
    with pytest.raises(TgoError, match=r"tgo-pipeline\[ocr\]"):
        load_reward("ocr").score([smooth_image(60, 60)], ['"a"'])


@pytest.mark.skipif(not HAS_OCR, reason="RapidOCR (the extra `ocr`) is not installed")
def test_written_text_is_read() -> None:
    image = Image.new("RGB", (400, 120), "white")
    ImageDraw.Draw(image).text((40, 30), "OPEN LATE", "black", ImageFont.load_default(48))
    found = score_all([load_reward("ocr")], [image] * 3, ['a sign "Open Late"', 'a sign "Closed"', "a sign"])
    assert found.columns["ocr"][0] > 0.8 and found.columns["ocr"][1] < 0.5
    assert found.errors == {2: "ocr gave no score: the prompt quotes no text"}
