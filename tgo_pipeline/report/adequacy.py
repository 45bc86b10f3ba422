"""The section "is one tau enough?": the verdict on the target first, then what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tgo_pipeline.params import Params
from tgo_pipeline.rendering.text import count, decimals, fixed, number, percent
from tgo_pipeline.report.charts import adequacy as charts
from tgo_pipeline.report.charts.sections import Spec
from tgo_pipeline.thresholds.adequacy.table import (
    BASELINES,
    AdequacyRow,
    Statistics,
    by_reward,
    read_adequacy,
)


@dataclass(frozen=True)
class BaselineLine:
    """One instance baseline of the target: its flips, as counted, by chance alone and with the noise taken out."""

    name: str
    meaning: str
    at: float | None
    flips: AdequacyRow
    chance: AdequacyRow
    corrected: AdequacyRow
    ratio: AdequacyRow
    offset: AdequacyRow
    distance: AdequacyRow
    note: str | None

    @property
    def setting(self) -> str:
        """What it depends on besides the scores: the soft baseline's beta, or the percentile."""
        if self.at is None:
            return ""
        return f"β {number(self.at, 2)}" if self.name.startswith("prompt_soft") else f"at {self.at:g}"


@dataclass(frozen=True)
class SoftLine:
    """The soft baseline at one beta: the effective samples behind it, and the warning if they are too few."""

    beta: float
    ess: AdequacyRow
    low_share: AdequacyRow
    bias: AdequacyRow
    oracle: AdequacyRow

    @property
    def warned(self) -> bool:
        """Whether the stage says more of it than that its beta is a what-if."""
        return not (self.ess.note or "what if").startswith("what if")


@dataclass(frozen=True)
class RewardLine:
    """The verdict on one reward with the numbers that it rests on."""

    reward: str
    verdict: AdequacyRow
    ratio: AdequacyRow
    heterogeneity: AdequacyRow
    bound: AdequacyRow
    sampling: AdequacyRow
    samples_per_prompt: AdequacyRow


@dataclass(frozen=True)
class Adequacy:
    """What the section shows. `verdict` is adequate, inadequate or undecided; `sentence` says why."""

    reward: str
    verdict: str
    sentence: str
    advice: list[str]
    facts: list[tuple[str, str, str]]
    decimals: int
    baselines: list[BaselineLine]
    soft: list[SoftLine]
    rewards: list[RewardLine]
    charts: Mapping[str, tuple[Spec, str]]


def adequacy(params: Params, path: Path) -> Adequacy | None:
    """The section's facts and charts, or None if the threshold stage has not written the table.

    Raises `TgoError` for a table of the wrong schema.
    """
    if not path.is_file():
        return None
    shown = params.shown_names
    every = {shown(name): found for name, found in by_reward(read_adequacy(path)).items()}
    if not every:
        return None
    target = shown(params.target.reward) if shown(params.target.reward) in every else next(iter(every))
    found = every[target]
    verdict = found.first("verdict")
    lines = _baselines(found)
    return Adequacy(
        reward=target,
        verdict=verdict.baseline or "undecided",
        sentence=verdict.note or "",
        advice=[row.note for row in found.all("advice") if row.note],
        facts=_facts(found),
        decimals=decimals(_spread(found)),
        baselines=lines,
        soft=_soft(found),
        rewards=[_reward(name, every[name]) for name in sorted(every, key=lambda name: name != target)],
        charts=_charts(found, lines),
    )


def _spread(found: Statistics) -> float | None:
    variances = [found.first(name).value for name in ("between_variance", "within_variance")]
    known = [value for value in variances if value is not None]
    return sum(known) ** 0.5 if known else None


