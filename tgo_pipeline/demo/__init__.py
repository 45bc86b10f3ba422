"""The embedded small world: captions, drawn images, an oracle of true preference, and the weights that ship.

prompts("train")            # captions of a family or split, as `demo:train` in params.yaml
weights_path("diffusion")   # a StableDiffusionPipeline folder; "masked" is an AmusedPipeline, "video" a WanPipeline
weights_path("rewards/pickscore")   # each of the five reward models
"""

from __future__ import annotations

from pathlib import Path

from tgo_pipeline.errors import TgoError

__all__ = ["SOURCES", "prompts", "weights_path"]

SOURCES = (
    "train", "validation", "plain", "sized", "placed", "moving-train", "moving-validation", "moving"
)  # fmt: skip
MOVING = "moving"
WEIGHTS = Path(__file__).parent / "weights"
TRAIN_PER_FAMILY = 128
"""Captions of `demo:train` in each family: with four images each the whole demo takes two minutes (RESULTS.md)."""


def prompts(name: str) -> list[str]:
    """Captions of `demo:<name>`: `train` and `validation` of all families, or the test split of one family.

    Captions of clips are `moving-train`, `moving-validation` and, of the test split, `moving`. No two sets have a
    caption in common. Raises `TgoError` for another name.
    """
    from tgo_pipeline.demo import moving, world

    if name not in SOURCES:
        known = ", ".join(f"demo:{source}" for source in SOURCES)
        raise TgoError(f"demo:{name} is not a prompt source: the small world has {known}.")
    if name.startswith(MOVING):
        return list(moving.captions(name.removeprefix(f"{MOVING}-") if name != MOVING else "test"))
    if name in world.FAMILIES:
        return list(world.captions(name, "test"))
    most = TRAIN_PER_FAMILY if name == "train" else None
    return [caption for family in world.FAMILIES for caption in world.captions(family, name)[:most]]


def weights_path(name: str) -> Path:
    """The folder of a shipped model: `diffusion`, `masked`, `video`, or `rewards/<reward>`.

    Raises `TgoError` if there is none.
    """
    folder = WEIGHTS / name
    if folder.is_dir():
        return folder
    shipped = sorted(
        str(path.relative_to(WEIGHTS)) for path in (*WEIGHTS.glob("*"), *WEIGHTS.glob("rewards/*"))
    )
    raise TgoError(
        f"the small world ships no {name!r}: it has {', '.join(shipped) or 'no weights, reinstall the package'}."
    )
