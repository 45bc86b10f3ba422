"""What `thresholds_demo` measured: the labels of each rule, the rewards they led to, as numbers, text and figure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks.objectives.figure import INK, OURS, QUIET
from benchmarks.objectives.run import Job
from benchmarks.objectives.tables import ORACLE, contrast, find, pooled, samples_of, standardised
from benchmarks.objectives.units import Result, Study
from benchmarks.results import SEEDS_RESAMPLED, table
from benchmarks.thresholds.demo_plan import GLOBAL, RULES, WEIGHTINGS, found, rules, unit
from tgo_pipeline.errors import TgoError

RESAMPLES, CONFIDENCE = 2000, 0.95
MEASURES = {
    "positive": "positive",
    "flipped": "other than global",
    "pairs": "pairs of a prompt in the oracle's order",
    "in_prompt": "side of the prompt's mean oracle",
    "overall": "side of the median oracle",
}
"""Shares of samples, or of pairs of samples of one prompt with different labels."""


class Draws(NamedTuple):
    """How often each seed (D, S) and each prompt (D, P) is drawn."""

    seeds: np.ndarray
    prompts: np.ndarray


class Ratio(NamedTuple):
    """A share: what counts of each seed and prompt (S, P), and what it counts among."""

    count: np.ndarray
    among: np.ndarray

    def of(self, draws: Draws) -> np.ndarray:
        """The share in each draw; a sample counts as often as its seed and its prompt are drawn, multiplied."""
        count, among = (
            (draws.seeds * (draws.prompts @ each.T)).sum(axis=1) for each in (self.count, self.among)
        )
        return count / among


@dataclass(frozen=True)
class Samples:
    """The training samples of all seeds: what a rule made of them, and what the oracle says (N,)."""

    seeds: np.ndarray
    prompts: np.ndarray
    sets: np.ndarray
    """Numbers a prompt's samples in one seed: these are compared with each other."""
    oracle: np.ndarray
    above_median: np.ndarray
    """Whether the oracle is at or above its median in the seed."""
    labels: Mapping[str, np.ndarray]


def read_samples(study: Study, seeds: Sequence[int]) -> Samples:
    """The labels of every rule and the oracle's scores of the same images."""
    from fine_tune.data.labels import read_labels

    of_seed, prompts, sets, oracle, above = [], [], [], [], []
    labels: dict[str, list[np.ndarray]] = {rule: [] for rule in RULES}
    for seed in seeds:
        jobs = {rule: _job(study, rule, seed) for rule in RULES}
        read = {rule: read_labels(job.labelled / "labels") for rule, job in jobs.items()}
        truth = _oracle(jobs[GLOBAL])
        known = read[GLOBAL]
        values = np.array([truth[sample] for sample in known.sample_ids])
        of_seed += [str(seed)] * len(known.prompt_ids)
        prompts += list(known.prompt_ids)
        sets += [f"{seed}/{prompt}" for prompt in known.prompt_ids]
        oracle.append(values)
        above.append(values >= np.median(values))
        for rule, each in read.items():
            labels[rule].append(each.label)
    joined = {rule: np.concatenate(each) for rule, each in labels.items()}
    return Samples(
        _numbers(of_seed),
        _numbers(prompts),
        _numbers(sets),
        np.concatenate(oracle),
        np.concatenate(above),
        joined,
    )


def _numbers(names: Sequence[str]) -> np.ndarray:
    return np.unique(names, return_inverse=True)[1]


def _job(study: Study, rule: str, seed: int) -> Job:
    one = unit(next(iter(WEIGHTINGS)), rule, seed)
    return Job(one, study.params(one), study.home(one))


def _oracle(job: Job) -> dict[str, float]:
    """The oracle's score of every training image of a seed, scored once."""
    from tgo_pipeline.scoring.stage import score_folder
    from tgo_pipeline.thresholds.targets import read_scores

    folder = job.home / ORACLE
    score_folder(job.generations, folder, {ORACLE: "demo"}, runtime=job.params.runtime, max_error_rate=0.0)
    frame = read_scores(folder, [ORACLE])
    return dict(zip(frame["sample_id"], frame[ORACLE].cast(float), strict=True))


def measures(samples: Samples, rule: str) -> dict[str, Ratio]:
    """Every measure of a rule's labels, by seed and prompt."""
    label = samples.labels[rule]
    count = np.bincount(samples.sets)
    advantage = samples.oracle - (np.bincount(samples.sets, samples.oracle) / count)[samples.sets]
    apart = np.abs(advantage) > 1e-9  # equal images of a prompt are on no side of their mean

    def share(hit: np.ndarray, among: np.ndarray | None = None) -> Ratio:
        chosen = np.ones(label.size, bool) if among is None else among
        counts = np.zeros((2, *_shape(samples)))
        for each, counted in zip(counts, (hit & chosen, chosen), strict=True):
            np.add.at(each, (samples.seeds, samples.prompts), counted)
        return Ratio(*counts)

    return {
        "positive": share(label == 1),
        "flipped": share(label != samples.labels[GLOBAL]),
        "pairs": _ordered_pairs(samples, label),
        "in_prompt": share((label == 1) == (advantage > 0), apart),
        "overall": share((label == 1) == samples.above_median),
    }


