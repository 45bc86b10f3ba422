"""What the parameters take from the model hub: which repositories, at which revision, for what."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tgo_pipeline.datasets import is_dataset, open_dataset
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.models import sides
from tgo_pipeline.generators.adapters import adapter_file
from tgo_pipeline.generators.location import described_guidance, locate
from tgo_pipeline.hub.address import MOVING, Official, Repository, parse
from tgo_pipeline.params import Params
from tgo_pipeline.reading.hub_rows import is_hub_rows
from tgo_pipeline.reading.places import Hub as HubPlace
from tgo_pipeline.rewards.files.layouts import DEMO, LAYOUTS, Layout, hub_place
from tgo_pipeline.rewards.specs import Spec, canonical, resolve_all
from tgo_pipeline.storage.stores.inputs import local_path
from tgo_pipeline.storage.workspace import HERE

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class NamedSource:
    """A repository that one key of the parameters names.

    A pipeline has neither `files` nor `address`. `files` are those that a reward reads, by their names in its layout;
    of `weights` (empty: `files` has them) any one will do. `address` is that of a data set.
    """

    subject: str
    repository: str
    revision: str | None
    kind: Kind = "model"
    files: Mapping[str, Official] = field(default_factory=dict)
    weights: tuple[str, ...] = ()
    address: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository


def moves(revision: str | None) -> bool:
    """Whether a revision may mean something else tomorrow."""
    return revision is None or revision in MOVING


def sources(params: Params) -> list[NamedSource]:
    """Every repository, in the order of the parameters. What cannot be read is left out: the check of files says so."""
    found: list[NamedSource] = []
    for stream in (_pipelines(params), _rewards(params), _datasets(params)):
        with contextlib.suppress(TgoError):
            found.extend(stream)
    return found


def models(params: Params) -> Iterator[tuple[str, str, str | None]]:
    """Every model that is opened: the key that names it, the model, its revision.

    Raises `TgoError`, after the others, if `evaluate.models` has a name that cannot be.
    """
    yield "model", params.model, params.revision
    yield from ((f"generate.guidance.{role}", module, None) for role, module in modules(params).items())
    further = sides(params, HERE)[2:]
    yield from ((f"evaluate.models.{side.name}", side.model, side.revision) for side in further)


def modules(params: Params) -> dict[str, str]:
    """The models or adapters that guide the sampling, by their role."""
    guidance = params.generate.guidance
    if guidance is None:
        return {}
    named = {"positive": guidance.positive, "negative": guidance.negative}
    return {role: module for role, module in named.items() if module is not None}


def rewards(params: Params) -> dict[str, Spec]:
    """Every reward that scores, by the key that names it."""
    sections = {"score.rewards": params.score.rewards, "evaluate.rewards": params.evaluate.rewards}
    return {
        f"{section}.{column}": spec
        for section, named in sections.items()
        for column, spec in resolve_all(named).items()
    }


def addresses(params: Params) -> dict[str, str]:
    """Every data set, by the key that names it."""
    named = {"prompts.train": params.prompts.train}
    named |= {f"prompts.test.{name}": source for name, source in params.prompts.test.items()}
    if params.generate.source == "images":
        named["generate.images"] = params.generate.images or ""
    named |= {f"score.feedback.{name}": each.source for name, each in params.score.feedback.items()}
    return {key: source for key, source in named.items() if is_dataset(source) or is_hub_rows(source)}


def _pipelines(params: Params) -> Iterator[NamedSource]:
    for subject, model, revision in models(params):
        with contextlib.suppress(TgoError):
            for base, pinned in _parts(model, revision):
                location = locate(base, pinned)
                if location.hub_id is not None:
                    yield NamedSource(subject, location.hub_id, location.revision)


def _parts(model: str, revision: str | None) -> list[tuple[str, str | None]]:
    """A model by itself; the base and the modules of a guided result; nothing of an adapter's file."""
    if adapter_file(model):
        return []
    described = described_guidance(model)
    if described is None:
        return [(model, revision)]
    base, pinned, guidance = described
    further = [module for module in (guidance.positive, guidance.negative) if module]
    return [(base, pinned), *((module, None) for module in further if not adapter_file(module))]


def _rewards(params: Params) -> Iterator[NamedSource]:
    for subject, spec in rewards(params).items():
        with contextlib.suppress(TgoError):
            yield from _of_reward(subject, spec)


def _of_reward(subject: str, spec: Spec) -> Iterator[NamedSource]:
    name = canonical(spec.reward)
    layout = LAYOUTS.get(name, Layout())
    if not layout.weights or spec.source == DEMO:
        return
    if spec.source is None:
        yield from _official(subject, layout.official)
    elif place := hub_place(name, spec.source):
        tower = set(layout.tower)
        files = {file: Official(file, place) for file in layout.required if file not in tower}
        yield NamedSource(subject, place.repo, place.revision, files=files, weights=layout.weights)
    elif not any((_folder(spec.source) / file).is_file() for file in layout.tower):
        yield from _official(subject, {file: layout.official[file] for file in layout.tower})


def _official(subject: str, files: Mapping[str, Official]) -> Iterator[NamedSource]:
    """The repositories of a release; what is at a URL is not a repository."""
    places = dict.fromkeys(each.place for each in files.values() if isinstance(each.place, Repository))
    for place in places:
        here = {name: each for name, each in files.items() if each.place == place}
        yield NamedSource(subject, place.repo, place.revision, files=here)


def addressed(params: Params) -> dict[str, Official]:
    """Files of releases that lie at a URL of their own, by the key of the reward that needs them."""
    return {
        subject: each
        for subject, spec in rewards(params).items()
        if spec.source is None and (layout := LAYOUTS.get(canonical(spec.reward)))
        for each in layout.official.values()
        if isinstance(each.place, str)
    }


def _folder(source: str) -> Path:
    path = local_path(source)
    return path if path.is_dir() else path.parent


def _datasets(params: Params) -> Iterator[NamedSource]:
    for subject, address in addresses(params).items():
        with contextlib.suppress(TgoError):
            if is_hub_rows(address):
                repository, revision, *_ = parse(address)
                yield NamedSource(subject, repository, revision, "dataset", address=address)
                continue
            place = open_dataset(address).place
            if isinstance(place, HubPlace):
                yield NamedSource(subject, place.repository, place.revision, "dataset", address=address)
