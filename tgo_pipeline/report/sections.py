"""What each section shows: the facts of `collect` and `examples` with their charts; None where inputs are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tgo_pipeline.params import Params
from tgo_pipeline.rendering.sheets import cell
from tgo_pipeline.report import collect, summary, training
from tgo_pipeline.report.charts import sections as charts
from tgo_pipeline.report.collect import EvaluationRow
from tgo_pipeline.report.examples import ExamplePairs, pairs
from tgo_pipeline.report.thumbnails import Album
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.thresholds.targets import meanings


@dataclass(frozen=True)
class EvaluationSection:
    """What the section on the evaluation shows; `roles` names each reward's part."""

    headline: str
    findings: list[summary.Headline]
    sets: Mapping[str, list[EvaluationRow]]
    roles: Mapping[str, summary.Role]
    emphasised: list[str]
    decimals: Mapping[str, int]
    differences: charts.Spec
    win_rates: charts.Spec
    by_set: Mapping[str, charts.Spec]


def evaluation(params: Params, workspace: Workspace) -> EvaluationSection | None:
    """The evaluation's facts, and charts of all test sets together and of each."""
    rows = collect.evaluation(workspace.evaluation, params.shown_names)
    if not rows:
        return None
    found, part = summary.findings(params, rows), summary.roles(params, rows)
    order = {name: place for place, name in enumerate(("target", "held out", "other"))}
    ranked = sorted(rows, key=lambda row: order[part[row.reward]])
    sets = summary.by_set(ranked)
    overall = next(iter(sets.values()))
    single = {name: rows for name, rows in sets.items() if name != summary.ALL}
    domain = charts.effect_domain(ranked)
    return EvaluationSection(
        headline=summary.headline(found, params.fine_tune.objective),
        findings=found,
        sets=sets,
        roles=part,
        emphasised=[finding.row.reward for finding in found] or [overall[0].reward],
        decimals={row.reward: row.decimals for row in overall},
        differences=charts.forest(overall, part, charts.effect_domain(overall)),
        win_rates=charts.win_rates(overall, part),
        by_set={name: charts.forest(rows, part, domain) for name, rows in single.items()}
        if len(single) > 1
        else {},
    )


@dataclass(frozen=True)
class ScoresSection:
    """Thresholds and, per reward, the histogram of its scores; the target comes first.

    `feedback` has what was counted in each column that people gave, `meanings` what the numbers of a reward are.
    """

    target: str
    meanings: Mapping[str, str]
    feedback: Mapping[str, Mapping[str, float]]
    rows: list[collect.ThresholdRow]
    charts: Mapping[str, charts.Spec]


def scores(params: Params, workspace: Workspace) -> ScoresSection | None:
    """Thresholds with the histograms that the threshold stage wrote."""
    shown = params.shown_names
    rows = collect.thresholds(workspace.thresholds, shown)
    if not rows:
        return None
    target = shown(params.target.reward)
    rows = sorted(rows, key=lambda row: row.reward != target)
    histograms = collect.score_histograms(workspace.plots, shown) or {}
    drawn = {
        row.reward: charts.score_histogram(histograms[cell(row.reward)], row)
        for row in rows
        if cell(row.reward) in histograms
    }
    feedback = collect.feedback_counts(workspace.metrics, params.score.feedback)
    return ScoresSection(target, meanings(workspace.scores), feedback, rows, drawn)


@dataclass(frozen=True)
class LabelsSection:
    """Facts and charts of the labels."""

    summary: collect.LabelSummary
    balance: charts.Spec
    weights: charts.Spec


def labels(params: Params, workspace: Workspace) -> LabelsSection | None:
    """Balance and weights of the labels."""
    found = collect.label_summary(workspace.labels, params.shown_names)
    if found is None:
        return None
    return LabelsSection(found, charts.label_balance(found), charts.weight_histogram(found))


@dataclass(frozen=True)
class TrainingSection:
    """Every panel of training metrics with its chart, and the last histogram of log-ratios if there is one."""

    panels: list[tuple[training.Panel, charts.Spec]]
    log_ratios: charts.Spec | None


def training_curves(workspace: Workspace) -> TrainingSection | None:
    """What fine-tuning said of itself."""
    panels = training.panels(workspace.training)
    if panels is None:
        return None
    last = training.last_log_ratios(workspace.training)
    drawn = [(panel, charts.curves(panel)) for panel in panels]
    return TrainingSection(drawn, charts.log_ratio_histogram(last) if last else None)


@dataclass(frozen=True)
class ExamplesSection:
    """The pairs, the part of the reward that chose them, and per emphasised reward the chart of all differences."""

    pairs: ExamplePairs
    role: summary.Role
    charts: Mapping[str, charts.Spec]


def before_after(
    params: Params, workspace: Workspace, evaluated: EvaluationSection | None, album: Album
) -> ExamplesSection | None:
    """Pairs with their images; the rewards that the evaluation emphasises stand below them."""
    target = params.shown_names(params.target.reward)
    roles: Mapping[str, summary.Role] = evaluated.roles if evaluated else {target: "target"}
    found = pairs(params, workspace, evaluated.emphasised if evaluated else [target], album)
    if found is None:
        return None
    drawn = {
        name: charts.difference_histogram(values, charts.COLOURS[roles[name]])
        for name, values in found.differences.items()
    }
    return ExamplesSection(found, roles[found.reward], drawn)
