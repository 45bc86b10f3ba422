"""Sixty images of twenty prompts in a folder, and a server of them."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.images.conftest import data_hub, hub
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.rating import gallery, order, store
from tgo_pipeline.rating.gallery import RatableImage
from tgo_pipeline.rating.server import RatingServer
from tgo_pipeline.rating.session import RatingSession

__all__ = ["data_hub", "hub"]
PROMPTS, PER_PROMPT = 20, 3
Serve = Callable[..., Any]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    with (made / "metadata.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file_name", "prompt"])
        for number in range(PROMPTS * PER_PROMPT):
            Image.new("RGB", (48, 32), (4 * number, 90, 255 - 4 * number)).save(made / f"{number:02d}.png")
            table.writerow([f"{number:02d}.png", f"prompt <b>{number // PER_PROMPT}</b>"])
    return made


@pytest.fixture
def images(folder: Path, tmp_path: Path) -> list[RatableImage]:
    return gallery.listed([str(folder)], Columns(), None, tmp_path)


@pytest.fixture
def serve(images: list[RatableImage]) -> Serve:
    """A context with a server of the sixty images, by the file of its answers and what it asks."""

    @contextmanager
    def serving(to: Path, ask: str = "stars", *, fewest: bool = False) -> Iterator[RatingServer]:
        with store.opened(to) as answers:
            session = RatingSession(order.shuffled(images, 0), answers, ask, fewest, 0)
            with RatingServer(session, 0) as server:
                thread = threading.Thread(target=server.serve_forever, args=(0.01,))
                thread.start()
                try:
                    yield server
                finally:
                    server.shutdown()
                    thread.join()

    return serving
