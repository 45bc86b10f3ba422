"""What a reward is called: registered names, variants, spec strings, and the columns of `score.rewards`.

A spec is `REWARD` or `REWARD=SOURCE`. REWARD is a registered name, the name of an entry point of the group
`tgo_pipeline.rewards`, `module:object`, or one in an interpreter of its own (`isolated/names.py`). SOURCE is `demo`, a
local folder, the official file, or a hub repository `org/name@revision`; without one the official files are taken from
the model hub or its local cache.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tgo_pipeline.errors import TgoError
from tgo_pipeline.plugins.find import is_reference
from tgo_pipeline.plugins.kinds import REWARD
from tgo_pipeline.rewards.custom_identity import own_parts
from tgo_pipeline.rewards.isolated import environments
from tgo_pipeline.rewards.isolated import names as isolated

REWARDS = REWARD.builtin
VARIANTS: dict[str, str] = {"clip": "clip/openai-l14"}
"""Short names for one of several variants."""
UNDECIDED: dict[str, str] = {
    "hpsv2": "hpsv2.1 or hpsv2.0, whose scores are not comparable",
    "hps": "hpsv2.1 or hpsv2.0, whose scores are not comparable",
    "clip/laion-h14": "clip/laion-h14-hpspad",
}
"""Names that would leave open which numbers come out, and what to write instead."""
OF_CLIPS = ("videoreward", "motion", "flicker", "moving_oracle", "moving_choice")
"""Rewards that score clips as a whole; the others score their frames."""
PARTS: dict[str, dict[str, str]] = {
    "hpsv3": {
        "sigma": "spread that HPSv3 gives with mu, as its head gives it; unbounded, and more is not better"
    },
    "videoreward": {
        "VQ": "visual quality, in the units of the sum",
        "MQ": "motion quality, in the units of the sum",
        "TA": "alignment with the text, in the units of the sum",
    },
}
"""Rewards of this package that give more than one number: what the others are called, and what they mean."""
OF_FRAMES = {
    "min": "the lowest of the scores of a clip's frames: one bad frame is seen, which a mean hides",
    "last": "the score of a clip's last frame, where models drift away from the prompt",
}
"""What a reward of images gives of a clip besides the mean, as further parts, where `score.frame_parts` names them."""
RESERVED = ("sample_id", "prompt_id", "prompt", "image", "error")
"""Columns that score tables have besides the rewards."""


@dataclass(frozen=True)
class Spec:
    """A reward and where its weights come from, under the name of the column that its scores get."""

    column: str
    reward: str
    source: str | None = None

    def __str__(self) -> str:
        return self.reward if self.source is None else f"{self.reward}={self.source}"


def is_registered(reward: str) -> bool:
    """Whether a name is one of this package's rewards or of an installed one's."""
    return reward in REWARDS or reward in VARIANTS or reward in REWARD.installed()


def canonical(reward: str) -> str:
    """The full name of a reward: `clip` is `clip/openai-l14`. Raises `TgoError` for a name that is not a reward."""
    if isolated.is_isolated(reward):
        isolated.check(reward)
        return reward
    if reward in REWARDS or is_reference(reward):
        return reward
    if reward in VARIANTS:
        return VARIANTS[reward]
    if reward in REWARD.installed():
        return reward
    if reward in UNDECIDED:
        raise TgoError(f"{reward!r} leaves open which reward is meant: write {UNDECIDED[reward]}.")
    raise TgoError(
        f"{reward!r} is not a reward.{_hint(reward)} Choose from {', '.join(_known())}, or name your own as "
        "module:object."
    )


def _known() -> list[str]:
    return [*VARIANTS, *REWARD.names()]


def _hint(reward: str) -> str:
    close = difflib.get_close_matches(reward, _known(), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def parse(text: str) -> Spec:
    """A spec of the command line; its column is what stands before `=`, or the name of the object.

    Raises `TgoError` for an unknown reward and an empty source.
    """
    text = text.strip()
    if text.startswith(isolated.WORKER):
        reward, source = isolated.split_worker(text)
        return _checked(Spec(isolated.column(reward), reward, source))
    reward, equals, source = text.partition("=")
    if equals and not source:
        raise TgoError(f"{text!r} ends in `=`: write the source after it, or leave out the `=`.")
    canonical(reward)
    column = isolated.column(reward) if isolated.is_isolated(reward) else reward.rsplit(":", 1)[-1]
    return _checked(Spec(column, reward, source or None))


def resolve(column: str, value: str | None) -> Spec:
    """What an entry `column: value` of `score.rewards` means.

    Under the name of a reward stands its source, or nothing for the official one; under any other name a spec.
    Raises `TgoError` if the value is neither.
    """
    if is_registered(column):
        if value is not None and is_registered(value):
            raise TgoError(
                f"{column} is {value!r}, which is a reward and no source: give the column another name, or "
                f"name a source (demo, a folder, a file, or org/name@revision)."
            )
        return _checked(Spec(column, column, value))
    if is_reference(column) and value is None:
        return _checked(Spec(column, column))
    if value is None:
        canonical(column)  # says what is wrong with it
    try:
        spec = parse(value or "")
    except TgoError as error:
        if column in UNDECIDED:
            canonical(column)
        raise TgoError(
            f"{column!r} is not a reward.{_hint(column)} Give a name of your own REWARD or REWARD=SOURCE; {error}"
        ) from None
    return _checked(Spec(column, spec.reward, spec.source))


def of_images(spec: Spec) -> Spec:
    """The spec, if its reward scores images. Raises `TgoError` for one that scores clips."""
    if spec.reward in OF_CLIPS:
        raise TgoError(
            f"{spec.reward} scores clips, and images are scored here: call `load_reward({spec.reward!r}).score(clips, "
            "prompts)` (docs/REWARDS.md)."
        )
    return spec


def resolve_all(rewards: Mapping[str, str | None]) -> dict[str, Spec]:
    """`resolve` for every entry of `score.rewards`, in order."""
    return {column: resolve(column, value) for column, value in rewards.items()}


def columns(specs: Mapping[str, Spec], frame_parts: Sequence[str] = ()) -> dict[str, Spec]:
    """Every column that rewards fill, with its reward: the first bears the reward's name, others are `NAME.part`.

    Of clips, rewards of images have `frame_parts` besides (`OF_FRAMES`). Raises `TgoError` if two columns have one
    name, or the file of a reward of one's own states no proper parts.
    """
    found: dict[str, Spec] = {}
    for name, spec in specs.items():
        others = (*parts(spec.reward), *(() if spec.reward in OF_CLIPS else frame_parts))
        for column in (name, *part_columns(name, others)):
            if column in found or (column != name and column in specs):
                raise TgoError(f"two columns of scores are called {column!r}: rename the reward of yours.")
            found[column] = spec
    return found


def parts(reward: str) -> Mapping[str, str]:
    """What a reward's further numbers are called, and mean; of one's own as its file states them, which is not run.

    An official package gives the numbers of the built-in reward.
    """
    name = canonical(reward)
    if name in REWARDS:
        return PARTS.get(name, {})
    if name.startswith(isolated.OFFICIAL):
        return PARTS.get(name.removeprefix(isolated.OFFICIAL), {})
    if isolated.is_isolated(name):
        return environments.worker_parts(name)
    return own_parts(REWARD.reference(name))


def part_columns(name: str, parts: Iterable[str]) -> list[str]:
    """What the columns of a reward's further numbers are called."""
    return [f"{name}.{part}" for part in parts]


def with_source(spec: Spec, source: str) -> Spec:
    """The spec with another source. Raises `TgoError` for the package of another reward."""
    return _checked(replace(spec, source=source))


def _checked(spec: Spec) -> Spec:
    """The spec, whose source may have named a reward in an interpreter of its own."""
    if spec.source is not None and isolated.is_isolated(spec.source):
        reward, source = isolated.of_source(canonical(spec.reward), spec.source)
        return _checked(Spec(spec.column, reward, source))
    if spec.column in RESERVED:
        raise TgoError(
            f"a reward cannot have the column {spec.column!r}: score tables use it for something else. Rename it."
        )
    return spec
