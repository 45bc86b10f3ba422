"""What every data set is read as: Arrow schemas that are the same whatever its files look like."""

import pyarrow as pa

from tgo_pipeline.storage.tables import IMAGE

PROMPT_ROWS = pa.schema([("prompt", pa.string()), ("category", pa.string()), ("challenge", pa.string())])
"""A prompt with a benchmark's category (or style) and challenge; both are null where the data set has none."""

LISTING = pa.schema([("image_uid", pa.string()), ("prompt", pa.string()), ("model", pa.string())])
"""What the data set calls an image, its prompt, and the generator that drew it (null where it is not known)."""

IMAGE_ROWS = pa.schema([*LISTING, pa.field("image", IMAGE)])
"""A listed image with its bytes; the image is null where its file is missing."""

COMPARISONS = pa.schema(
    [
        ("prompt", pa.string()),
        ("image_0_uid", pa.string()),
        ("image_1_uid", pa.string()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("rater", pa.string()),
    ]
)
"""One choice between two images: labels are 1 (preferred), 0, or 0.5 for both (a tie)."""

RATINGS = pa.schema(
    [("image_uid", pa.string()), ("prompt", pa.string()), ("rater", pa.string()), ("value", pa.float64())]
)
"""One rating of one image, in the data set's own units."""
