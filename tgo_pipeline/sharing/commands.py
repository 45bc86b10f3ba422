"""What `tgo card` and `tgo push` do, given what they were told."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.workspace import HERE

if TYPE_CHECKING:
    from tgo_pipeline.params import Params
    from tgo_pipeline.sharing.licences import Licence

log = logging.getLogger("tgo")
BOTH, MODEL, DATASET = "both", "model", "dataset"
Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class CardCall:
    """What `tgo card` was told."""

    what: str
    to: Path
    licence: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None
    data_licence: str | None = None
    model_repo: str | None = None
    dataset_repo: str | None = None
    base_model: str | None = None
    title: str | None = None


def card(params: Params, call: CardCall) -> None:
    """Write the shared folders with their cards. Raises `TgoError` before anything is written if one cannot be."""
    if call.what not in (BOTH, MODEL, DATASET):
        raise TgoError(
            f"{call.what!r} is nothing to make a card of: it must be {MODEL}, {DATASET} or {BOTH}."
        )
    licences = {}
    if call.what in (BOTH, MODEL):
        licences[MODEL] = _model_licence(params, call)
    if call.what in (BOTH, DATASET):
        licences[DATASET] = _data_licence(params, call)
    for kind, licence in licences.items():
        written = (_write_model if kind == MODEL else _write_dataset)(params, call, licence)
        log.info("%s: look through it, then `tgo push %s ORG/NAME`", written, kind)


def _write_model(params: Params, call: CardCall, licence: Licence) -> Path:
    from tgo_pipeline.sharing.model_card import ModelDetails, write_model

    about = ModelDetails(licence, call.title, call.model_repo, call.base_model, call.dataset_repo)
    return write_model(params, HERE, about, call.to / MODEL)


def _write_dataset(params: Params, call: CardCall, licence: Licence) -> Path:
    from tgo_pipeline.sharing.dataset_card import DatasetDetails, write_dataset

    title = call.title if call.what == DATASET else None
    return write_dataset(params, HERE, DatasetDetails(licence, title, call.dataset_repo), call.to / DATASET)


def _model_licence(params: Params, call: CardCall) -> Licence:
    from tgo_pipeline.sharing import licences

    if call.licence:
        return licences.given(call.licence, call.licence_name, call.licence_link)
    found = licences.of_base(params.model, params.revision)
    if found is None:
        raise TgoError(
            f"the licence of the model is not known: the base model {params.model} has no card here that states one. "
            "Give --license (its identifier on the hub, or `other` with --license-name and --license-link)."
        )
    return found


def _data_licence(params: Params, call: CardCall) -> Licence:
    from tgo_pipeline.sharing import licences

    if call.data_licence:
        return licences.given(call.data_licence)
    found = licences.of_data(params)
    if found is None:
        raise TgoError(
            "the licence of the data set is not known: it depends on its prompts and on what drew its images. Give "
            f"--data-license, or make the model's card alone (`tgo card {MODEL}`)."
        )
    return found


@dataclass(frozen=True)
class PushCall:
    """What `tgo push` was told; `folder` is None for the one that `tgo card` writes."""

    what: str
    repo: str
    folder: Path | None
    revision: str | None
    private: bool
    update: bool
    dry_run: bool


def push(call: PushCall) -> list[str]:
    """Upload a shared folder, or with `dry_run` list it; returns what to tell the user, line by line."""
    from tgo_pipeline.sharing import hub
    from tgo_pipeline.sharing import push as sharing

    if call.what not in (MODEL, DATASET):
        raise TgoError(f"{call.what!r} is nothing to push: it must be {MODEL} or {DATASET}.")
    kind = cast(Kind, call.what)
    workspace = None if call.folder else HERE
    folder = call.folder or HERE.share / kind
    planned = sharing.plan(kind, call.repo, folder, call.revision, workspace)
    if call.dry_run:
        lines = [f"{file.size:>14,}  {file.name}" for file in planned.files]
        total = f"{len(planned.files)} files, {planned.size:,} bytes, would go to the {kind} {call.repo}"
        return [*lines, f"{total}; nothing was sent."]
    done = sharing.push(planned, private=call.private, update=call.update)
    said = f"{done.address}: {done.sent} files sent ({hub.size(done.sent_bytes)}), {done.kept} were there already"
    return [f"{said}, {done.removed} of an earlier push removed." if done.removed else f"{said}."]