def _shape(samples: Samples) -> tuple[int, int]:
    """How many seeds and prompts there are."""
    return int(samples.seeds.max()) + 1, int(samples.prompts.max()) + 1


def _ordered_pairs(samples: Samples, label: np.ndarray) -> Ratio:
    """Pairs of one prompt and seed with different labels: those whose positive one the oracle prefers, ties half."""
    right, pairs = np.zeros((2, *_shape(samples)))
    order = np.argsort(samples.sets, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(samples.sets))[:-1]):
        better = np.sign(samples.oracle[rows][:, None] - samples.oracle[rows])
        different = (label[rows][:, None] == 1) & (label[rows] == 0)
        place = samples.seeds[rows[0]], samples.prompts[rows[0]]
        right[place] += float(((1 + better) / 2)[different].sum())
        pairs[place] += int(different.sum())
    return Ratio(right, pairs)


def label_rows(samples: Samples) -> dict[str, dict[str, dict[str, float]]]:
    """Each measure of each rule with its interval, and its difference from the global rule.

    Seeds and prompts are resampled, independently.
    """
    rng = np.random.default_rng(0)
    draws = Draws(*(rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float) for n in _shape(samples)))
    reference = measures(samples, GLOBAL)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for rule in samples.labels:
        mine = measures(samples, rule)
        rows[rule] = {
            name: _interval(ratio, draws) | _interval(ratio, draws, reference[name], "difference_")
            for name, ratio in mine.items()
        }
    return rows


def _interval(ratio: Ratio, draws: Draws, other: Ratio | None = None, prefix: str = "") -> dict[str, float]:
    whole = Draws(*(np.ones((1, each.shape[1])) for each in draws))
    value, drawn = (
        ratio.of(weights) - (0.0 if other is None else other.of(weights)) for weights in (whole, draws)
    )
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {f"{prefix}value": float(value[0]), f"{prefix}low": float(low), f"{prefix}high": float(high)}


def summarise(study: Study, seeds: Sequence[int]) -> dict[str, Any]:
    """All numbers, of the seeds that every rule has been run with. Raises `TgoError` if there is none."""
    results = {name: found(study, name, seeds) for name in WEIGHTINGS}
    each = [set(by_seed) for name in WEIGHTINGS for by_seed in _whole(results[name], rules(name))]
    shared = sorted(set.intersection(*each))
    if not shared:
        raise TgoError("no seed has been run with every rule yet: go on with `run`.")
    params = study.params(unit(next(iter(WEIGHTINGS)), GLOBAL, shared[0]))
    target, samples = params.target.reward, read_samples(study, shared)
    return {
        "seeds": shared,
        "target": target,
        "rules": {**RULES, **{name: {} for name in rules(next(iter(WEIGHTINGS))) if name not in RULES}},
        "weightings": {name: dict(settings) for name, settings in WEIGHTINGS.items()},
        "prompts": int(samples.prompts.max()) + 1,
        "labels": label_rows(samples),
        "rewards": {
            name: {
                rule: _rewards(
                    {s: by_seed[s] for s in shared}, results[name][GLOBAL], target, params.evaluate
                )
                for rule, by_seed in results[name].items()
            }
            for name in WEIGHTINGS
        },
    }


def _whole(
    results: Mapping[str, Mapping[int, Result]], wanted: Mapping[str, Any]
) -> Iterator[Mapping[int, Result]]:
    return (results.get(rule, {}) for rule in wanted)


def _rewards(
    mine: Mapping[int, Result], reference: Mapping[int, Result], target: str, params: Any
) -> dict[str, Any]:
    rows = pooled(samples_of(mine), target, params)
    return {
        "base": {name: standardised(find(rows, name)) for name in (target, ORACLE)},
        "global": contrast(mine, reference, target, params),
        "seeds": {
            str(seed): {name: standardised(find(result.rows, name))["effect"] for name in (target, ORACLE)}
            for seed, result in mine.items()
        },
    }


