"""What the study of objectives is made of: units (a method, its settings, a seed, a split), their parameters, keys."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params, parse, presets
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.paths import file_name

ROOT = Path(__file__).parents[2]
VALIDATION, TEST = "validation", "test"
TAU = "study.tau"
"""A setting that is not a parameter: `prompt_mean` labels at each prompt's mean score instead of at the global tau."""
WEIGHTS = "study.weights"
"""A setting that is not a parameter: `global` gives samples the weights of the global tau, whatever labelled them."""
STUDY = (TAU, WEIGHTS)
PAIR_BATCH = {"fine_tune.batch_size": 16}
"""As many samples as 32: a unit of an objective on pairs is two samples."""
BASE = "base"
METHODS: dict[str, dict[str, Any]] = {
    BASE: {},
    "sft": {"fine_tune.objective": "sft"},
    "csft": {
        "fine_tune.objective": "csft",
        "fine_tune.csft.positive_prefix": "+ ",
        "fine_tune.csft.negative_prefix": "- ",
    },
    "dpo": {"fine_tune.objective": "dpo", **PAIR_BATCH},
    "kto": {"fine_tune.objective": "kto"},
    "dspo": {"fine_tune.objective": "dspo", **PAIR_BATCH},
    "bco": {"fine_tune.objective": "bco"},
    "threshold_contrast": {"fine_tune.objective": "threshold_contrast", **PAIR_BATCH},
    "nft": {"fine_tune.objective": "nft"},
    "tgo-unweighted": {"fine_tune.objective": "tgo", "label.c": 0.0},
    "tgo": {"fine_tune.objective": "tgo"},
    "pgd": {"fine_tune.objective": "pgd", **PAIR_BATCH},
    "pgd-contrast": {
        "fine_tune.objective": "pgd",
        "fine_tune.guidance.module": "threshold_contrast",
        **PAIR_BATCH,
    },
    "cpgd": {"fine_tune.objective": "cpgd"},
    **{name: {"fine_tune.objective": name} for name in ("align_prop", "draft", "draft_lv", "refl")},
}
"""Methods by name, with what tells them apart. CSFT's published prefixes would be spelt byte by byte in the small
world's closed vocabulary and push the caption out of its 16 tokens; a sign is one token."""
CONDITIONS: dict[str, Any] = {
    "prompts.limit": 256,
    "generate.images_per_prompt": 4,
    "fine_tune.steps": 78,
    "fine_tune.batch_size": 32,
    "fine_tune.warmup_steps": 5,
    "fine_tune.schedule": "cosine",
    "fine_tune.checkpoint_every": 78,
    "fine_tune.validation.every": 0,
    "fine_tune.guard.negative_error": None,  # a bad trial shall show as a bad result
    "fine_tune.guard.both_errors": None,
    "evaluate.images_per_prompt": 1,
    "runtime.device": "cpu",
    "runtime.threads": 1,
    "runtime.processes": 1,
    "runtime.generate_batch_size": 72,
}
"""What is the same for all methods, on top of params.yaml."""
FAMILIES: dict[str, dict[str, Any]] = {"demo-masked": {"fine_tune.caption_dropout": 0.2}}
"""What is the same for all methods of a family. The masked base forgets what guidance subtracts, its prediction without
a caption, unless training drops some captions (as the official codes of DPO and KTO do, at this rate)."""
SPLITS: dict[tuple[str, str], dict[str, Any]] = {
    ("demo-masked", VALIDATION): {"evaluate.images_per_prompt": 2},  # its images differ more from run to run
}


