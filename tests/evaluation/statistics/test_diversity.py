"""Diversity is the mean over pairs of images, of pixels and of embeddings."""

import itertools

import numpy as np
import pytest
from PIL import Image

from tgo_pipeline.evaluation.statistics.diversity import clip_spec, embedding_distance, pixel_distance
from tgo_pipeline.rewards.specs import resolve_all


def test_pixels_are_compared_pair_by_pair() -> None:
    shades = (0, 51, 255)
    images = [Image.new("RGB", (4, 4), (shade,) * 3) for shade in shades]
    expected = np.mean([0.2, 1.0, 0.8])
    assert pixel_distance(images) == pytest.approx(expected, abs=1e-7)
    assert pixel_distance(images[:1] * 3) == 0


def test_embeddings_are_compared_by_direction() -> None:
    import torch

    vectors = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).double()
    cosines = [float(a @ b) / float(a.norm() * b.norm()) for a, b in itertools.combinations(vectors, 2)]
    assert embedding_distance(vectors) == pytest.approx(1 - np.mean(cosines), abs=1e-12)
    assert embedding_distance(torch.stack([vectors[0], 3 * vectors[0]])) == pytest.approx(0, abs=1e-12)


def test_the_clip_score_is_found_under_any_column() -> None:
    assert clip_spec(list(resolve_all({"pickscore": "demo"}).values())) is None
    found = clip_spec(list(resolve_all({"pickscore": "demo", "mine": "clip=demo"}).values()))
    assert found is not None
    assert (found.column, found.source) == ("mine", "demo")