def markdown(summary: Mapping[str, Any]) -> str:
    """The section of RESULTS.md."""
    here, seeds = summary["machine"], summary["seeds"]
    parts = [
        "## One threshold, or one for each prompt? (small world)",
        f"{summary['date']}, {here['processor']}, torch {here['torch']}, commit {here['commit']}. Denoising model, "
        f"TGO, {len(seeds)} seeds of 256 prompts with four images each ({summary['prompts']} prompts in all), 78 "
        f"steps of 32 samples (2.4 epochs), target {summary['target']}, test captions with one image each. Labels "
        f"are binary; weights do not differ between rules. Intervals: 95 %. {SEEDS_RESAMPLED} Rates and T were tuned "
        "with the global rule.",
        "### The labels",
        _label_table(summary["labels"]),
        "Shares of the training samples. *Pairs*: of two images of one prompt with different labels, how often the "
        "oracle prefers the positive one. *Side of the prompt's mean oracle*, *side of the median oracle*: labels "
        "that agree with the oracle's, split at each prompt's own mean or once for all.",
    ]
    for name, rows in summary["rewards"].items():
        parts += [f"### The rewards, {name}", _reward_table(rows, summary["target"])]
    parts.append(
        "*to base*: in standard deviations of the base model's images. *to global*: the same prompt, seed and noise, "
        "paired, in those of the global rule's; *by seed*: the difference of the effects to base, one training each."
    )
    return "\n\n".join(parts) + "\n"


def _label_table(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    header = ["rule", *MEASURES.values()]
    return table(
        header,
        [
            [rule, *(_share(measure[name], plain=rule == GLOBAL and name == "flipped") for name in MEASURES)]
            for rule, measure in rows.items()
        ],
    )


def _share(row: Mapping[str, float], plain: bool) -> str:
    if plain:
        return "–"
    return f"{100 * row['value']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _reward_table(rows: Mapping[str, Mapping[str, Any]], target: str) -> str:
    scores = (target, ORACLE)
    header = ["rule", *(f"{name} to {other}" for other in ("base", GLOBAL) for name in scores)]
    header += ["wins", *(f"{name} to {GLOBAL} by seed" for name in scores)]
    lines = []
    for rule, row in rows.items():
        cells = [_effect(row["base"][name]) for name in scores]
        if rule == GLOBAL:
            lines.append([rule, *cells, *["–"] * 5])
            continue
        cells += [_effect(row["global"][name]) for name in scores]
        cells.append(f"{100 * row['global'][target]['wins']:.0f} %")
        cells += [_by_seed(row["seeds"], rows[GLOBAL]["seeds"], name) for name in scores]
        lines.append([rule, *cells])
    return table(header, lines)


def _by_seed(mine: Mapping[str, Any], reference: Mapping[str, Any], name: str) -> str:
    return " ".join(f"{effects[name] - reference[seed][name]:+.2f}" for seed, effects in mine.items())


def _effect(row: Mapping[str, float]) -> str:
    return f"{row['effect']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"


def figure(summary: Mapping[str, Any]) -> Any:
    """An altair chart: every rule against the global one, target and oracle beside each other."""
    import altair as alt

    rows = [
        {"weights": weights, "rule": rule, "score": score} | row["global"][name]
        for weights, by_rule in summary["rewards"].items()
        for rule, row in by_rule.items()
        if rule != GLOBAL
        for score, name in ((f"target ({summary['target']})", summary["target"]), (ORACLE, ORACLE))
    ]
    order = [rule for rule in summary["rules"] if rule != GLOBAL]
    domain = [min(row["low"] for row in rows), max(row["high"] for row in rows)]
    panels = [
        _panel([row for row in rows if (row["weights"], row["score"]) == key], order, key, domain)
        for key in itertools.product(summary["rewards"], dict.fromkeys(row["score"] for row in rows))
    ]
    chart = alt.vconcat(
        *(alt.hconcat(*panels[i : i + 2], spacing=30) for i in range(0, len(panels), 2)), spacing=24
    )
    return (
        chart.configure(background="white", font="sans-serif")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK,
            titleColor=INK,
            titleFontWeight="normal",
            gridColor="#e4e7eb",
            domain=False,
            ticks=False,
        )
    )


def _panel(rows: list[dict[str, Any]], order: list[str], key: tuple[str, str], domain: list[float]) -> Any:
    import altair as alt

    names = [rule for rule in order if any(row["rule"] == rule for row in rows)]
    title = alt.Title(key[1], subtitle=key[0], fontWeight="normal", color=INK, anchor="start")
    base = alt.Chart(alt.Data(values=rows), width=300, height=22 * len(names), title=title)
    y = alt.Y("rule:N", sort=names, axis=alt.Axis(title=None, labelLimit=200, labelPadding=8))
    x = alt.X(
        "low:Q",
        title="against the global rule, in standard deviations of its images",
        scale=alt.Scale(domain=domain, nice=True),
        axis=alt.Axis(tickCount=6),
    )
    colour = alt.value(OURS if key[1] == ORACLE else INK)
    bars = base.mark_rule(strokeWidth=2).encode(x, alt.X2("high:Q"), y, color=colour)
    dots = base.mark_circle(size=70, opacity=1).encode(alt.X("effect:Q"), y, color=colour)
    zero = alt.Chart(alt.Data(values=[{}])).mark_rule(color=QUIET, strokeDash=[3, 3]).encode(x=alt.datum(0))
    return zero + bars + dots
