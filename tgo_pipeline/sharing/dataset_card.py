"""The card of the labelled data set: what `datasets` loads, what columns mean, and how scores became labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline import __version__
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.rendering import markdown
from tgo_pipeline.sharing.configurations import Configuration, read_configuration
from tgo_pipeline.sharing.facts import (
    PAPER,
    Places,
    RewardFact,
    described_rewards,
    require_file,
    shards,
    shown_model,
    tracked,
    without_places,
)
from tgo_pipeline.sharing.folders import CARD, DATASET, DATASET_PARTS, link_files, new_folder, state_of
from tgo_pipeline.sharing.licences import Licence
from tgo_pipeline.storage.tables import read_metadata, read_table

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
MEANINGS = {
    "sample_id": "the image's name in all three configurations; join by it",
    "prompt_id": "hash of the normalised prompt",
    "prompt": "the text that the image was drawn for",
    "image": "the image, as its file's bytes",
    "width": "pixels",
    "height": "pixels",
    "model": "what drew the image",
    "revision": "its pinned revision; null if it has none",
    "seed": "of the noise that sampling started from",
    "index": "which of the prompt's images it is",
    "guidance_scale": "of classifier-free guidance",
    "steps": "of sampling",
    "image_uid": "the image's name at its source, for an image that was not sampled here",
    "error": "why an image has no score; null if it has all",
    "reward": "the score that the label is made of",
    "score": "that score",
    "relative_score": "the score minus what it was compared with",
    "label": "1 (positive) if the score reached what it was compared with, else 0 (negative)",
    "weight": "confidence in the label, which grows with the distance",
}


@dataclass(frozen=True)
class About:
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


def write_dataset(params: Params, places: Places, about: About, to: Path) -> Path:
    """Write the shared data set to the folder `to`: the shards of three stages and their card; returns the card.

    Raises `TgoError` if a stage has not run, or ran with other parameters, or `to` holds something else.
    """
    folders = {name: getattr(places, name) for name in DATASET_PARTS}
    for name, folder in folders.items():
        require_file(folder, STAGES[name])
    require_file(places.thresholds, "threshold")
    _require_same_labels(params, places)
    state = state_of(DATASET, places)
    with new_folder(to, DATASET, state) as target:
        for name, folder in folders.items():
            link_files(folder, target / name)
        configurations = [read_configuration(name, target / name) for name in DATASET_PARTS]
        content = dataset_card(params, places, about, configurations, about.repo or str(to))
        (target / CARD).write_text(content, encoding="utf-8")
    return to / CARD


def _require_same_labels(params: Params, places: Places) -> None:
    """The card states how labels were made by the parameters of now, which have to be those that made them."""
    from tgo_pipeline.storage.shards import status
    from tgo_pipeline.thresholds.groups import Sources
    from tgo_pipeline.thresholds.labels import plan
    from tgo_pipeline.thresholds.stage import planned_fingerprint

    sources = Sources(places.prompts, places.generations)
    fitted = read_metadata(places.thresholds).get("fingerprint")
    now = status(places.labels, plan(params, scores=places.scores, thresholds=places.thresholds))
    if now.stale or now.to_do or fitted != planned_fingerprint(params, places.scores, sources):
        raise TgoError(
            f"{places.labels} was made with other scores or parameters than those of now: give those that it was made "
            "with (--params), or run the threshold and label stages again."
        )


def dataset_card(
    params: Params, places: Places, about: About, configurations: Sequence[Configuration], name: str
) -> str:
    """The whole card; `name` is what the data set is loaded by. Checked as the hub's library reads it."""
    from huggingface_hub import DatasetCard

    rewards = described_rewards(params, places.scores)
    rewards = [fact for fact in rewards if fact.column in configurations[1].features]
    sections = [
        _opening(params, about, configurations[0].examples, len(rewards)),
        _loading(name, configurations),
        _columns(configurations, rewards),
        _labels(params, places, rewards),
        _limits(),
        _licence(about.licence),
    ]
    data = card_data(about, configurations)
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))


