"""The card of the labelled data set: what `datasets` loads, what columns mean, and how scores became labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params, ThresholdParams
from tgo_pipeline.sharing.card import render
from tgo_pipeline.sharing.configurations import Configuration, read_configuration
from tgo_pipeline.sharing.facts import (
    RewardFact,
    described_rewards,
    require_file,
    shards,
    shown_model,
    target_words,
    task,
    tracked,
    without_places,
)
from tgo_pipeline.sharing.folders import CARD, DATASET, DATASET_PARTS, link_files, new_folder, state_of
from tgo_pipeline.sharing.licences import Licence
from tgo_pipeline.storage.tables import read_metadata, read_table
from tgo_pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData

STAGES = {"generations": "generate", "scores": "score", "labels": "label"}
SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
)
LARGEST = "10B<n<100B"
"""The hub's own words for sizes (`size_categories`)."""
SECTIONS = ("seed", "prompts", "generate", "score", "target", "threshold", "label")
"""The parameters that made the data."""


@dataclass(frozen=True)
class DatasetDetails:
    """What the run does not know: title, licence, and the data set's name on the hub."""

    licence: Licence
    title: str | None = None
    repo: str | None = None


@dataclass(frozen=True)
class Counts:
    """The labels in numbers; `ess` is (sum w)^2 / sum w^2 of the weights (Kish)."""

    labelled: int
    positive: int
    mean_weight: float
    max_weight: float
    ess: float

    @property
    def share(self) -> float:
        """Of the labels that are positive."""
        return self.positive / max(self.labelled, 1)

    @classmethod
    def read(cls, labels: Path) -> Counts:
        """Sum up the label shards, one in memory at a time."""
        n = positive = 0
        total = squares = largest = 0.0
        for path in shards(labels):
            table = read_table(path, columns=["label", "weight"])
            weight = table["weight"].to_numpy()
            n += len(weight)
            positive += int(table["label"].to_numpy().sum())
            total += float(weight.sum())
            squares += float((weight**2).sum())
            largest = max(largest, float(weight.max(initial=0.0)))
        return cls(n, positive, total / max(n, 1), largest, total**2 / squares if squares else 0.0)


def write_dataset(params: Params, workspace: Workspace, about: DatasetDetails, to: Path) -> Path:
    """Write the shared data set to the folder `to`: the shards of three stages and their card; returns the card.

    Raises `TgoError` if a stage has not run, or ran with other parameters, or `to` holds something else.
    """
    folders = {name: getattr(workspace, name) for name in DATASET_PARTS}
    for name, folder in folders.items():
        require_file(folder, STAGES[name])
    require_file(workspace.thresholds, "threshold")
    _require_same_labels(params, workspace)
    state = state_of(DATASET, workspace)
    with new_folder(to, DATASET, state) as target:
        for name, folder in folders.items():
            link_files(folder, target / name)
        configurations = [read_configuration(name, target / name) for name in DATASET_PARTS]
        content = dataset_card(params, workspace, about, configurations, about.repo or str(to))
        (target / CARD).write_text(content, encoding="utf-8")
    return to / CARD


def _require_same_labels(params: Params, workspace: Workspace) -> None:
    """The card states how labels were made by the parameters of now, which have to be those that made them."""
    from tgo_pipeline.storage.shards import status
    from tgo_pipeline.thresholds.label_stage import plan
    from tgo_pipeline.thresholds.stage import planned_mark

    fitted = read_metadata(workspace.thresholds)
    now = status(workspace.labels, plan(params, workspace))
    if now.stale or now.to_do or not planned_mark(params, workspace).fits(fitted):
        raise TgoError(
            f"{workspace.labels} was made with other scores or parameters than those of now: give those that it was "
            "made with (--params), or run the threshold and label stages again."
        )


def dataset_card(
    params: Params,
    workspace: Workspace,
    about: DatasetDetails,
    configurations: Sequence[Configuration],
    name: str,
) -> str:
    """The whole card; `name` is what the data set is loaded by. Checked as the hub's library reads it."""
    from huggingface_hub import DatasetCard

    found = described_rewards(params, workspace.scores)
    rewards = [fact for fact in found if fact.column in configurations[1].features]
    is_drawn = params.generate.source == "model"
    return render(
        DatasetCard,
        "dataset.md.jinja",
        card_data(about, configurations),
        title=_title(about),
        what="clip" if _of_clips(configurations) else "image",
        name=name,
        images=configurations[0].examples,
        are_drawn=is_drawn,
        origin=shown_model(params.model if is_drawn else params.generate.images or "a folder"),
        configurations=configurations,
        rewards=[_public(fact) for fact in rewards],
        scores={fact.column: fact for fact in rewards},
        target=target_words(params),
        tau=_tau(params, workspace),
        threshold=params.threshold,
        details=_details(params.threshold),
        label=params.label,
        counts=Counts.read(workspace.labels),
        parameters={name: tracked(params)[name] for name in SECTIONS},
        licence=about.licence,
    )


def card_data(about: DatasetDetails, configurations: Sequence[Configuration]) -> DatasetCardData:
    """The front matter: every configuration with its features, splits and files."""
    from huggingface_hub import DatasetCardData

    fields = about.licence.fields
    named = {key: value for key, value in fields.items() if key != "license"}
    return DatasetCardData(
        license=fields["license"],
        pretty_name=_title(about),
        size_categories=[_size(configurations[0].examples)],
        task_categories=[task(_of_clips(configurations))],
        tags=["preference", "reward-scores", "tgo-pipeline"],
        dataset_info=[each.info() for each in configurations],
        configs=[each.files(default=number == 0) for number, each in enumerate(configurations)],
        **named,
    )


def _of_clips(configurations: Sequence[Configuration]) -> bool:
    return "video" in configurations[0].features


def _size(examples: int) -> str:
    return next((name for limit, name in SIZES if examples < limit), LARGEST)


def _title(about: DatasetDetails) -> str:
    return about.title or (about.repo or "scored and labelled images").rsplit("/", 1)[-1]


def _public(fact: RewardFact) -> RewardFact:
    """The same without the folders of this machine."""
    return replace(fact, source=without_places(fact.source), scale=without_places(fact.scale))


def _tau(params: Params, workspace: Workspace) -> dict[str, Any]:
    """The row of the thresholds table that the target was split by."""
    from tgo_pipeline.thresholds.table import read_thresholds, threshold_row

    return threshold_row(read_thresholds(workspace.thresholds), params.target.reward)


def _details(threshold: ThresholdParams) -> list[str]:
    """What a baseline of the samples' own was given besides its name."""
    given = {"group": threshold.group, "beta": threshold.beta}
    extra = {"leave-one-out": threshold.leave_one_out, "jackknife": threshold.jackknife}
    return [f"{key} {value}" for key, value in given.items() if value is not None] + [
        word for word, on in extra.items() if on
    ]
