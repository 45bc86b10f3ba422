"""Images that exist: files, folders, tables, Parquet and data sets of the hub, for `generate.images`, `tgo score`."""

from __future__ import annotations

from pathlib import Path

from tgo_pipeline.images.base import ImageSource


def open_source(images: str, image_column: str, prompt_column: str) -> ImageSource:
    """The source that `generate.images` names. Raises `TgoError` if there is none."""
    from tgo_pipeline.datasets import is_dataset, open_dataset
    from tgo_pipeline.images.dataset import StreamedImages
    from tgo_pipeline.images.files import LocalImages

    if is_dataset(images):
        return StreamedImages(open_dataset(images))
    return LocalImages(Path(images).expanduser(), image_column, prompt_column)