def card_data(about: About, configurations: Sequence[Configuration]) -> DatasetCardData:
    """The front matter: every configuration with its features, splits and files."""
    from huggingface_hub import DatasetCardData

    fields = about.licence.fields
    named = {key: value for key, value in fields.items() if key != "license"}
    return DatasetCardData(
        license=fields["license"],
        pretty_name=_title(about),
        size_categories=[_size(configurations[0].examples)],
        task_categories=["text-to-image"],
        tags=["preference", "reward-scores", "tgo-pipeline"],
        dataset_info=[each.info() for each in configurations],
        configs=[each.files(default=number == 0) for number, each in enumerate(configurations)],
        **named,
    )


def _size(examples: int) -> str:
    return next((name for limit, name in SIZES if examples < limit), LARGEST)


def _title(about: About) -> str:
    return about.title or (about.repo or "scored and labelled images").rsplit("/", 1)[-1]


def _opening(params: Params, about: About, images: int, scores: int) -> str:
    made = (
        f"{images:,} images, drawn by {markdown.code(shown_model(params.model))}"
        if params.generate.source == "model"
        else f"{images:,} images, taken from "
        f"{markdown.code(shown_model(params.generate.images or 'a folder'))}"
    )
    return (
        f"# {markdown.text(_title(about))}\n\n{made}, each with {scores} score{'s' * (scores != 1)} and "
        "labelled on its own as positive or negative, without pairs, "
        f"for [Threshold-Guided Optimization]({PAPER}). Made with tgo-pipeline {__version__}."
    )


def _loading(name: str, configurations: Sequence[Configuration]) -> str:
    lines = ["from datasets import load_dataset", ""]
    lines += [
        f"{each.name} = load_dataset({json.dumps(name)}, {json.dumps(each.name)})" for each in configurations
    ]
    rows = [
        [f"`{each.name}`", f"`{split.name}`", f"{split.examples:,}", f"{split.data_bytes:,}"]
        for each in configurations
        for split in each.splits
    ]
    shape = markdown.table(("configuration", "split", "rows", "bytes"), rows, (2, 3))
    return f"## How to load it\n\n{markdown.fenced(chr(10).join(lines), 'python')}\n\n{shape}"


IDENTITY = ("reward", "model and version", "scale", "source", "sha256 of the weights")
_HASH_SHOWN = 16


def _identity(fact: RewardFact) -> list[str]:
    """A row of what exactly gives a column's scores."""
    model = " ".join(str(part) for part in (fact.reward, fact.version, fact.dtype) if part)
    digest = markdown.code(fact.sha256[:_HASH_SHOWN]) if fact.sha256 else "–"
    source, scale = (markdown.text(without_places(each) or "–") for each in (fact.source, fact.scale))
    return [markdown.code(fact.column), markdown.text(model), scale, source, digest]


def _columns(configurations: Sequence[Configuration], rewards: Sequence[RewardFact]) -> str:
    scores = {fact.column: _meaning(fact) for fact in rewards}
    parts = []
    for each in configurations:
        meanings = {**MEANINGS, **scores} if each.name == "scores" else MEANINGS
        rows = [
            [markdown.code(name), _type(entry), meanings.get(name, "–")]
            for name, entry in each.features.items()
        ]
        parts.append(f"**{each.name}**\n\n{markdown.table(('column', 'type', 'meaning'), rows)}")
    return "## Columns\n\n" + "\n\n".join(parts)


def _meaning(fact: RewardFact) -> str:
    scale = f", {markdown.text(fact.scale)}" if fact.scale else ""
    return f"score by {markdown.text(fact.reward)}{scale}; null if the image could not be scored"


def _type(feature: Mapping[str, Any]) -> str:
    if feature["_type"] == "ClassLabel":
        return f"class label ({', '.join(feature['names'])})"
    return str(feature.get("dtype", feature["_type"].lower()))


