"""Pick-a-Pic v1 and v2: pairs of images with a choice, as the web application showed them (Kirstain et al. 2023).

`yuvalkirstain/pickapic_v1` and `_v2` have the images as JPEG bytes in their rows; the variants `_no_images` lack those
two columns. An image that wins a round stays for the next one, so the same uid is in several rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from tgo_pipeline.datasets.base import ROWS, Dataset
from tgo_pipeline.datasets.schemas import COMPARISONS, IMAGE_ROWS, LISTING, PROMPT_ROWS
from tgo_pipeline.errors import TgoError, listed
from tgo_pipeline.reading import parquet
from tgo_pipeline.reading.deduplicate import Seen

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SIDES = ("image_0_uid", "image_1_uid")
LISTED = ("caption", *SIDES, "model_0", "model_1")
CHOICE = (*LISTED, "label_0", "label_1", "has_label", "user_id")
RENAMED = {"prompt": "caption", "rater": "user_id"}
IMAGES = ("jpg_0", "jpg_1")
IMAGE_PAIRS = 8
"""Rows with two images each that are decoded at a time: `ROWS_AT_ONCE` of images."""


class Cell(NamedTuple):
    """An image's row in its row group, and which of the two columns it is in."""

    row: int
    side: int


class Image(NamedTuple):
    """An image that no earlier row had with the same prompt."""

    cell: Cell
    image_uid: str
    prompt: str
    model: str | None


class PickAPic(Dataset):
    """Comparisons, and images where the variant has them."""

    title = "Pick-a-Pic"
    markers = ("*.parquet", "*/*.parquet")

    def files(self) -> list[str]:
        return self._files

    def prompts(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in self._columns(["caption"]):
            nothing = pa.nulls(batch.num_rows, pa.string())
            prompts = parquet.cast(self.address, batch, "caption", pa.string())
            yield pa.RecordBatch.from_arrays([prompts, nothing, nothing], schema=PROMPT_ROWS)

    def comparisons(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in self._columns(CHOICE):
            chosen = batch.filter(parquet.cast(self.address, batch, "has_label", pa.bool_()))
            columns = [
                parquet.cast(self.address, chosen, RENAMED.get(field.name, str(field.name)), field.type)
                for field in COMPARISONS
            ]
            if chosen.num_rows:
                yield pa.RecordBatch.from_arrays(columns, schema=COMPARISONS)

    def listing(self) -> Iterator[pa.RecordBatch]:
        for _, _, images in self._groups():
            yield from self._batches((image._asdict() for image in images), LISTING)

    def images(self, start: int = 0) -> Iterator[pa.RecordBatch]:
        position = 0
        for file, group, images in self._groups():
            wanted = images[max(0, start - position) :]
            position += len(images)
            if wanted:
                yield from self._images(file, group, wanted)

    @cached_property
    def _files(self) -> list[str]:
        return parquet.of_split(self.address, self.place, self.split)

    def _columns(self, names: Iterable[str]) -> Iterator[pa.RecordBatch]:
        for name in self._files:
            yield from parquet.columns(self.place, name, list(names), ROWS)

    def _groups(self) -> Iterator[tuple[pq.ParquetFile, int, list[Image]]]:
        """Every row group with the images that are new in it; only small columns are read."""
        seen = Seen()
        for name in self._files:
            with parquet.opened(self.place, name) as file:
                parquet.require(self.place.where(name), LISTED, file.schema_arrow.names)
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, list(LISTED), use_threads=False)
                    yield file, group, list(_new(table, seen))

    def _images(self, file: pq.ParquetFile, group: int, wanted: list[Image]) -> Iterator[pa.RecordBatch]:
        self._check_images(file.schema_arrow)
        waiting = {image.cell: image for image in wanted}
        row = 0
        for pairs in parquet.stream(file, IMAGES, IMAGE_PAIRS, group):
            cells = [Cell(row + i, side) for i in range(pairs.num_rows) for side in range(len(IMAGES))]
            rows = [
                image._asdict() | {"image": _stored(image, pairs[IMAGES[cell.side]][cell.row - row].as_py())}
                for cell in cells
                if (image := waiting.pop(cell, None)) is not None
            ]
            yield from self._batches(rows, IMAGE_ROWS)
            row += pairs.num_rows
            if not waiting:
                return

    def _check_images(self, schema: pa.Schema) -> None:
        import pyarrow as pa

        for name in IMAGES:
            if name not in schema.names:
                raise TgoError(
                    f"{self.address} has no column {name!r}, so it has no images: the variants `_no_images` hold "
                    "prompts and comparisons alone, and the images are in yuvalkirstain/pickapic_v1 and _v2. Its "
                    f"columns are: {listed(schema.names)}."
                )
            kind = schema.field(name).type
            if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
                raise TgoError(f"{self.address}: column {name!r} is {kind}, not the bytes of an image.")


def _new(table: pa.Table, seen: Seen) -> Iterator[Image]:
    """The images of a row group that were not `seen`, row by row; they are then."""
    prompts, *columns = (table[name].to_pylist() for name in LISTED)
    for row, (prompt, *values) in enumerate(zip(prompts, *columns, strict=True)):
        for side, (uid, model) in enumerate(zip(values[:2], values[2:], strict=True)):
            if seen.add(uid, prompt):
                yield Image(Cell(row, side), uid, prompt, model)


def _stored(image: Image, data: bytes | None) -> dict[str, bytes | str] | None:
    return None if data is None else {"bytes": data, "path": f"{image.image_uid}.jpg"}
