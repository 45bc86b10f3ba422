"""Numbers that papers report, as data with their sources: shown beside ours on demand, never part of any statistic.

Nothing here was measured by this package. How each was measured is often not stated (sampler, seeds, guidance, version
of a reward, number of prompts), so equal names need not mean equal quantities: every block says what is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tgo_pipeline.rendering.table import NONE, Sheet

TGO, KTO, HPS = (
    "arXiv 2605.04653 (TGO)",
    "arXiv 2404.04465 (Diffusion-KTO)",
    "github.com/tgxs002/HPSv2 (leaderboard)",
)
PGD = "arXiv 2602.18799 (PGD)"
SECOND_HAND = "read from pages about the paper, not from its own table"

WIDE = 7
"""Columns that a sheet of a block has at most, unless they are all of one test set."""


@dataclass(frozen=True)
class Block:
    """One published table or a part of it: `values` has a row per method and a column per (test set, reward).

    `table` is the table of ours that it stands beside: `models` for mean scores, `matrix` for win rates in percent.
    """

    table: str
    title: str
    source: str
    caveats: str
    columns: tuple[tuple[str, str], ...]
    values: dict[str, tuple[float | None, ...]]
    digits: tuple[int, ...]


_FIVE = ("aesthetic", "pickscore", "imagereward", "clip", "hpsv2")
_SETS = ("Pick-a-Pic", "HPSv2", "PartiPrompts")
_MEDIANS = (
    "Median-scoring image of 5 a prompt, which inflates win rates over single images; 50 steps and CFG 7 by its "
    "README. Its confidence intervals count 2500 images although rates are over 500 prompts: the true half-widths are "
    "about sqrt(5) larger (3 to 4 points on Pick-a-Pic). HPSv2 version not stated."
)

BLOCKS: tuple[Block, ...] = (
    Block(
        table="models",
        title="TGO, SD 1.5 on Pick-a-Pic v2: mean scores",
        source=f"{TGO}, Table 1, {SECOND_HAND}",
        caveats="Only these cells were recoverable; sampler, steps, guidance, seeds and images a prompt are not stated "
        "('follows Diffusion-KTO'). The caption says mean scores, the text win-rate comparisons. No intervals.",
        columns=(
            ("Pick-a-Pic", "hpsv2.1"),
            ("Pick-a-Pic", "imagereward"),
            ("PartiPrompts", "pickscore"),
            ("HPSv2", "imagereward"),
            ("HPSv2", "aesthetic"),
        ),
        values={
            "SD 1.5": (0.2469, 0.1131, 21.15, 0.1384, 5.29),
            "DPO": (0.2594, 0.3433, 21.41, 0.3672, 5.39),
            "KTO": (0.2814, 0.6381, 21.50, 0.7365, 5.50),
            "TGO": (0.2860, 0.6703, 21.55, 0.7595, 5.53),
        },
        digits=(4, 4, 2, 4, 2),
    ),
    Block(
        table="models",
        title="TGO, 10,000 prompts with scalar rewards: mean scores",
        source=f"{TGO}, {SECOND_HAND}",
        caveats="Test prompts: HPSv2's. Protocol as above, not stated; the gap of TGO to SFT on Meissonic is .0003 of "
        "HPSv2.1, without an interval.",
        columns=(("HPSv2", "hpsv2.1"), ("HPSv2", "imagereward"), ("HPSv2", "aesthetic")),
        values={
            "SD 1.4": (0.2454, 0.1406, 5.4277),
            "SD 1.4 SFT": (0.2506, 0.2348, 5.4927),
            "SD 1.4 TGO": (0.2618, 0.3523, 5.6036),
            "Meissonic": (0.2810, 0.8230, 5.7692),
            "Meissonic SFT": (0.2912, 0.9215, 5.8013),
            "Meissonic TGO": (0.2915, 0.9369, 5.8270),
        },
        digits=(4, 4, 4),
    ),
    Block(
        table="models",
        title="Diffusion-KTO, SD 1.5 on Pick-a-Pic v2: mean scores",
        source=f"{KTO}, Table 2 (full text)",
        caveats="500 prompts with 5 images each. The headers of ImageReward and HPS are evidently swapped in the paper "
        "(ImageReward about .33, HPS from .10 to .62): columns stand here as printed. "
        "CLIP is printed times 100, and is a raw cosine in our columns.",
        columns=tuple(
            ("Pick-a-Pic", name)
            for name in ("aesthetic", "pickscore", "imagereward (as printed)", "clip", "hpsv2 (as printed)")
        ),
        values={
            "SD 1.5": (5.281, 20.387, 0.333, 31.364, 0.102),
            "SFT": (5.499, 20.664, 0.336, 31.377, 0.485),
            "CSFT": (5.527, 20.713, 0.335, 31.448, 0.488),
            "AlignProp": (5.106, 19.123, 0.278, 26.932, 0.195),
            "D3PO": (5.326, 20.413, 0.333, 31.350, 0.143),
            "DPO": (5.380, 20.785, 0.339, 31.673, 0.293),
            "KTO": (5.527, 20.908, 0.342, 31.781, 0.623),
        },
        digits=(3, 3, 3, 3, 3),
    ),
    Block(
        table="models",
        title="HPSv2 leaderboard: mean HPS of base models",
        source=HPS,
        caveats="Printed times 100, here divided by 100; 3,200 prompts in four styles. Versions 2.0 and 2.1 are not "
        "comparable.",
        columns=(("HPSv2", "hpsv2.0"), ("HPSv2", "hpsv2.1")),
        values={"SD 1.4": (0.2695, 0.2535), "SDXL base 0.9": (0.2773, 0.3063)},
        digits=(4, 4),
    ),
    Block(
        table="matrix",
        title="Diffusion-KTO against each method, SD 1.5: win rate in percent",
        source=f"{KTO} (full text)",
        caveats=_MEDIANS,
        columns=tuple((name, reward) for name in _SETS for reward in _FIVE),
        values={
            "SD 1.5": (
                86.0,
                85.2,
                87.2,
                62.0,
                62.0,
                76.2,
                77.7,
                74.3,
                53.5,
                53.6,
                74.2,
                67.1,
                66.9,
                53.8,
                52.5,
            ),
            "SFT": (56.4, 72.8, 64.8, 64.8, 54.6, 60.1, 66.6, 54.5, 54.9, 51.9, 55.0, 65.0, 53.6, 54.4, 53.2),
            "CSFT": (
                50.6,
                73.6,
                65.2,
                62.8,
                60.4,
                51.5,
                64.7,
                52.2,
                54.5,
                55.3,
                50.9,
                62.3,
                53.9,
                51.8,
                53.0,
            ),
            "AlignProp": (
                *(86.8, 96.6, 84.4, 96.2, 90.2, 86.2, 98.0, 81.0, 93.2, 89.7, 76.6, 95.5, 79.0, 91.2, 86.8),
            ),
            "D3PO": (
                68.0,
                73.6,
                71.6,
                56.8,
                55.6,
                76.0,
                76.9,
                75.6,
                54.4,
                53.9,
                75.1,
                67.0,
                68.9,
                51.5,
                53.0,
            ),
            "DPO": (74.2, 61.8, 78.4, 53.2, 51.6, 63.9, 60.3, 66.3, 47.3, 48.9, 66.2, 52.7, 56.4, 49.6, 46.1),
        },
        digits=(1,) * 15,
    ),
    Block(
        table="matrix",
        title="PGD on SDXL: average win rate in percent against the base",
        source=f"{PGD}, {SECOND_HAND}",
        caveats="An average over rewards and test sets that is not defined further; the paper's code mixes two "
        "timesteps into its baseline. Not comparable with a single column of ours.",
        columns=(("all sets:", "average of rewards"),),
        values={"PGD-merge": (76.9,), "DPO": (66.3,)},
        digits=(1,),
    ),
    Block(
        table="matrix",
        title="PGD on SDXL: highest win rates in percent against the base",
        source=f"{PGD}, {SECOND_HAND}",
        caveats="The highest of its variants, chosen by the result. A reviewer notes that the PickScore win rate of "
        "DPO on SDXL is 89.4 in one of its tables and below 30 in one of its figures.",
        columns=(("Pick-a-Pic", "pickscore"), ("PartiPrompts", "aesthetic"), ("PartiPrompts", "pickscore")),
        values={"PGD (best)": (92.9, 88.4, 74.8)},
        digits=(1, 1, 1),
    ),
)


def sheets(table: str, rewards: Sequence[str]) -> list[Sheet]:
    """The published numbers that belong beside one of our tables, as far as they are of `rewards` (canonical names).

    A block whose rewards are not named exactly (an average, `hpsv2` without a version) is shown where any of its
    columns may be meant; columns of rewards that are not evaluated are left out.
    """
    blocks = [(block, _places(block, rewards)) for block in BLOCKS if block.table == table]
    return [_sheet(block, part) for block, places in blocks for part in _parts(block, places)]


def _parts(block: Block, places: Sequence[int]) -> list[list[int]]:
    """The columns of a block as one sheet, or one for each test set where they are many."""
    if len(places) <= WIDE:
        return [list(places)] if places else []
    sets = dict.fromkeys(block.columns[place][0] for place in places)
    return [[place for place in places if block.columns[place][0] == name] for name in sets]


def _places(block: Block, rewards: Sequence[str]) -> list[int]:
    return [place for place, (_, name) in enumerate(block.columns) if _may_be(name, rewards)]


def _may_be(printed: str, rewards: Sequence[str]) -> bool:
    name = printed.split(" (")[0]
    return name.startswith("average") or any(
        reward == name or reward.startswith(f"{name}/") or (name == "hpsv2" and reward.startswith("hpsv2."))
        for reward in rewards
    )


def _sheet(block: Block, places: Sequence[int]) -> Sheet:
    def cell(values: tuple[float | None, ...], place: int) -> str:
        value = values[place]
        return NONE if value is None else f"{value:.{block.digits[place]}f}"

    return Sheet(
        title=f"Published, not measured here: {block.title}",
        columns=("Method (published)", *(" ".join(block.columns[place]) for place in places)),
        rows=[
            [method, *(cell(values, place) for place in places)] for method, values in block.values.items()
        ],
        note=f"Published by {block.source}. {block.caveats}",
    )