@dataclass(frozen=True)
class Unit:
    """One method with its settings (dotted keys of the parameters) for one family, seed and split."""

    family: str
    method: str
    seed: int
    split: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a unit gave. `rows` is its evaluation table, empty if the training failed for the reason `failed`."""

    unit: Unit
    rows: list[dict[str, Any]]
    metrics: dict[str, float]
    seconds: dict[str, float]
    samples: Path
    failed: str | None = None

    def has(self, reward: str) -> bool:
        """Whether the evaluation table has the reward; results read back from docs/LOG.md have the target alone."""
        return any(row["reward"] == reward for row in self.rows)

    def value(self, reward: str, column: str = "effect", test_set: str = "all") -> float:
        """One number of the evaluation table."""
        return next(
            row[column] for row in self.rows if (row["test_set"], row["reward"]) == (test_set, reward)
        )


@dataclass(frozen=True)
class Study:
    """The parameters that all units start from, and where their results are kept.

    `splits` maps a split to its test sets, as `prompts.test` has them.
    """

    raw: Mapping[str, Any]
    work: Path
    splits: Mapping[str, Mapping[str, str]]

    @classmethod
    def of_demo(cls, work: Path) -> Study:
        """The small world: what params.yaml says, with `CONDITIONS`; hyperparameters have captions of their own.

        The work folder keeps what its results began with, so that a later edit of params.yaml does not split them.
        """
        kept = work / "params.yaml"
        if not kept.is_file():
            from tgo_pipeline.storage.writing import atomic

            raw = with_settings(yaml.safe_load((ROOT / "params.yaml").read_text()), CONDITIONS)
            with atomic(kept) as temporary:
                temporary.write_text(yaml.safe_dump(raw, sort_keys=False))
        raw = yaml.safe_load(kept.read_text())
        raw["fine_tune"] = presets.given(raw["fine_tune"])
        return cls(raw, work, {TEST: raw["prompts"]["test"], VALIDATION: {VALIDATION: "demo:validation"}})

    def params(self, unit: Unit) -> Params:
        """The parameters of a unit. Raises `TgoError` for an unknown method or setting."""
        return parse(Params, self._content(unit))

    def _content(self, unit: Unit) -> dict[str, Any]:
        method = unit.method.partition("+")[0]
        if method not in METHODS:
            raise TgoError(f"there is no method {unit.method!r}: it is one of {', '.join(METHODS)}.")
        own = {key: value for key, value in unit.settings.items() if key not in STUDY}
        common = FAMILIES.get(unit.family, {}) | SPLITS.get((unit.family, unit.split), {})
        content = with_settings(self.raw, common | METHODS[method] | own)
        content["prompts"]["test"] = dict(self.splits[unit.split])
        return content | {"seed": unit.seed, "model": unit.family}

    def home(self, unit: Unit) -> Path:
        """Where what the units of one family and seed share lies."""
        return self.work / "data" / f"{file_name(unit.family)}-{unit.seed}"

    def result_path(self, unit: Unit) -> Path:
        """The unit's result (JSON); its name holds all that the numbers depend on."""
        name = f"{unit.split}-{file_name(unit.family)}-{unit.seed}-{file_name(unit.method)}-{self._mark(unit)}.json"
        return self.work / "results" / name

    def _mark(self, unit: Unit) -> str:
        content = self._content(unit)
        numbers = {name: content[name] for name in content.keys() - {"runtime", "report"}}
        own = {key: unit.settings[key] for key in STUDY[1:] if key in unit.settings}
        tau = unit.settings.get(TAU)
        return fingerprint(numbers=numbers, tau=tau, **own, model=_model_mark(unit.family))[:10]

    def result(self, unit: Unit) -> Result | None:
        """What the unit gave, None if it has not run."""
        path = self.result_path(unit)
        return _read(path, path.stat().st_mtime_ns) if path.is_file() else None

    def results(self, units: Iterable[Unit]) -> list[Result]:
        """Of the units that have run."""
        return [result for unit in units if (result := self.result(unit)) is not None]

    def kept(self) -> list[Result]:
        """All results in the work folder that belong to these parameters, planned or not, in the order of names."""
        paths = sorted((self.work / "results").glob("*.json"))
        found = [_read(path, path.stat().st_mtime_ns) for path in paths]
        return [each for each in found if self.result_path(each.unit).stem == each.samples.stem]

    def write(self, result: Result) -> None:
        """Keep a result; its samples are there already."""
        from tgo_pipeline.storage.writing import atomic

        content = dataclasses.asdict(result) | {"samples": result.samples.name}
        with atomic(self.result_path(result.unit)) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")


@functools.lru_cache(maxsize=1024)
def _read(path: Path, changed_ns: int) -> Result:
    """The result in a file that was last written at this time: a run that was broken off may be repeated."""
    content = json.loads(path.read_text())
    unit = Unit(**content.pop("unit"))
    return Result(unit=unit, **content | {"samples": path.with_name(content["samples"])})


@functools.lru_cache(maxsize=16)
def _model_mark(model: str) -> str:
    from tgo_pipeline.generators.location import model_fingerprint

    return model_fingerprint(model)


def with_settings(raw: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested parameters with dotted keys set."""
    content = json.loads(json.dumps(raw))
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return content
