"""Which units each phase of the study runs, in their order, and what one phase takes from the results of another.

Hyperparameters are chosen by the target on the validation captions alone; the oracle is never asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.objectives_units import BASE, METHODS, TAU, TEST, VALIDATION, Result, Study, Unit

TUNING_SEED = 100
SEEDS = (0, 1, 2, 3, 4)
RATE, TEMPERATURE = "fine_tune.learning_rate", "fine_tune.temperature"
STRENGTH, SCALE = "fine_tune.guidance.strength", "generate.guidance_scale"
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
SCALES = (1.0, 1.5, 3.0)
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


LABELLED = ("tgo", "tgo-unweighted", "kto", "bco")
DSPO_STRENGTH = "fine_tune.dspo.strength"
PLAIN = rates(1e-4, 2e-4, 4e-4, 8e-4)


def dspo(temperature: float) -> tuple[Settings, ...]:
    """SD 1.5's loss with its published strength, which is SFT on winners, and with one that the losers enter."""
    return tuple(
        {RATE: rate, TEMPERATURE: temperature, DSPO_STRENGTH: strength}
        for strength in (0.001, 0.5)
        for rate in (2e-4, 5e-4)
    )


TRIALS = {
    "demo": Trials(
        {
            **dict.fromkeys(LABELLED, grid((1e-4, 2e-4), (0.002, 0.005))),
            "dpo": grid((5e-5, 1.5e-4), (0.001, 0.004)),
            **dict.fromkeys(("sft", "csft"), PLAIN),
            "dspo": dspo(0.002),
        }
    ),
    "demo-masked": Trials(
        {
            **dict.fromkeys(LABELLED, grid((1e-4, 2e-4), (0.04, 0.1))),
            "dpo": grid((5e-5, 1.5e-4), (0.02, 0.08)),
            **dict.fromkeys(("sft", "csft"), PLAIN),
            "dspo": dspo(0.04),
        }
    ),
}
ORDER = ("tgo", "tgo-unweighted", "dpo", "kto", "sft", "bco", "csft", "dspo", "pgd", "cpgd")


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
        """The chosen settings of every method on the test captions, seed after seed; the base at other scales."""
        chosen = {method: self.chosen(method) for method in ORDER}
        for seed in self.seeds:
            for method, settings in chosen.items():
                if settings is not None:
                    yield self._unit(method, seed, TEST, settings)
            yield from (self._unit(BASE, seed, TEST, {SCALE: scale}) for scale in SCALES)

    def variations(self, named: Mapping[str, Settings], seeds: Sequence[int], split: str) -> Iterator[Unit]:
        """TGO as chosen with other values of some keys: ablations, and the search for something better."""
        chosen = self.chosen("tgo")
        if chosen is not None:
            for seed, (name, settings) in itertools.product(seeds, named.items()):
                yield self._unit(f"tgo+{name}", seed, split, {**chosen, **settings})

    def chosen(self, method: str) -> Settings | None:
        """The best trial's settings, None until all trials have run."""
        best = self.best(method)
        return None if best is None else best.unit.settings

    def best(self, method: str) -> Result | None:
        """The trial with the greatest effect on the target, None until all trials have run."""
        trials = self._trials(method)
        results = self.study.results(self._unit(method, TUNING_SEED, VALIDATION, each) for each in trials)
        sound = [result for result in results if result.rows]
        if not trials or len(results) < len(trials) or not sound:
            return None
        return max(sound, key=lambda result: result.value(self.target))

    @property
    def target(self) -> str:
        """The reward that trials are compared by."""
        return self.study.raw["target"]["reward"]

    def trials(self, method: str) -> list[Result]:
        """The trials of a method that have run."""
        return self.study.results(
            self._unit(method, TUNING_SEED, VALIDATION, settings) for settings in self._trials(method)
        )

    def _trials(self, method: str) -> Sequence[Settings]:
        if method not in MODULES:
            return TRIALS[self.family].by_method[method]
        settings = self.chosen(MODULES[method])
        return () if settings is None else [{**settings, STRENGTH: strength} for strength in STRENGTHS]

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


def variants(chosen: Settings) -> dict[str, Settings]:
    """The search: options of TGO that might beat every method, each with everything else as chosen."""
    return {
        "quantile": {"fine_tune.tgo.labels": "quantile"},
        "prompt-mean": {TAU: "prompt_mean"},
        "shift-running-mean": {"fine_tune.tgo.reward_shift": "running_mean"},
        "damping-.5": {"fine_tune.tgo.damping": 0.5},
        "damping-.25": {"fine_tune.tgo.damping": 0.25},
        "soft-labels-.5": {"fine_tune.tgo.soft_labels": 0.5},
        "normalised-weights": {"fine_tune.tgo.normalise_weights": True},
        "two-draws": {"fine_tune.draws": 2},
    }


def known_methods() -> list[str]:
    """Methods in the order of their units, the base first."""
    return [BASE, *(method for method in ORDER if method in METHODS)]
