"""Numbers that should be equal but were not computed alike: in other shapes, with other threads, from other memory.

For another shape, or weights at another address, a processor adds up in another order, and which shapes that concerns
differs between processors. A test asks for equal bits (`torch.equal`) only of one computation done twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np

ELEMENTWISE = 4
"""Units in the last place where each number comes from a few numbers: products and sums of two round once each, and
some processors round a product and a sum together."""
NETWORK = 512
"""Units in the last place of the greatest number for what a small network makes of numbers: some tens of layers, each
with sums over tens of terms that are off by a few units. When every operation was given other last digits for each
shape, the greatest difference was 1.3e-5, in embeddings of a text encoder."""
SCORE = 64
"""The same for a reward of an image: its networks end in norms and cosines, which level what their layers err by."""
IMAGES = 1e-3
"""Of the range of an image: several steps of a network and a decoder."""
SAME_TOKENS = 0.9
"""The share of tokens that two drawings must have in common. A token that is drawn where two are equally likely within
rounding may be the other one, and then changes what is drawn after it; of other drawings it is a few percent."""


def assert_same_numbers(found: Any, expected: Any, units: int = NETWORK) -> None:
    """Both are equal to `units` units in the last place of the greatest number expected; whole numbers are equal."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    if not np.issubdtype(expected.dtype, np.floating):
        np.testing.assert_array_equal(found, expected)
        return
    greatest = np.nanmax(np.abs(expected), initial=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=units * np.finfo(expected.dtype).eps * greatest)


def assert_same_images(found: Any, expected: Any, *, tokens: bool = False) -> None:
    """Both are equal to rounding; of a model that draws tokens nearly all pixels are."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert found.shape == expected.shape
    same = np.abs(found - expected) <= IMAGES * max(1.0, np.abs(expected).max())
    assert same.mean() >= (SAME_TOKENS if tokens else 1)


def assert_same_tokens(found: Any, expected: Any) -> None:
    """Nearly all tokens of two drawings are the same."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert (found == expected).mean() >= SAME_TOKENS
