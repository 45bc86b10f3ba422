"""The adequacy table for the terminal, 100 columns wide: the answer first, then the numbers with what each means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.workspace import HERE
from tgo_pipeline.thresholds.adequacy.table import (
    BASELINES,
    AdequacyRow,
    Statistics,
    by_reward,
    read_adequacy,
)
from tgo_pipeline.thresholds.targets import shown_names

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

NOTHING = "–"
STYLES = {"adequate": "bold green", "inadequate": "bold red", "undecided": "bold yellow"}


def show(path: Path, reward: str | None = None) -> Group:
    """Verdicts of all rewards, and every number of one of them: `reward`, or else the target.

    Raises `TgoError` if the table is missing, or has no such reward.
    """
    from rich.console import Group

    rewards = by_reward(read_adequacy(path))
    chosen = reward or next(
        (name for name, found in rewards.items() if _is_target(found)), next(iter(rewards))
    )
    if chosen not in rewards:
        raise TgoError(f"{path} has no reward {chosen!r}: it has {', '.join(rewards)}.")
    shown = shown_names(path.parent / HERE.scores.name)
    name, found = shown(chosen), rewards[chosen]
    every = {shown(each): statistics for each, statistics in rewards.items()}
    return Group(*_answer(name, found), *_verdicts(every), *_details(name, found))


def _is_target(found: Statistics) -> bool:
    return found.first("target").value is not None


def _answer(name: str, found: Statistics) -> Iterator[Text]:
    from rich.text import Text

    verdict = found.first("verdict")
    what = "the target" if _is_target(found) else "a reward"
    heading = (f"Is one threshold enough for {name}, {what}? ", "bold")
    yield Text.assemble(heading, (verdict.baseline or "", STYLES.get(verdict.baseline or "", "")))
    yield Text(verdict.note or "")
    yield Text((found.first("advice").note or "") + "\n")


def _verdicts(rewards: dict[str, Statistics]) -> Iterator[RenderableType]:
    yield _table(
        "All rewards",
        ("reward", "verdict", "flips", "interval", "at most", "R", "interval", "prompts", "each"),
        [
            (
                name,
                found.first("verdict").baseline or NOTHING,
                _percent(found.first("heterogeneity").value),
                _ends(found.first("heterogeneity")),
                _percent(found.first("heterogeneity_bound").high),
                _number(_plain(found, "ratio").value),
                _ends(_plain(found, "ratio"), _number),
                _count(found.first("repeated_prompts").value),
                _number(found.first("samples_per_prompt").value),
            )
            for name, found in rewards.items()
        ],
    )
    yield _legend(
        "flips: labels that the prompts' own true percentiles would change, the noise of few samples taken out, and "
        "no more than `at most` whatever the distribution. R: share of the variance of scores that lies between "
        "prompts; 0 is one threshold for all. prompts: with 2 samples or more; each: samples of a prompt (median)."
    )


def _details(name: str, found: Statistics) -> Iterator[RenderableType]:
    for part in (_tau, _flips, _bounds, _soft, _percentiles, _distances):
        yield from part(name, found)


def _tau(name: str, found: Statistics) -> Iterator[RenderableType]:
    tau, ties = found.first("tau"), found.first("ties")
    if tau.value is None:
        return
    sampling, alone = found.first("sampling_flip_rate"), found.first("sampling_flip_rate_independent")
    weights, largest = found.first("weight_ess"), found.first("weight_max")
    yield _table(
        f"tau of {name} itself",
        (
            "tau",
            "interval",
            "at or above",
            "at tau",
            "redrawn",
            "independent",
            "ESS of w",
            "max w",
        ),
        [
            (
                _number(tau.value),
                _ends(tau, _number),
                _percent(found.first("positive_fraction").value),
                _percent(ties.value),
                _percent(sampling.value),
                _percent(alone.value),
                _percent(weights.value),
                f"{_number(largest.value)}x",
            )
        ],
        named=False,
    )
    yield _legend(
        "redrawn: labels that another draw of as many prompts would move tau across: the sampling error of tau, to be "
        "held against the flips above; independent: the same if samples of a prompt were. ESS of w: (sum "
        f"w)^2 / sum w^2 over the samples ({weights.note or 'label.c, label.scale'}); max w: the largest over the mean."
    )


def _flips(name: str, found: Statistics) -> Iterator[RenderableType]:
    rows = list(found.all("flip_rate"))
    if not rows:
        return
    yield _table(
        f"Labels of {name} that change against",
        (
            "baseline",
            "as estimated",
            "interval",
            "by chance",
            "truly",
            "b - tau",
            "noise",
        ),
        [
            (
                _baseline(row),
                _percent(row.value),
                _ends(row),
                _percent(_same(found, "flip_rate_null", row).value),
                _percent(_same(found, "flip_rate_corrected", row).value),
                _number(_same(found, "baseline_offset", row).value),
                _noise_share(found, row),
            )
            for row in rows
        ],
    )
    yield _legend(
        "by chance: the same count with the scores shuffled over the prompts, all alike then: the noise of baselines "
        "from so few samples, and their distance from tau. truly: what the true baselines would change if prompts "
        "differ by a shift (with the distance from tau, which another percentile removes). noise: its share of the "
        "baseline's variance. others: without the sample itself. (what-if): threshold.beta is not declared in units of "
        "this score; shown are 1/2, 1 and 2 standard deviations within a prompt."
    )


def _bounds(name: str, found: Statistics) -> Iterator[RenderableType]:
    rows = list(found.all("margin_bound"))
    if not rows:
        return
    yield _table(
        f"What bounds the flips of {name}",
        (
            "baseline",
            "E (b - tau)^2",
            "variance",
            "offset^2",
            "margin bound",
            "at h",
            "true b",
            "density bound",
        ),
        [
            (
                _baseline(_at_beta(found, row)),
                _number(_named(found, "squared_error", row).value),
                _number(_named(found, "baseline_variance", row).value),
                _number(_square(_named(found, "baseline_offset", row).value)),
                _bound(row.value),
                _number(row.at),
                _bound(_named(found, "margin_bound_corrected", row).value),
                _bound(_named(found, "density_bound", row).value),
            )
            for row in rows
        ],
    )
    yield _legend(
        "E (b - tau)^2 = variance of the baseline + offset^2, as estimated. margin bound: the least P(|s - tau| <= h) "
        "+ E (b - tau)^2 / h^2, true whatever the distribution and seldom sharp; true b: without the noise of b. "
        "density bound: f E|b - tau| for the true b, with f the highest density of scores about a prompt's mean."
    )


def _soft(name: str, found: Statistics) -> Iterator[RenderableType]:
    rows = list(found.all("soft_ess"))
    if not rows:
        return
    yield _table(
        f"The soft baseline of {name}, beta log mean exp(s / beta)",
        ("beta", "ESS", "below 5", "bias", "R", "oracle percentile", ""),
        [
            (
                _number(row.at),
                _number(row.value),
                _percent(_same(found, "soft_ess_low", row).value),
                _number(_same(found, "soft_bias", row).value),
                _number(_same(found, "ratio", row).value),
                _number(_same(found, "oracle_percentile", row).value),
                "too few samples" if row.note and row.note.startswith("too few") else "",
            )
            for row in rows
        ],
    )
    yield _legend(
        "ESS: effective samples of a prompt behind it, (sum e)^2 / sum e^2 with e = exp(s / beta), median over "
        "prompts; below 5 it is nearer the largest score than an average. bias: from few samples (jackknife, score "
        "units). oracle percentile: Phi(sigma / 2 beta), where the threshold of normal scores stands, always above 0.5."
    )


def _percentiles(name: str, found: Statistics) -> Iterator[RenderableType]:
    rows = list(found.all("stability"))
    if not rows:
        return
    at = {row.at: row for row in found.all("heterogeneity_at")}
    empty = AdequacyRow(statistic="heterogeneity_at")
    yield _table(
        f"{name} at other percentiles",
        ("percentile", *(f"{row.at:g}" for row in rows)),
        [
            ("labels that move", *(_percent(row.value, 0) for row in rows)),
            ("flips", *(_percent(at.get(row.at, empty).value, 0) for row in rows)),
            ("  from", *(_percent(at.get(row.at, empty).low, 0) for row in rows)),
            ("  to", *(_percent(at.get(row.at, empty).high, 0) for row in rows)),
        ],
    )
    yield _legend(
        "Labels of two percentiles differ by the difference of their shares below; flips as in the verdict."
    )


def _distances(name: str, found: Statistics) -> Iterator[RenderableType]:
    rows = list(found.all("weighted_distance"))
    if not rows:
        return
    yield _table(
        f"What tau can change the weighted loss of {name} by",
        ("baseline", "E[w |tau - b|]", "interval", "least", "at threshold", "tau"),
        [
            (
                _baseline(_at_beta(found, row)),
                _number(row.value),
                _ends(row, _number),
                _number(_named(found, "weighted_distance_least", row).value),
                _number(_named(found, "weighted_distance_least", row).at),
                _number(row.at),
            )
            for row in rows
        ],
    )
    yield _legend(
        "An upper bound for the margin form of the loss, in score units and with baselines as estimated; least: over "
        "one threshold for all, which is then the weighted median of the baselines."
    )


def _plain(found: Statistics, statistic: str) -> AdequacyRow:
    """The row that belongs to no baseline."""
    return next(
        (row for row in found.all(statistic) if row.baseline is None), AdequacyRow(statistic=statistic)
    )


def _same(found: Statistics, statistic: str, like: AdequacyRow) -> AdequacyRow:
    """The row of another statistic of the same baseline at the same beta."""
    rows = (row for row in found.all(statistic, like.baseline) if row.at == like.at)
    return next(rows, AdequacyRow(statistic=statistic)) if like.baseline else AdequacyRow(statistic=statistic)


def _named(found: Statistics, statistic: str, like: AdequacyRow) -> AdequacyRow:
    """The row of another statistic of the same baseline, whose `at` means something else."""
    return found.first(statistic, like.baseline)


def _at_beta(found: Statistics, like: AdequacyRow) -> AdequacyRow:
    return found.first("flip_rate", like.baseline)


def _baseline(row: AdequacyRow) -> str:
    name = (row.baseline or NOTHING).removeprefix("prompt_").replace("_loo", ", others").replace("_", " ")
    if row.baseline in BASELINES and row.at is not None:
        name += f" at {_number(row.at)}"
    return f"{name} (what-if)" if row.note and "what if" in row.note else name


def _noise_share(found: Statistics, row: AdequacyRow) -> str:
    noise = _same(found, "baseline_noise", row).value
    variance = _same(found, "baseline_variance", row).value
    return _percent(min(1.0, noise / variance), 0) if noise is not None and variance else NOTHING


def _square(value: float | None) -> float | None:
    return None if value is None else value**2


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{round(value):,}"


def _percent(value: float | None, decimals: int = 1) -> str:
    return NOTHING if value is None else f"{100 * value:.{decimals}f} %"


def _bound(value: float | None) -> str:
    return "says nothing" if value is not None and value >= 1 else _percent(value)


def _ends(row: AdequacyRow, form: Callable[[float | None], str] = _percent) -> str:
    if row.low is None and row.high is None:
        return NOTHING
    return f"{form(row.low).removesuffix(' %')} to {form(row.high)}"


def _table(title: str, headers: Sequence[str], rows: Iterable[Sequence[str]], *, named: bool = True) -> Table:
    """A table of numbers; with `named` the first column names the rows and may be wrapped."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for place, header in enumerate(headers):
        if place == 0 and named:
            table.add_column(Text(header), style="cyan", overflow="fold")
        else:
            table.add_column(Text(header), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _legend(text: str) -> Text:
    from rich.text import Text

    return Text(text + "\n", style="dim")
