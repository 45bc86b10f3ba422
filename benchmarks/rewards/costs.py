"""What each reward costs: parameters, memory and operations, counted on the real network without weights.

    python -m benchmarks.rewards.costs

Sizes are those of the official files, operations those for one image with one prompt of usual length (of `videoreward`
for eight seconds of a square clip), as `tgo plan` counts them. Writes a section of RESULTS.md; no weights are needed.
"""

from __future__ import annotations

from benchmarks.results import RESULTS, described, hardware, replace_section, table
from tgo_pipeline.planning.scoring import Scoring, scoring
from tgo_pipeline.rewards.files.layouts import LAYOUTS, Layout
from tgo_pipeline.rewards.specs import Spec

PROMPT = "a red fox sleeps under an old oak tree in the first snow of the year, oil on canvas"
BATCH = 8
HEADER = ("reward", "parameters", "download", "weights, half", "weights, float32", "GFLOP an image")
INTRODUCTION = (
    "Counted on the meta device with the official sizes (`python -m benchmarks.rewards.costs`). Half: fp16, or bf16 "
    "for vision-language models, as on a GPU, where embeddings, norms and heads stay in float32. Operations: one image "
    "and one prompt of 18 words, each read alone; of `videoreward` 16 frames of 448 pixels. A download is left out "
    "where its size is recorded nowhere."
)


def main() -> None:
    """Print the table and write it."""
    rows = [_row(name, layout) for name, layout in LAYOUTS.items() if layout.weights]
    body = "\n\n".join(
        ["## What each reward costs", INTRODUCTION, described(hardware()), table(HEADER, rows)]
    )
    print(body)
    replace_section(RESULTS, "reward_costs", body)


def _row(name: str, layout: Layout) -> list[str]:
    half, single = (costs(name, precision) for precision in ("fp16", "fp32"))
    sizes = [official.size_bytes for official in layout.official.values() if official.size_bytes]
    return [
        f"`{name}`",
        f"{single.weight_bytes / 4e6:,.0f} M",
        f"{sum(sizes) / 1e9:.2f} GB" if sizes else "",
        f"{half.weight_bytes / 1e9:.2f} GB",
        f"{single.weight_bytes / 1e9:.2f} GB",
        f"{(single.flops_per_image + single.flops_per_prompt) / 1e9:,.0f}",
    ]


def costs(name: str, precision: str) -> Scoring:
    """What the reward of official sizes takes."""
    return scoring({name: Spec(name, name)}, [PROMPT], BATCH, precision)


if __name__ == "__main__":
    main()
