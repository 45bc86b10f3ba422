"""Which units each phase of the study runs, in their order, and what one phase takes from the results of another.

Hyperparameters are chosen by the target on the validation captions alone; the oracle is never asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.objectives.units import (
    BASE,
    CONTRAST,
    EXTRAPOLATE,
    TAU,
    TEST,
    VALIDATION,
    Result,
    Study,
    Unit,
)

TUNING_SEED = 100
SEEDS = (0, 1, 2, 3, 4)
RATE, TEMPERATURE = "fine_tune.learning_rate", "fine_tune.temperature"
STRENGTH, MERGE = "fine_tune.guidance.strength", "fine_tune.guidance.merge"
SCALE = "generate.guidance_scale"
STRENGTHS = {"demo": (0.5, 1.0, 2.0, 4.0, 1.5, 3.0), "demo-masked": (0.5, 1.0, 2.0, 4.0)}
SCALES = (1.0, 1.5, 3.0)
TIE = 0.01
"""Effects of trials are known to about 0.05."""
MODULES = {"pgd": "dpo", "cpgd": "sft"}
"""Methods of guidance and the method whose tuned settings their modules are trained with."""
Settings = Mapping[str, Any]


def grid(rates: Sequence[float], temperatures: Sequence[float]) -> tuple[Settings, ...]:
    """Every pair of learning rate and T."""
    return tuple({RATE: rate, TEMPERATURE: t} for rate, t in itertools.product(rates, temperatures))


def rates(*values: float, **settings: Any) -> tuple[Settings, ...]:
    """Learning rates for an objective without T."""
    return tuple({RATE: value, **settings} for value in values)


@dataclass(frozen=True)
class Trials:
    """The settings that are tried for each method that is trained, equally many for each."""

    by_method: Mapping[str, Sequence[Settings]]

    def __post_init__(self) -> None:
        counts = {method: len(trials) for method, trials in self.by_method.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"every method has as many trials as any other: {counts}")


DSPO_STRENGTH = "fine_tune.dspo.strength"


def pairs(*values: tuple[float, float]) -> tuple[Settings, ...]:
    """Learning rates with a T each."""
    return tuple({RATE: rate, TEMPERATURE: temperature} for rate, temperature in values)


def dspo(temperature: float, *values: tuple[float, float]) -> tuple[Settings, ...]:
    """Learning rates with a strength each: the published .001, which is SFT on winners, or one that losers enter."""
    return tuple({RATE: rate, TEMPERATURE: temperature, DSPO_STRENGTH: strength} for rate, strength in values)


GRID = grid((1e-4, 2e-4), (0.002, 0.005))
TRIALS = {  # a grid of four for each method, then two more for each where its best one pointed
    "demo": Trials(
        {
            "tgo": (*GRID, *pairs((3e-4, 0.003), (2e-4, 0.01))),
            "tgo-unweighted": (*GRID, *pairs((3e-4, 0.005), (2e-4, 0.01))),
            "kto": (*GRID, *pairs((5e-5, 0.005), (1e-4, 0.01))),
            "bco": (*GRID, *pairs((3e-4, 0.002), (2e-4, 0.001))),
            "dpo": (*grid((5e-5, 1.5e-4), (0.001, 0.004)), *pairs((5e-5, 0.0005), (1e-4, 0.001))),
            "sft": rates(1e-4, 2e-4, 4e-4, 8e-4, 3e-4, 6e-4),
            "csft": rates(1e-4, 2e-4, 4e-4, 8e-4, 5e-5, 3e-4),
            "dspo": dspo(
                0.002, (2e-4, 0.001), (5e-4, 0.001), (2e-4, 0.5), (5e-4, 0.5), (1e-4, 0.001), (1e-4, 0.5)
            ),
        }
    ),
    "demo-masked": Trials(
        {
            **dict.fromkeys(("tgo", "tgo-unweighted", "kto", "bco"), grid((5e-5, 1e-4), (0.15, 0.5))),
            "dpo": grid((3e-5, 1e-4), (0.05, 0.2)),
            **dict.fromkeys(("sft", "csft"), rates(5e-5, 1e-4, 2e-4, 4e-4)),
            "dspo": dspo(0.1, (1e-4, 0.001), (3e-4, 0.001), (1e-4, 0.5), (3e-4, 0.5)),
        }
    ),
}
SHIFT = {"fine_tune.tgo.reward_shift": "running_mean"}
QUANTILE = {"fine_tune.tgo.labels": "quantile"}
PROMPT_MEAN = {TAU: "prompt_mean"}
TWO_DRAWS = {"fine_tune.draws": 2}
BY_PROMPT = {"fine_tune.by_prompt": True}
CAPTIONS = {"fine_tune.caption_dropout": 0.2}
DAMPING, SOFT = "fine_tune.tgo.damping", "fine_tune.tgo.soft_labels"
PUSH: dict[str, Any] = {**SHIFT, DAMPING: 2.0}
"""The negative side pushed twice as hard, with the drift of both sides together taken off the reward."""


def beyond(strength: float) -> dict[str, Any]:
    """TGO as the module of PGD: the base is pushed this many times as far as training moved it."""
    return {"fine_tune.objective": "pgd", "fine_tune.guidance.module": "tgo", STRENGTH: strength}


def varied(options: Settings, *values: tuple[float, float]) -> tuple[Settings, ...]:
    """Options of TGO at learning rates with a T each."""
    return tuple({**each, **options} for each in pairs(*values))


def contrasts(value: tuple[float, float], *strengths: float) -> tuple[Settings, ...]:
    """A learning rate with a T, and strengths of the guidance from flipped labels to labels."""
    return tuple({RATE: value[0], TEMPERATURE: value[1], CONTRAST: strength} for strength in strengths)


SEARCH: dict[str, dict[str, Sequence[Settings]]] = {
    "demo": {
        "tgo+contrast": (
            *contrasts((1e-4, 0.005), 0.5, 1.0, 2.0, 1.5),
            *contrasts((2e-4, 0.005), 1.0, 1.5),
        ),
        "tgo+shift": varied(SHIFT, (2e-4, 0.002)),
        "tgo+shift+prompt-mean": varied(SHIFT | PROMPT_MEAN, (2e-4, 0.002), (1e-4, 0.002)),
        "tgo+shift+quantile": varied(SHIFT | QUANTILE, (2e-4, 0.002)),
        "tgo+captions": varied(CAPTIONS, (2e-4, 0.005)),
        "tgo+prompt-mean": varied(PROMPT_MEAN, (2e-4, 0.005)),
        "tgo+quantile": varied(QUANTILE, (2e-4, 0.005)),
        "tgo+two-draws": varied(TWO_DRAWS, (2e-4, 0.005)),
        "tgo+beyond": (*varied(beyond(2.0), (1e-4, 0.005)), *varied(beyond(1.5), (1e-4, 0.005))),
        "tgo+merged-beyond": varied({EXTRAPOLATE: 2.0}, (1e-4, 0.005)),
        "cpgd+merged": ({RATE: 4e-4, STRENGTH: 2.0, MERGE: True},),
        "tgo+c": varied({"label.c": 20.0}, (2e-4, 0.005), (1e-4, 0.005)),
        "tgo+percentile": varied({"threshold.percentile": 0.7, "label.c": 20.0}, (2e-4, 0.005)),
        "tgo+undamped": varied({DAMPING: 2.0}, (2e-4, 0.005), (1e-4, 0.005)),
        "tgo+shift+push": (
            *varied(PUSH, (1e-4, 0.002), (1e-4, 0.001), (5e-5, 0.001)),
            *varied({**PUSH, DAMPING: 4.0}, (1e-4, 0.002)),
        ),
        "tgo+shift+push+two-draws": varied(PUSH | TWO_DRAWS, (1e-4, 0.002)),
        "tgo+shift+push+beyond": (
            *varied(PUSH | beyond(2.0), (1e-4, 0.002)),
            *varied(PUSH | beyond(1.5), (1e-4, 0.002)),
        ),
        "tgo+damping": varied({DAMPING: 0.5}, (2e-4, 0.005)),
        "tgo+shift+damping": varied({**SHIFT, DAMPING: 0.5}, (2e-4, 0.002)),
        "tgo+shift+soft": varied({**SHIFT, SOFT: 0.5}, (2e-4, 0.002)),
    },
    "demo-masked": {"tgo+contrast": (*contrasts((1e-4, 0.5), 1.0, 2.0, 0.5), *contrasts((5e-5, 0.5), 1.0))},
}
"""Variants of TGO that might beat every method, each with its learning rates and T."""
FINALISTS: dict[str, Mapping[str, Settings]] = {
    "demo": {"tgo+contrast": contrasts((2e-4, 0.005), 1.5)[0]},
    "demo-masked": {},
}
"""What the search chose, for the test captions."""
ORDER = ("tgo", "tgo-unweighted", "dpo", "kto", "sft", "bco", "csft", "dspo", "pgd", "cpgd")
LATE = ("csft", "dspo")


@dataclass(frozen=True)
class Plan:
    """The units of the study for one family. `model` is the family's name, or a folder while its weights are made."""

    study: Study
    family: str
    model: str
    seeds: Sequence[int] = SEEDS

    def tune(self) -> Iterator[Unit]:
        """Every trial of every method; strengths of a guidance once its modules' settings are chosen."""
        for method in ORDER:
            trials = self._trials(method)
            yield from (self._unit(method, TUNING_SEED, VALIDATION, settings) for settings in trials)

    def main(self) -> Iterator[Unit]:
        """The chosen settings of every method on the test captions, those of `LATE` last; the base at other scales."""
        first = {method: self.chosen(method) for method in ORDER} | dict(FINALISTS[self.family])
        last = {method: first.pop(method) for method in LATE}
        for methods in (first, last):
            for seed, (method, settings) in itertools.product(self.seeds, methods.items()):
                if settings is not None:
                    yield self._unit(method, seed, TEST, settings)
        for seed, scale in itertools.product(self.seeds, SCALES):
            yield self._unit(BASE, seed, TEST, {SCALE: scale})

    def ablate(self, seeds: Sequence[int]) -> Iterator[Unit]:
        """TGO as chosen, one thing varied at a time, on the test captions."""
        chosen = self.chosen("tgo")
        if chosen is not None:
            for seed, (name, settings) in itertools.product(seeds, ablations(chosen).items()):
                yield self._unit(f"tgo+{name}", seed, TEST, {**chosen, **settings})

    def search(self) -> Iterator[Unit]:
        """Variants of TGO on the validation captions."""
        for name, trials in SEARCH[self.family].items():
            yield from (self._unit(name, TUNING_SEED, VALIDATION, settings) for settings in trials)

    def confirm(self, seeds: Sequence[int]) -> Iterator[Unit]:
        """What the search chose and every method, on the validation captions with seeds that chose nothing."""
        for seed in seeds:
            for name, settings in FINALISTS[self.family].items():
                yield self._unit(name, seed, VALIDATION, settings)
            for method in ORDER:
                if (chosen := self.chosen(method)) is not None:
                    yield self._unit(method, seed, VALIDATION, chosen)

    def chosen(self, method: str) -> Settings | None:
        """The best trial's settings, None until all trials have run."""
        best = self.best(method)
        return None if best is None else best.unit.settings

    def best(self, method: str) -> Result | None:
        """The trial with the greatest effect on the target, None until all trials have run.

        Trials within `TIE` of it count as equal, and the first of them that was tried is taken.
        """
        trials = self._trials(method)
        results = self.study.results(self._unit(method, TUNING_SEED, VALIDATION, each) for each in trials)
        sound = [result for result in results if result.rows]
        if not trials or len(results) < len(trials) or not sound:
            return None
        values = [result.value(self.target) for result in sound]
        return next(result for result, value in zip(sound, values, strict=True) if value >= max(values) - TIE)

    @property
    def target(self) -> str:
        """The reward that trials are compared by."""
        return self.study.raw["target"]["reward"]

    def trials(self, method: str) -> list[Result]:
        """The trials of a method that have run."""
        return self.study.results(
            self._unit(method, TUNING_SEED, VALIDATION, settings) for settings in self._trials(method)
        )

    def searched(self) -> list[Result]:
        """What was tried on the validation captions besides the methods' trials, the best on the target first."""
        trials = [result.unit for method in ORDER for result in self.trials(method)]
        others = [
            result
            for result in self.study.kept()
            if (result.unit.family, result.unit.seed, result.unit.split)
            == (self.model, TUNING_SEED, VALIDATION)
            and result.rows
            and result.unit not in trials
        ]
        return sorted(others, key=lambda result: -result.value(self.target))

    def _trials(self, method: str) -> Sequence[Settings]:
        if method not in MODULES:
            return TRIALS[self.family].by_method[method]
        settings = self.chosen(MODULES[method])
        return (
            ()
            if settings is None
            else [{**settings, STRENGTH: strength} for strength in STRENGTHS[self.family]]
        )

    def _unit(self, method: str, seed: int, split: str, settings: Settings) -> Unit:
        return Unit(self.model, method, seed, split, dict(settings))


def ablations(chosen: Settings) -> dict[str, Settings]:
    """What is varied about TGO, one thing at a time; `chosen` are its tuned settings.

    beta is not among them: the loss knows beta / T alone.
    """
    return {
        "percentile-.3": {"threshold.percentile": 0.3},
        "percentile-.7": {"threshold.percentile": 0.7},
        "c-2": {"label.c": 2.0},
        "c-10": {"label.c": 10.0},
        "T-half": {TEMPERATURE: chosen[TEMPERATURE] / 2},
        "T-double": {TEMPERATURE: chosen[TEMPERATURE] * 2},
        "weights-raw": {"label.scale": "raw"},
        "weights-mad": {"label.scale": "mad"},
        "weights-rank": {"label.scale": "rank"},
        "tau-prompt-mean": {TAU: "prompt_mean"},
        "tau-prompt-quantile": {"fine_tune.tgo.labels": "quantile"},
    }
