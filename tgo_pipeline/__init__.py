"""Reward scoring, thresholding and fine-tuning of text-to-image models on human preference without pairs.

The way of a sample, by folder: `prompts` → `generators` (or `images` that exist) → `scoring` (`rewards`, `feedback`)
→ `thresholds` (tau, labels, weights) → the package `fine_tune` → `evaluation` → `report`.
Under them lie `params` (`params.yaml`), `storage` (tables and shards), `hub`, `reading` and `datasets` (where files
come from), `plugins` (parts by name, of one's own too), `executors` (where shards run) and `rendering` (text for
people); also `planning`, `inputs` (for DVC), `doctor`, `sharing`.
`stages` has one file for each DVC stage, `stages/commands` one for each command. docs/ARCHITECTURE.md has the map.
"""

import sys

try:
    import fcntl  # noqa: F401
except ImportError:
    raise ImportError(
        f"tgo-pipeline needs the file locks of POSIX systems (Python's fcntl), which {sys.platform} lacks: on Windows, "
        "install it inside WSL 2 (`wsl --install`) or run it in a Linux container."
    ) from None

__version__ = "0.1.0"
SAME_SIGNAL_S = 1.0
"""A signal that comes again within this time is the first one: a terminal sends it to a command and to what it runs."""
