"""Captions and images of the small world."""

import numpy as np
import pytest

from tgo_pipeline import demo
from tgo_pipeline.demo import world
from tgo_pipeline.errors import TgoError


def test_prompt_sources_have_no_caption_in_common():
    every = [caption for source in demo.SOURCES for caption in demo.prompts(source)]
    assert len(every) == len(set(every))
    assert all(len(demo.prompts(family)) >= 48 for family in world.FAMILIES)


def test_families_are_disjoint_and_every_caption_is_read_back():
    for family in world.FAMILIES:
        for caption in world.captions(family):
            assert world.parse(caption).caption == caption
    plain, sized, placed = (set(world.captions(family)) for family in world.FAMILIES)
    assert not plain & sized and not sized & placed and not plain & placed


def test_an_unknown_source_or_sentence_is_explained():
    with pytest.raises(TgoError, match=r"demo:beach is not a prompt source.*demo:train"):
        demo.prompts("beach")
    with pytest.raises(ValueError, match="cannot read the caption 'a dog'"):
        world.parse("a dog")
    with pytest.raises(TgoError, match="ships no 'audio'"):
        demo.weights_path("audio")


def test_images_depend_on_the_seed_alone():
    captions = demo.prompts("plain")[:8]
    first = world.images(captions, seed=3)
    assert first.shape == (8, 32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, world.images(captions, seed=3))
    assert not np.array_equal(first, world.images(captions, seed=4))


@pytest.mark.parametrize("shape", world.SHAPES)
def test_a_clean_image_has_the_colours_and_the_area_of_its_caption(shape: str):
    (image,) = world.images([f"a large red {shape} on a white background"], seed=0, strength=0)
    assert tuple(image[0, 0]) == world.BACKGROUNDS["white"]
    red, white = (
        np.array(table[name]) for table, name in ((world.COLOURS, "red"), (world.BACKGROUNDS, "white"))
    )
    covered = ((image - white) @ (red - white) / ((red - white) @ (red - white))).sum()
    expected = np.pi * world.RADII_PX["large"] ** 2 * (0.8 if shape == "triangle" else 1.0)
    assert covered == pytest.approx(expected, rel=0.15)  # the radius varies by 6 %


@pytest.mark.parametrize(
    ("position", "axis", "sign"), [("left", 1, -1), ("right", 1, 1), ("top", 0, -1), ("bottom", 0, 1)]
)
def test_the_object_is_where_the_caption_says(position: str, axis: int, sign: int):
    (image,) = world.images(
        [f"a small blue square on a black background, at the {position}"], seed=0, strength=0
    )
    centre = np.argwhere(image[..., 2] > 120).mean(0)
    assert sign * (centre[axis] - 15.5) > 4
    assert abs(centre[1 - axis] - 15.5) < 2
