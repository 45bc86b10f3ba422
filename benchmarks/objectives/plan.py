"""Which units each phase of the study runs, in their order, and what one phase takes from the results of another.

Settings, the range of noise levels among them, are chosen by the target on the validation captions alone, as a mean
over two seeds; the oracle is never asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.objectives.units import BASE, METHODS, TAU, TEST, VALIDATION, Result, Study, Unit
from tgo_pipeline.params.fine_tune import MEASURED

TUNING_SEEDS = (100, 101)
SEEDS = (0, 1, 2, 3, 4)
MORE_SEEDS = (5, 6, 7, 8, 9)
"""For the leaders besides."""
LEADERS = 4
"""How many methods of one network call get the further seeds: the best on the validation captions."""
ABLATION_SEEDS = (0, 1, 2)
RATE, TEMPERATURE = "fine_tune.learning_rate", "fine_tune.temperature"
LEVELS = "fine_tune.noise_levels"
STRENGTH = "fine_tune.guidance.strength"
SCALE = "generate.guidance_scale"
RESTRICTED = {"demo": [0.538, 1.0], "demo-masked": [0.809, 1.0]}
"""The levels in place of all: t from .4 T on the diffusion base, u below .4 on the masked one."""
LOWS = {"demo": (0.0, 0.35, 0.538, 0.7), "demo-masked": (0.0, 0.588, 0.809, 0.924)}
"""Ranges by grid, from each of these on; of the masked base u below 1, .6, .4 and .25."""
STRENGTHS = (1.0, 1.5, 2.0)
SCALES = (1.0, 1.5, 3.0)
TIE = 0.01
"""Effects of trials are known to about 0.05."""
MODULES = {"pgd": "dpo", "pgd-contrast": "threshold_contrast", "cpgd": "sft"}
"""Methods of guidance and the method whose tuned settings their modules are trained with."""
Settings = Mapping[str, Any]


def rates(*values: float, **settings: Any) -> tuple[Settings, ...]:
    """Learning rates for an objective without T."""
    return tuple({RATE: value, **settings} for value in values)


def pairs(*values: tuple[float, float]) -> tuple[Settings, ...]:
    """Learning rates with a T each."""
    return tuple({RATE: rate, TEMPERATURE: temperature} for rate, temperature in values)


def dspo(temperature: float, *values: tuple[float, float]) -> tuple[Settings, ...]:
    """Learning rates with a strength each: the published .001, which is SFT on winners, or one that losers enter."""
    strength = "fine_tune.dspo.strength"
    return tuple({RATE: rate, TEMPERATURE: temperature, strength: value} for rate, value in values)


def nft(*values: tuple[float, float]) -> tuple[Settings, ...]:
    """Learning rates with a b each."""
    return tuple({RATE: rate, "fine_tune.nft.beta": beta} for rate, beta in values)


@dataclass(frozen=True)
class Trials:
    """The settings that are tried for each method that is trained, equally many for each, on all levels and on some."""

    by_method: Mapping[str, Sequence[Settings]]

    def __post_init__(self) -> None:
        counts = {method: len(trials) for method, trials in self.by_method.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"every method has as many trials as any other: {counts}")


UNPAIRED = ("tgo", "tgo-unweighted", "kto", "bco")
CONTRASTED = ("threshold_contrast", "dpo")
TRIALS = {
    "demo": Trials(
        {
            **dict.fromkeys(UNPAIRED, pairs((1e-4, 0.002), (1e-4, 0.005), (1e-4, 0.01), (2e-4, 0.005))),
            **dict.fromkeys(CONTRASTED, pairs((5e-5, 0.001), (5e-5, 0.002), (7e-5, 0.002), (1e-4, 0.001))),
            "nft": nft((1e-4, 1.0), (3e-4, 1.0), (1e-4, 0.1), (3e-4, 0.1)),
            "sft": rates(1e-4, 2e-4, 4e-4, 8e-4),
            "csft": rates(1e-4, 2e-4, 3e-4, 4e-4),
            "dspo": dspo(0.002, (1e-4, 0.001), (2e-4, 0.001), (5e-4, 0.001), (2e-4, 0.5)),
        }
    ),
    "demo-masked": Trials(
        {
            **dict.fromkeys(UNPAIRED, pairs((1e-4, 0.15), (1e-4, 0.5), (7e-5, 0.3), (1.5e-4, 0.5))),
            **dict.fromkeys(CONTRASTED, pairs((1e-4, 0.2), (1e-4, 0.3), (7e-5, 0.3), (1.5e-4, 0.3))),
            **dict.fromkeys(("sft", "csft"), rates(5e-5, 1e-4, 2e-4, 4e-4)),
            "dspo": dspo(0.1, (1e-4, 0.001), (3e-4, 0.001), (1e-4, 0.5), (3e-4, 0.5)),
        }
    ),
}
BATCH = "fine_tune.batch_size"
SAMPLES = 64
"""Of an update, twice those of the other phases."""
ON_ALL_LEVELS: dict[str, Settings] = {
    "demo": {RATE: 1.5e-4, TEMPERATURE: 0.005},
    "demo-masked": {RATE: 1e-4, TEMPERATURE: 0.5},
}
"""TGO as it was tuned with so many samples, before levels were."""
BUDGET = ("tgo", "threshold_contrast")
UNRESTRICTED = f"tgo+{SAMPLES}, all levels"
"""The method of `ON_ALL_LEVELS`."""
SAFEGUARD: dict[str, Any] = {"fine_tune.safeguard": 0.0, BATCH: 16}
SEARCH: dict[str, Settings] = {
    "threshold_contrast+negatives-3": {"fine_tune.threshold_contrast.negatives": 3, BATCH: 8},
    "threshold_contrast+uniform": {"fine_tune.threshold_contrast.deal": "uniform"},
    "threshold_contrast+two-draws": {"fine_tune.draws": 2},
    "threshold_contrast+safeguard": SAFEGUARD,
    "dpo+safeguard": SAFEGUARD,
    "tgo+safeguard": SAFEGUARD,
    "tgo+two-draws": {"fine_tune.draws": 2},
    "tgo+regression": {"fine_tune.objective": "qrpo"},
    "tgo+soft": {"fine_tune.tgo.soft_labels": 0.5},
}
"""Ideas on top of a method's chosen settings, on the validation captions."""
ORDER = (
    "tgo", "threshold_contrast", "dpo", "bco", "kto", "sft", "tgo-unweighted", "nft", "dspo", "csft",
    "pgd", "pgd-contrast", "cpgd",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One setting of a method on the validation captions, by seed."""

    method: str
    settings: Settings
    results: Sequence[Result]

    def value(self, reward: str) -> float:
        """The mean effect over the seeds; minus infinity if a training failed."""
        values = [result.value(reward) if result.rows else float("-inf") for result in self.results]
        return sum(values) / len(values)


@dataclass(frozen=True)
class Plan:
    """The units of the study for one family. `model` is the family's name, or a folder while its weights are made."""

    study: Study
    family: str
    model: str
    seeds: Sequence[int] = SEEDS

    @property
    def methods(self) -> list[str]:
        """Those of the family, in their order; guidance after what its modules are trained with."""
        trained = TRIALS[self.family].by_method
        return [method for method in ORDER if method in trained or method in MODULES]

    def tune(self) -> Iterator[Unit]:
        """Every trial of every method; strengths of a guidance once its modules' settings are chosen."""
        for method in self.methods:
            for settings, seed in itertools.product(self._settings(method), TUNING_SEEDS):
                yield self._unit(method, seed, VALIDATION, settings)

    def main(self) -> Iterator[Unit]:
        """The chosen settings of every method on the test captions, the leaders on more seeds; the base at scales."""
        chosen = {method: self.chosen(method) for method in self.methods}
        for seed, (method, settings) in itertools.product(self.seeds, chosen.items()):
            if settings is not None:
                yield self._unit(method, seed, TEST, settings)
        for seed, method in itertools.product(MORE_SEEDS, self.leaders()):
            yield self._unit(method, seed, TEST, chosen[method] or {})
        for seed, scale in itertools.product(self.seeds, SCALES):
            yield self._unit(BASE, seed, TEST, {SCALE: scale})

    def leaders(self) -> list[str]:
        """The best methods of one network call, and those of guidance; none until all trials have run."""
        best = {method: self.best(method) for method in self.methods}
        if None in best.values():
            return []
        one_call = [trial for method, trial in best.items() if trial is not None and method not in MODULES]
        first = sorted(one_call, key=lambda trial: -trial.value(self.target))[:LEADERS]
        return [trial.method for trial in first]

    def search(self) -> Iterator[Unit]:
        """Ideas on top of chosen settings, on the validation captions."""
        for name, settings in SEARCH.items():
            chosen = self.chosen(name.partition("+")[0])
            if chosen is not None:
                for seed in TUNING_SEEDS:
                    yield self._unit(name, seed, VALIDATION, {**chosen, **settings})

    def levels(self) -> Iterator[Unit]:
        """TGO as chosen on the restricted levels, with ranges by grid, measured, and by importance; test captions."""
        chosen = self.chosen("tgo", restricted=True)
        if chosen is not None:
            ranges: dict[str, Any] = {f"from {low:g}": [low, 1.0] for low in LOWS[self.family]}
            for seed, (name, range_) in itertools.product(
                self.seeds, (ranges | {name: name for name in MEASURED}).items()
            ):
                yield self._unit(f"tgo+{name}", seed, TEST, {**chosen, LEVELS: range_})

    def budget(self) -> Iterator[Unit]:
        """Methods without pairs as chosen, and TGO on all levels, with twice the samples an update; test captions."""
        chosen = {f"{method}+{SAMPLES}": self.chosen(method) for method in BUDGET}
        chosen[UNRESTRICTED] = ON_ALL_LEVELS[self.family]
        for seed, (name, settings) in itertools.product(self.seeds, chosen.items()):
            if settings is not None:
                units = SAMPLES // (2 if BATCH in METHODS[name.partition("+")[0]] else 1)
                yield self._unit(name, seed, TEST, {**settings, BATCH: units})

    def ablate(self) -> Iterator[Unit]:
        """TGO as chosen on the restricted levels, one thing varied at a time, on the test captions."""
        chosen = self.chosen("tgo", restricted=True)
        if chosen is not None:
            for seed, (name, settings) in itertools.product(ABLATION_SEEDS, ablations(chosen).items()):
                yield self._unit(f"tgo+{name}", seed, TEST, {**chosen, **settings})

    def chosen(self, method: str, *, restricted: bool | None = None) -> Settings | None:
        """The best trial's settings, None until all trials have run."""
        best = self.best(method, restricted=restricted)
        return None if best is None else best.settings

    def best(self, method: str, *, restricted: bool | None = None) -> Trial | None:
        """The trial with the greatest effect on the target, None until all trials have run.

        Of all, or of those on the restricted levels, or of the others. Trials within `TIE` of it count as equal, and
        the first of them that was tried is taken.
        """
        trials = self.trials(method)
        if len(trials) < max(1, len(self._settings(method))):
            return None
        among = [trial for trial in trials if restricted in (None, LEVELS in trial.settings)]
        greatest = max(trial.value(self.target) for trial in among)
        return next(trial for trial in among if trial.value(self.target) >= greatest - TIE)

    @property
    def target(self) -> str:
        """The reward that trials are compared by."""
        return self.study.raw["target"]["reward"]

    def trials(self, method: str) -> list[Trial]:
        """The trials of a method that have run on both seeds."""
        return self._run([(method, settings) for settings in self._settings(method)])

    def searched(self) -> list[Trial]:
        """What was tried on the validation captions besides the methods' trials, the best on the target first."""
        tried = [(unit.method, unit.settings) for unit in self.search() if unit.seed == TUNING_SEEDS[0]]
        return sorted(self._run(tried), key=lambda trial: -trial.value(self.target))

    def _run(self, tried: Sequence[tuple[str, Settings]]) -> list[Trial]:
        found = []
        for method, settings in tried:
            units = [self._unit(method, seed, VALIDATION, settings) for seed in TUNING_SEEDS]
            results = self.study.results(units)
            found += [Trial(method, settings, results)] * (len(results) == len(units))
        return found

    def _settings(self, method: str) -> Sequence[Settings]:
        if method not in MODULES:
            own = TRIALS[self.family].by_method[method]
            return [*own, *({**settings, LEVELS: RESTRICTED[self.family]} for settings in own)]
        of_modules = [self.chosen(MODULES[method], restricted=each) for each in (False, True)]
        return [
            {**settings, STRENGTH: strength}
            for settings in of_modules
            if settings is not None
            for strength in STRENGTHS
        ]

    def _unit(self, method: str, seed: int, split: str, settings: Settings) -> Unit:
        return Unit(self.model, method, seed, split, dict(settings))


def ablations(chosen: Settings) -> dict[str, Settings]:
    """What is varied about TGO, one thing at a time; `chosen` are its tuned settings.

    The threshold without weights, the weights at the one threshold, global against per-prompt baselines without
    weights; T, and all levels. beta is not among them: the loss knows beta / T alone.
    """
    plain: dict[str, Any] = {"label.c": 0.0}
    return {
        "as chosen": {},
        "c-0": plain,
        "c-0, percentile-.3": {**plain, "threshold.percentile": 0.3},
        "c-0, percentile-.7": {**plain, "threshold.percentile": 0.7},
        "c-0, prompt-mean": {**plain, TAU: "prompt_mean"},
        "c-0, prompt-quantile": {"fine_tune.tgo.labels": "quantile", "fine_tune.tgo.quantile_c": 0.0},
        "c-2": {"label.c": 2.0},
        "c-10": {"label.c": 10.0},
        "weights-rank": {"label.scale": "rank"},
        "prompt-mean": {TAU: "prompt_mean"},
        "T-half": {TEMPERATURE: chosen[TEMPERATURE] / 2},
        "T-double": {TEMPERATURE: chosen[TEMPERATURE] * 2},
        "all levels": {LEVELS: [0.0, 1.0]},
    }
