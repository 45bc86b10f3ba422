"""The results of the comparison as text: a table for the terminal, a page for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.parity.compare import BY_DESIGN
from benchmarks.results import table

_INTRODUCTION = """# Equality with the official code

Written by `make parity`: random weights in the files that the authors publish, read by their packages (in an
environment of its own, `tgo env create official-rewards`) and by `load_reward(...).score(...)`, both in float32
on a CPU. `make parity SEED=n` repeats a comparison; without a seed every run draws new weights, images and prompts.

Images: square, landscape, portrait, panorama, 224 pixels square and long, 30×40, 1024 square, 1000×2, one pixel,
grey, palette, four inks, transparent, 16 bits, turned by EXIF. Prompts: plain, curly quotes, emoji, HTML entities,
other scripts, 200 words, shouting, odd spaces, control characters, mojibake, empty. At full size six of the images
and two of the prompts. Compared are scores, token ids, prepared images, and the ranks of ImageReward's list call.
"""
_COLUMNS = """*Spread* is the standard deviation of the official scores over the pairs: what the differences are to be
compared with. *To float64* is the greatest distance to the same formula in double precision, computed by the
official modules: where ours and theirs are alike, the rest is rounding. *Pixels* is the greatest difference of a
prepared image, whose values are normalised. Token ids are compared one by one."""

_CRASHES = """## What the official code raises an error for

Each of these has a finite score here. Where the right score is known, it is compared, too: that of the decoded image
for transparency, of the padded image for a long side of 224, of the prompt cut to 77 tokens, as `clip.tokenize` does
when asked to, for a long prompt.

"""
_BY_DESIGN = """## Images that are read otherwise on purpose

Images are decoded to RGB once, for all rewards alike. The scores of these kinds are compared with the official ones
of the decoded image, within the tolerances above; here is what the official code makes of the file itself.

"""


def summary(result: Mapping[str, Any]) -> str:
    """The table of one size."""
    header = (
        *("reward", "pairs", "greatest difference", "tolerance", "spread"),
        *("ours to float64", "official to float64", "pixels", "token ids"),
    )
    return table(header, [_row(row) for row in result["rewards"]])


def _row(row: Mapping[str, Any]) -> list[str]:
    tokens = f"{row['prompts']} prompts equal" if row["prompts"] else "none"
    if any("token ids" in problem for problem in row["problems"]):
        tokens = "differ"
    numbers = ("difference", "tolerance", "spread", "ours_to_exact", "official_to_exact", "pixels")
    return [row["reward"], str(row["pairs"]), *(_number(row[name]) for name in numbers), tokens]


def _number(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.1e}" if value < 1e-2 else f"{value:.2f}"


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/PARITY.md for the results by size."""
    parts = [_INTRODUCTION]
    for size, result in results.items():
        parts.append(
            f"## {size.capitalize()} size\n\n"
            f"{result['date']}, seed {result['seed']}, {result['images']} images × {result['prompts']} prompts, "
            f"{result['machine']}.\n\n{summary(result)}\n"
        )
        if result["problems"]:
            parts.append("\n".join(f"- **Wrong:** {problem}" for problem in result["problems"]) + "\n")
    parts += [_COLUMNS + "\n", _crashes(results), _by_design(results), _versions(results)]
    return "\n".join(parts)


def _crashes(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What the official code raises an error for, and here has a score."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in _rows(results):
        for what, error in row["crashes"].items():
            rewards = found.setdefault((what, error), [])
            if row["reward"] not in rewards:
                rewards.append(row["reward"])
    lines = [
        [what.replace("_", " "), ", ".join(rewards), f"`{error}`"] for (what, error), rewards in found.items()
    ]
    return (
        _CRASHES
        + _text_table(["image or prompt", "rewards", "error of the official code"], sorted(lines))
        + "\n"
    )


def _by_design(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Kinds of image that are read otherwise on purpose, and how far that moves the score."""
    lines = []
    for image, (why, _) in BY_DESIGN.items():
        moved = {
            row["reward"]: row["by_design"][image] for row in _rows(results) if image in row["by_design"]
        }
        if moved:
            text = ", ".join(f"{reward} {_number(value)}" for reward, value in moved.items())
            lines.append([image.replace("_", " "), why, text])
    return (
        _BY_DESIGN + _text_table(["image", "here, and there", "greatest difference of a score"], lines) + "\n"
    )


def _versions(results: Mapping[str, Mapping[str, Any]]) -> str:
    result = list(results.values())[-1]
    sides = {"Official environment": result["official"], "This project": result["ours"]}
    lines = [
        f"{side}: {', '.join(f'{name} {v}' for name, v in found.items())}." for side, found in sides.items()
    ]
    return "## Versions\n\n" + "\n\n".join(lines) + "\n"


def _text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(results: Mapping[str, Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    return [row for result in results.values() for row in result["rewards"]]