def _facts(found: Statistics) -> list[tuple[str, str, str]]:
    """(what, its value, what it says) of the target."""
    first = found.first
    ties, samples = first("ties").value, first("samples").value
    tied = None if ties is None or samples is None else count(round(ties * samples))
    facts = [
        (
            "Labels that prompts' own thresholds would flip",
            _interval(first("heterogeneity")),
            "noise taken out",
        ),
        ("At most, whatever the distribution", _interval(first("heterogeneity_bound")), ""),
        ("Tolerated", percent(first("tolerance").value), ""),
        (
            "R: variance between prompts",
            _interval(first("ratio")),
            "at 0 all prompts share their baseline",
        ),
        (
            "Variance between and within prompts",
            f"{number(first('between_variance').value)} and {number(first('within_variance').value)}",
            "",
        ),
        (
            "Labels that another draw of prompts would flip",
            percent(first("sampling_flip_rate").value, 1),
            "what the sampling error of τ amounts to",
        ),
        (
            "Samples",
            f"{_count(samples)} of {_count(first('prompts').value)} prompts",
            f"{_count(first('samples_per_prompt').value)} a prompt",
        ),
        (
            "Effective share of the label weights",
            percent(first("weight_ess").value),
            first("weight_ess").note or "",
        ),
        ("Samples tied at τ", tied or "", ""),
    ]
    return [(name, value, note) for name, value, note in facts if value and not value.startswith("–")]


def _count(value: float | None) -> str:
    return "–" if value is None else count(round(value)) if value == round(value) else number(value)


def _interval(row: AdequacyRow) -> str:
    """A share with its interval."""
    if row.low is None or row.high is None:
        return percent(row.value, 1)
    return f"{percent(row.value, 1)} ({fixed(100 * row.low, 1)} to {percent(row.high, 1)})"


def _baselines(found: Statistics) -> list[BaselineLine]:
    def at(statistic: str, flips: AdequacyRow) -> AdequacyRow:
        rows = found.all(statistic, flips.baseline)
        return next((row for row in rows if flips.at in (None, row.at)), AdequacyRow(statistic=statistic))

    return [
        BaselineLine(
            name=flips.baseline or "",
            meaning=BASELINES.get(flips.baseline or "", ""),
            at=flips.at,
            flips=flips,
            chance=at("flip_rate_null", flips),
            corrected=at("flip_rate_corrected", flips),
            ratio=at("ratio", flips),
            offset=at("baseline_offset", flips),
            distance=found.first("weighted_distance", flips.baseline),
            note=flips.note,
        )
        for flips in found.all("flip_rate")
    ]


def _soft(found: Statistics) -> list[SoftLine]:
    return [
        SoftLine(
            beta=row.at,
            ess=row,
            **{
                name: next(
                    (other for other in found.all(statistic) if other.at == row.at),
                    AdequacyRow(statistic=statistic),
                )
                for name, statistic in (
                    ("low_share", "soft_ess_low"),
                    ("bias", "soft_bias"),
                    ("oracle", "oracle_percentile"),
                )
            },
        )
        for row in found.all("soft_ess")
        if row.at is not None
    ]


def _reward(name: str, found: Statistics) -> RewardLine:
    shown = (
        "verdict",
        "ratio",
        "heterogeneity",
        "heterogeneity_bound",
        "sampling_flip_rate",
        "samples_per_prompt",
    )
    return RewardLine(name, *(found.first(statistic) for statistic in shown))


def _charts(found: Statistics, lines: list[BaselineLine]) -> dict[str, tuple[Spec, str]]:
    """Title to chart and caption; what the table has no rows for is left out."""
    tolerance, made = found.first("tolerance").value, {}
    if lines:
        named = [(_named(line), line.flips, line.chance, line.corrected) for line in lines]
        made["Flips by baseline"] = (
            charts.flip_rates(named, tolerance),
            "Dot and line: labels that flip against the estimated baseline, with interval. Tick: the same with scores "
            "shuffled over prompts, which is chance alone. Diamond: noise taken out. Dashes: tolerated.",
        )
    stability, differing = list(found.all("stability")), list(found.all("heterogeneity_at"))
    if stability or differing:
        made["Over percentiles"] = (
            charts.percentiles(stability, differing, found.first("tau").at, tolerance),
            "Whether another percentile would do better. The line stands at the chosen one; dashes: tolerated.",
        )
    curve, best = list(found.all("margin_curve")), found.first("margin_bound")
    if curve and best.at is not None and best.value is not None:
        baseline = BASELINES.get(curve[0].baseline or "", curve[0].baseline or "")
        made["Margin bound"] = (
            charts.margin_bound(curve, best),
            f"P(|s − τ| ≤ h) + E(b − τ)² / h² bounds the flips against the {baseline}, here as estimated; least at the "
            "dot. A bound of 100 % or more says nothing.",
        )
    return made


def _named(line: BaselineLine) -> str:
    return f"{line.name}, {line.setting}" if line.setting else line.name
