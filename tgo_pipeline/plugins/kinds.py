"""The kinds of parts that users bring, and the names of those that come with this package.

A name is one of this package's, the name of an entry point of the kind's group, or `module:object`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, EntryPoints, entry_points, packages_distributions
from typing import Any, TypeVar

from tgo_pipeline.errors import TgoError
from tgo_pipeline.plugins import find, folder

T = TypeVar("T")


@functools.cache
def _entry_points(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Those of all packages on `path`, read once: there are hundreds of files."""
    return entry_points(group=group)


@dataclass(frozen=True)
class Kind:
    """One kind of part: what messages call it, its group of entry points, and this package's own by name."""

    noun: str
    group: str
    builtin: Mapping[str, str]
    """Name to `module:object`."""
    also: tuple[str, ...] = ()
    """Names of what is made of several parts, which is no part itself."""

    def installed(self) -> dict[str, EntryPoint]:
        """Those of other packages. Raises `TgoError` if two packages offer different ones under one name."""
        found: dict[str, EntryPoint] = {}
        for entry in _entry_points(self.group, tuple(sys.path)):
            if found.setdefault(entry.name, entry).value != entry.value:
                raise TgoError(
                    f"two installed packages offer {self._a} named {entry.name!r}: {found[entry.name].value} and "
                    f"{entry.value}. Name the one you mean as module:object, or uninstall the other."
                )
        return found

    def names(self) -> list[str]:
        """This package's, then those of installed packages."""
        return list(dict.fromkeys([*self.builtin, *self.also, *self.installed()]))

    def reference(self, name: str) -> str:
        """The `module:object` of a name. Raises `TgoError` if there is none, or if it stands for two parts."""
        if find.is_reference(name):
            return name
        entry = self.installed().get(name)
        if name in self.builtin:
            if entry is not None:
                raise TgoError(
                    f"an installed package offers {self._a} named {name!r} ({entry.value}), which is the name of one "
                    "of this package's: rename its entry point, or uninstall it."
                )
            return self.builtin[name]
        if entry is None:
            close = difflib.get_close_matches(name, self.names(), n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise TgoError(
                f"unknown {self.noun} {name!r}.{hint} There are {', '.join(self.names())}, or name your own as "
                "module:object (docs/PLUGINS.md)."
            )
        return entry.value

    def find(self, name: str) -> Any:
        """The object that a name stands for. Raises `TgoError` if it cannot be found."""
        reference = self.reference(name)
        if name not in self.builtin:
            return find.load(f"{self.noun} {name}", reference)
        module, path = reference.split(":")
        return getattr(importlib.import_module(module), path)

    def load(self, name: str, base: type[T]) -> type[T]:
        """The class that a name stands for. Raises `TgoError` if it is not a whole subclass of `base`."""
        found = self.find(name)
        if not (isinstance(found, type) and issubclass(found, base)):
            given = found.__name__ if isinstance(found, type) else type(found).__name__
            raise TgoError(
                f"{self.noun} {name}: {self.reference(name)} is {given}, no subclass of "
                f"{base.__module__}.{base.__qualname__}."
            )
        if inspect.isabstract(found):
            lacking = sorted(found.__abstractmethods__)  # type: ignore[reportAttributeAccessIssue]
            raise TgoError(f"{self.noun} {name}: {self.reference(name)} lacks {', '.join(lacking)}.")
        return found

    def identity(self, name: str) -> dict[str, Any] | None:
        """What the numbers of a part of one's own depend on, without importing it; None for this package's.

        The content of its files, or the distribution and version that an installed one comes with.
        """
        reference = self.reference(name)
        if name in self.builtin:
            return None
        distribution = None if folder.is_of_project(reference) else self._distribution(name, reference)
        if distribution is None or _is_editable(distribution):
            return {"part": reference, "code": folder.code_hashes(reference)}
        return {"part": reference, "distribution": f"{distribution.name} {distribution.version}"}

    def _distribution(self, name: str, reference: str) -> Distribution | None:
        entry = self.installed().get(name)
        if entry is not None:
            return entry.dist
        owners = packages_distributions().get(reference.split(":")[0].split(".")[0])
        return Distribution.from_name(owners[0]) if owners else None

    @property
    def _a(self) -> str:
        return f"an {self.noun}" if self.noun[0] in "aeiou" else f"a {self.noun}"


def _is_editable(distribution: Distribution) -> bool:
    """Whether its files are somebody's working copy, whose content changes under one version."""
    return '"editable": true' in (distribution.read_text("direct_url.json") or "")


REWARD = Kind(
    "reward",
    "tgo_pipeline.rewards",
    {
        "hpsv2.1": "tgo_pipeline.rewards.hpsv2:HPSv2",
        "hpsv2.0": "tgo_pipeline.rewards.hpsv2:HPSv2",
        "pickscore": "tgo_pipeline.rewards.pickscore:PickScore",
        "imagereward": "tgo_pipeline.rewards.image_reward:ImageReward",
        "clip/openai-l14": "tgo_pipeline.rewards.clip_score:ClipScore",
        "clip/laion-h14-hpspad": "tgo_pipeline.rewards.hpsv2:HPSv2",
        "aesthetic": "tgo_pipeline.rewards.aesthetic:Aesthetic",
        "hpsv3": "tgo_pipeline.rewards.vision_language.hpsv3:HPSv3",
        "videoreward": "tgo_pipeline.rewards.vision_language.videoreward:VideoReward",
        "vqascore": "tgo_pipeline.rewards.vision_language.vqa_score:VQAScore",
        "judge": "tgo_pipeline.rewards.judge.reward:Judge",
        "motion": "tgo_pipeline.rewards.measures.motion:Motion",
        "flicker": "tgo_pipeline.rewards.measures.motion:Flicker",
        "jpeg_kb": "tgo_pipeline.rewards.measures.jpeg_size:JpegSize",
        "ocr": "tgo_pipeline.rewards.measures.quoted_text:QuotedText",
        "oracle": "tgo_pipeline.rewards.oracle:OracleReward",
        "moving_oracle": "tgo_pipeline.rewards.oracle:MovingOracleReward",
        "moving_choice": "tgo_pipeline.rewards.moving_choice:MovingChoice",
    },
)
OBJECTIVE = Kind(
    "objective",
    "tgo_pipeline.objectives",
    {
        "tgo": "fine_tune.objectives.tgo:Tgo",
        "sft": "fine_tune.objectives.supervised:Sft",
        "csft": "fine_tune.objectives.supervised:Csft",
        "dpo": "fine_tune.objectives.dpo:Dpo",
        "kto": "fine_tune.objectives.kto:Kto",
        "dspo": "fine_tune.objectives.dspo:Dspo",
        "bco": "fine_tune.objectives.bco:Bco",
        "mapo": "fine_tune.objectives.mapo:Mapo",
        "rwr": "fine_tune.objectives.supervised:Rwr",
        "awr": "fine_tune.objectives.supervised:Awr",
        "qrpo": "fine_tune.objectives.qrpo:Qrpo",
        "threshold_contrast": "fine_tune.objectives.threshold_contrast:ThresholdContrast",
        "nft": "fine_tune.objectives.nft:Nft",
        "align_prop": "fine_tune.reward_backprop.objectives:AlignProp",
        "draft": "fine_tune.reward_backprop.objectives:Draft",
        "draft_lv": "fine_tune.reward_backprop.objectives:DraftLv",
        "refl": "fine_tune.reward_backprop.objectives:Refl",
    },
    also=("pgd", "cpgd"),
)
POLICY = Kind(
    "model family",
    "tgo_pipeline.policies",
    {
        "StableDiffusionPipeline": "fine_tune.policies.diffusion:DiffusionPolicy",
        "StableDiffusionXLPipeline": "fine_tune.policies.diffusion:DiffusionXLPolicy",
        "StableDiffusion3Pipeline": "fine_tune.policies.flow:SD3Policy",
        "FluxPipeline": "fine_tune.policies.flow:FluxPolicy",
        "WanPipeline": "fine_tune.policies.wan:WanPolicy",
        "AmusedPipeline": "fine_tune.policies.masked:AmusedPolicy",
        "MeissonicPipeline": "fine_tune.policies.masked:MeissonicPolicy",
    },
)
DATASET = Kind(
    "data set",
    "tgo_pipeline.datasets",
    {
        "pickapic": "tgo_pipeline.datasets.pickapic:PickAPic",
        "hpdv2": "tgo_pipeline.datasets.hpdv2:HPDv2",
        "hpdv3": "tgo_pipeline.datasets.hpdv3:HPDv3",
        "imagerewarddb": "tgo_pipeline.datasets.imagerewarddb:ImageRewardDB",
        "diffusion-kto": "tgo_pipeline.datasets.diffusion_kto:DiffusionKTO",
        "parti": "tgo_pipeline.datasets.prompt_sets:PartiPrompts",
        "hpdv2-prompts": "tgo_pipeline.datasets.prompt_sets:HPDv2Prompts",
        "vidprom": "tgo_pipeline.datasets.prompt_sets:VidProM",
    },
)
EXECUTOR = Kind(
    "executor",
    "tgo_pipeline.executors",
    {
        "local": "tgo_pipeline.executors.local:execute",
        "ranks": "tgo_pipeline.executors.ranks:execute",
        "ray": "tgo_pipeline.executors.on_ray:execute",
    },
)
