"""Images of the rating page for the documentation, taken by the same browser that tests it.

    TGO_SCREENSHOTS=docs TGO_SCREENSHOTS_OF=PROJECT python -m pytest tests/rating/test_screenshots.py

writes `docs/rating*.png` of the samples of a project, such as one of the demo. Without the variables the images are of
plain colours, go into a temporary folder, and the test says whether the documentation has each of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.rating.conftest import Serve
from tests.rating.test_browser import enter
from tests.report.browser import NAMES, Browser, find_browser
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.rating.gallery import RatableImage, listed

pytestmark = pytest.mark.skipif(find_browser() is None, reason=f"none of {', '.join(NAMES)} is installed")
DOCS = Path(__file__).parents[2] / "docs"
VIEWS = {
    "rating": ("stars", 1100, 720, 1, "light"),
    "rating_pairs": ("pairs", 390, 780, 1, "dark"),
}
"""File name to what is asked, the window (CSS pixels), the image's pixels for each of them, the scheme."""


@pytest.fixture
def images(images: list[RatableImage], tmp_path: Path) -> list[RatableImage]:
    project = os.environ.get("TGO_SCREENSHOTS_OF")
    return listed([f"{project}/data/generations"], Columns(), None, tmp_path) if project else images


@pytest.mark.parametrize("name", VIEWS)
def test_images_for_the_documentation(serve: Serve, tmp_path: Path, name: str) -> None:
    ask, width, height, scale, scheme = VIEWS[name]
    image = Path(os.environ.get("TGO_SCREENSHOTS", tmp_path)) / f"{name}.png"
    with (
        Browser() as browser,
        serve(tmp_path / "r.jsonl", ask) as server,
        browser.open(server.address, width=width, height=height, scheme=scheme) as page,
    ):
        page.resize(width, height, scale)
        enter(page, "Ann")
        for count in range(1, 17):
            page.key("4" if ask == "stars" else "ArrowLeft")
            page.until(f"document.querySelector('#bar').value === {count}")
        page.run("Promise.all([...document.images].map(image => image.decode()))")
        page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        page.screenshot(image)
        assert page.console == []
    taken = Image.open(image).convert("RGB")
    assert taken.size == (width * scale, height * scale)
    taken.save(image, optimize=True)
    assert image.stat().st_size < 200_000
    assert (DOCS / f"{name}.png").is_file(), f"docs/{name}.png is missing: see the top of this file"
