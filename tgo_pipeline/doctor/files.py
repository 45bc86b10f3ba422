"""Whether what the parameters name is there and whole, as far as it lies on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.doctor import weights
from tgo_pipeline.doctor.findings import Finding, fail, note, ok, warn
from tgo_pipeline.doctor.request import Request
from tgo_pipeline.doctor.sources import models, modules, rewards
from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub import weight_files
from tgo_pipeline.params import GenerateParams, Params, ThresholdParams
from tgo_pipeline.storage.paths import parquet_files

if TYPE_CHECKING:
    from tgo_pipeline.datasets import Dataset
    from tgo_pipeline.doctor.examine import Check
    from tgo_pipeline.params.feedback import FeedbackParams
    from tgo_pipeline.rewards.specs import Spec

LOOKED_AT = 1000
"""So many of the images that a table names are looked for: a look takes microseconds, over a network milliseconds."""
OPENED = 20
"""Of so many the header is read."""


def checks(case: Request) -> Iterator[Check]:
    """Models, rewards, prompts, images, feedback and the proxy set, each under the key that names it."""
    params = case.params
    if params is None:
        yield "files", lambda: [note("files", "not looked at: the parameters that name them cannot be read.")]
        return
    for role, module in modules(params).items():
        yield f"generate.guidance.{role}", lambda r=role, m=module: _fits(params, r, m)
    for subject, spec in rewards(params).items():
        yield subject, lambda s=subject, each=spec: _reward(s, each)
    named = {"train": params.prompts.train}
    named |= {f"test.{name}": source for name, source in params.prompts.test.items()}
    for name, source in named.items():
        yield f"prompts.{name}", lambda n=name, s=source: _prompts(f"prompts.{n}", s, params.prompts.column)
    if params.generate.source == "images":
        yield "generate.images", lambda: _images(params.generate)
    for name, feedback in params.score.feedback.items():
        yield f"score.feedback.{name}", lambda n=name, f=feedback: _feedback(f"score.feedback.{n}", f, params)
    if params.threshold.source == "proxy":
        yield "threshold.proxy", lambda: _proxy(params, params.threshold)
    for subject, model, revision in models(params):
        yield subject, lambda s=subject, m=model, r=revision: _model(s, m, r)


def _fits(params: Params, role: str, module: str) -> Iterator[Finding]:
    """Raise `TgoError` if a module says that it is an adapter of another base."""
    from tgo_pipeline.generators.guidance import require_base

    require_base(role, module, params.model, params.revision)
    return iter(())


def _model(subject: str, model: str, revision: str | None) -> Iterator[Finding]:
    from tgo_pipeline.generators.adapters import adapter_file
    from tgo_pipeline.generators.location import described_guidance, locate

    if file := adapter_file(model):
        yield ok(subject, f"{file}: an adapter of {weight_files.count([file]):,} numbers.")
        return
    if described := described_guidance(model):
        base, pinned, guidance = described
        parts = {"base": base, "positive": guidance.positive, "negative": guidance.negative}
        for role, part in parts.items():
            if part is not None:
                yield from _model(f"{subject}, {role}", part, pinned if role == "base" else None)
        return
    location = locate(model, revision)
    if location.adapter is not None:
        yield from _adapter(subject, location.adapter)
    if location.folder is not None:
        yield from weights.pipeline(subject, location.folder)


def _adapter(subject: str, folder: Path) -> Iterator[Finding]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        yield fail(subject, f"{folder} holds no adapter, although its tgo.json says so: run fine_tune again.")
    for file in files:
        yield ok(subject, f"{file}: an adapter of {weight_files.count([file]):,} numbers.")


def _reward(subject: str, spec: Spec) -> Iterator[Finding]:
    from tgo_pipeline.plugins.kinds import REWARD
    from tgo_pipeline.rewards import fingerprint
    from tgo_pipeline.rewards.files.layouts import DEMO, LAYOUTS, hub_place, local_weight_files
    from tgo_pipeline.rewards.isolated.names import is_isolated
    from tgo_pipeline.rewards.isolated.reward import interpreter_of
    from tgo_pipeline.rewards.specs import canonical

    name = canonical(spec.reward)
    identity = fingerprint(spec)
    if is_isolated(name):
        interpreter_of(name)
        yield ok(subject, f"{spec}: in an interpreter of its own (fingerprint {identity}).")
    elif name not in LAYOUTS:
        REWARD.find(name)
        yield ok(subject, f"{spec}: code of your own (fingerprint {identity}).")
    elif spec.source == DEMO or name in ("oracle", "moving_oracle"):
        yield ok(subject, "the demo's, which comes with this package.")
    elif not LAYOUTS[name].weights:
        yield ok(subject, f"{spec} (fingerprint {identity}).")
    elif spec.source is not None and not hub_place(name, spec.source):
        weight_files.count(local_weight_files(name, spec.source))
        yield ok(subject, f"{spec.source} (fingerprint {identity}).")


def _prompts(subject: str, source: str, column: str) -> Iterator[Finding]:
    from tgo_pipeline.datasets import is_dataset, open_dataset
    from tgo_pipeline.datasets.sources import is_on_hub
    from tgo_pipeline.prompts.sources import DEMO, prompts
    from tgo_pipeline.reading.tables import open_table

    if is_dataset(source):
        yield from _dataset(subject, open_dataset(source), "prompts")
        return
    if is_on_hub(source):
        return
    if not source.startswith(DEMO) and Path(source).suffix.lower() != ".txt":
        open_table(source).require([column])
    if next((prompt for prompt in prompts(source, column) if prompt.text.strip()), None) is None:
        yield fail(subject, f"{source} holds no prompt: give it at least one.")
    else:
        yield ok(subject, f"{source}.")


def _dataset(subject: str, dataset: Dataset, what: str) -> Iterator[Finding]:
    """Read the first rows of one stream; a data set of the hub is left to the checks of the hub."""
    from tgo_pipeline.reading.places import Hub

    if isinstance(dataset.place, Hub):
        return
    batch = next(iter(getattr(dataset, what)()), None)
    if batch is None or not batch.num_rows:
        yield fail(subject, f"{dataset.address} holds no {what}.")
    else:
        yield ok(subject, f"{dataset.address}: {len(dataset.files())} files; the first rows can be read.")


def _images(params: GenerateParams) -> Iterator[Finding]:
    from tgo_pipeline.datasets import is_dataset, open_dataset
    from tgo_pipeline.datasets.sources import is_on_hub
    from tgo_pipeline.images.base import are_clips
    from tgo_pipeline.images.import_folder import open_images

    subject, images = "generate.images", params.images or ""
    if is_dataset(images):
        yield from _dataset(subject, open_dataset(images), "images")
        return
    if is_on_hub(images):
        return
    sources = open_images(params)
    labels = (row for source in sources for row in source.labels(0, LOOKED_AT))
    rows = list(itertools.islice(labels, LOOKED_AT))
    files = [row.content for row in rows if isinstance(row.content, Path)]
    missing = [file for file in files if not file.is_file()]
    if not rows:
        yield fail(subject, f"{images} lists no image.")
    elif missing:
        yield warn(
            subject,
            f"{images}: {len(missing)} of the first {len(rows)} images are not there, the first is {missing[0]}: "
            "their samples will fail.",
        )
    else:
        counts = [source.count for source in sources if source.count is not None]
        some = len(counts) < len(sources)  # a stream ends where it is read to
        clips = are_clips(sources)
        what = "clips" if clips else "images"
        yield ok(subject, f"{images}: {len(rows) if some else sum(counts):,} {what}{' at least' * some}.")
        yield from _headers(subject, files[:OPENED], clips)


def _headers(subject: str, files: Sequence[Path], clips: bool) -> Iterator[Finding]:
    """What keeps the first images or clips from being used: their format, or more pixels than the limit."""
    from tgo_pipeline.formats.video_files import UnreadableVideo, frame_size
    from tgo_pipeline.rewards.engine.decode import UnreadableImage, check_size, header_size
    from tgo_pipeline.rewards.engine.images import read_content

    size, what = (frame_size, "clips") if clips else (header_size, "images")

    reasons: dict[Path, str] = {}
    for file in files:
        try:
            check_size(*size(read_content(file) or b""))
        except (UnreadableImage, UnreadableVideo) as error:
            reasons[file] = str(error)
    if reasons:
        first, reason = next(iter(reasons.items()))
        yield warn(
            subject,
            f"{len(reasons)} of the first {len(files)} {what} cannot be used, the first is {first}: {reason}.",
        )


def _feedback(subject: str, params: FeedbackParams, whole: Params) -> Iterator[Finding]:
    from tgo_pipeline.datasets import is_dataset, open_dataset
    from tgo_pipeline.datasets.sources import is_on_hub
    from tgo_pipeline.feedback import ratings_file
    from tgo_pipeline.reading.tables import open_table

    if is_dataset(params.source):
        what = "comparisons" if params.kind == "pair" else "ratings"
        yield from _dataset(subject, open_dataset(params.source), what)
        return
    if is_on_hub(params.source):
        return
    if ratings_file.is_ratings_file(params.source):
        count = ratings_file.frame(params.source, params.kind).height
        yield ok(subject, f"{params.source}: {count:,} {params.kind}s of `tgo rate`.")
        return
    try:
        ratings_file.require_there(params.source)
    except TgoError as error:
        if whole.generate.source == "images":  # the images are there: nothing is to be waited for
            raise
        yield warn(subject, str(error))
        return
    keys = ["first", "second", "choice"] if params.kind == "pair" else ["image", "value"]
    wanted = [getattr(params, key) for key in keys] + [name for name in (params.rater,) if name]
    open_table(params.source).require(wanted)
    yield ok(subject, f"{params.source}: {params.kind}s in {', '.join(wanted)}.")


def _proxy(params: Params, threshold: ThresholdParams) -> Iterator[Finding]:
    from tgo_pipeline.reading.tables import open_table
    from tgo_pipeline.storage.paths import SHARD_NAME

    subject, folder = "threshold.proxy", Path(threshold.proxy or "").expanduser()
    shards = [file for file in parquet_files(folder) if SHARD_NAME.fullmatch(file.name)]
    if not shards:
        yield fail(
            subject, f"{folder} holds no shards of scores: name the folder data/scores of the other run."
        )
        return
    open_table(shards[0]).require(["prompt_id", *params.target_rewards])
    yield ok(subject, f"{folder}: {len(shards)} shards of scores.")
