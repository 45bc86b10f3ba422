"""Images that exist: one language of addresses and one seam for `generate.images` and `tgo score`.

`open(["pickapic:/data/pickapic_v2/train"], Columns())` gives sources of rows; docs/DATASETS.md has the table of forms.
"""

from tgo_pipeline.images.address import open
from tgo_pipeline.images.base import ImageSource, Row
from tgo_pipeline.images.columns import Columns

__all__ = ["Columns", "ImageSource", "Row", "open"]