def _labels(params: Params, places: Places, rewards: Sequence[RewardFact]) -> str:
    counts = Counts.read(places.labels)
    target = ", ".join(markdown.code(name) for name in params.target_rewards)
    combined = params.target_rewards != [params.target.reward]
    said = [
        f"Target score: {f'{params.target.reward} of {target}' if combined else target}.",
        _threshold(params, places),
        f"A score equal to it counts as {params.label.ties}.",
        f"Weight: 1 + {params.label.c:g} · distance, in units of {_unit(params)}.",
        f"{counts.labelled:,} samples have a label: {counts.positive:,} positive "
        f"({counts.positive / max(counts.labelled, 1):.1%}), {counts.labelled - counts.positive:,} negative. Weights: "
        f"mean {counts.mean_weight:.3g}, largest {counts.max_weight:.3g}, effective sample size {counts.ess:,.0f}.",
    ]
    import yaml

    made = markdown.table(IDENTITY, [_identity(fact) for fact in rewards])
    sections = {
        key: tracked(params)[key]
        for key in ("seed", "prompts", "generate", "score", "target", "threshold", "label")
    }
    every = markdown.fenced(yaml.safe_dump(sections, sort_keys=False, allow_unicode=True), "yaml")
    return (
        f"## How the labels were made\n\n{markdown.bullets(said)}\n\nThe scores:\n\n{made}\n\n"
        f"<details><summary>All parameters</summary>\n\n{every}\n\n</details>"
    )


_UNITS = {
    "raw": "the score",
    "std": "the scores' standard deviation",
    "mad": "the scores' median absolute deviation (× 1.4826)",
    "rank": "the scores' distribution function",
}


def _unit(params: Params) -> str:
    words = _UNITS[params.label.scale]
    return words.replace("score", "quantile") if params.threshold.baseline == "prompt_quantile" else words


def _threshold(params: Params, places: Places) -> str:
    """What a sample is compared with, in words and numbers."""
    from tgo_pipeline.thresholds.table import read_thresholds, threshold_row

    threshold = params.threshold
    row = threshold_row(read_thresholds(places.thresholds), params.target.reward)
    source = "a proxy set" if threshold.source == "proxy" else "all scores"
    tau = "none" if row["tau"] is None else f"{row['tau']:.6g}"
    interval = ""
    if row["tau_bootstrap_low"] is not None:
        interval = (
            f" [{row['tau_bootstrap_low']:.6g}, {row['tau_bootstrap_high']:.6g}] ({row['confidence']:.0%}, "
            "bootstrap over prompts)"
        )
    one = f"tau = {tau}{interval}, percentile {row['percentile']:g} of {source}"
    if threshold.baseline == "global":
        return f"Threshold: {one}."
    options = {"group": threshold.group, "beta": threshold.beta}
    given = ", ".join(f"{key} {value}" for key, value in options.items() if value is not None)
    extra = [
        word
        for word, on in (("leave-one-out", threshold.leave_one_out), ("jackknife", threshold.jackknife))
        if on
    ]
    details = ", ".join(filter(None, [given, *extra]))
    return (
        f"Each sample was compared with its own baseline: `{threshold.baseline}`{f' ({details})' if details else ''}. "
        f"One global threshold would have been {one}."
    )


def _limits() -> str:
    said = [
        "Scores are a reward model's opinion, not a person's, unless a column is marked as feedback; labels are made "
        "from them and share their biases.",
        "Images and prompts were not reviewed: they may hold what their sources hold.",
        "Scores of different rewards have different units and cannot be compared with each other.",
    ]
    return f"## Limits\n\n{markdown.bullets(said)}"


def _licence(licence: Licence) -> str:
    name = f" ({markdown.text(licence.name)})" if licence.name else ""
    link = f" Its text: {markdown.code(licence.link)}." if licence.link else ""
    return f"## Licence\n\n`{licence.id}`{name}: {markdown.text(licence.origin)}.{link}"
