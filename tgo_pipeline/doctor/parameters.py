"""Whether the parameter file can be read, and whether everything in it is pinned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.doctor.findings import Finding, fail, ok, warn
from tgo_pipeline.doctor.request import Request
from tgo_pipeline.doctor.sources import moves, sources
from tgo_pipeline.inputs.demanded import require_known_captions
from tgo_pipeline.params import Params
from tgo_pipeline.params.recipes import PLACEHOLDER, Recipe
from tgo_pipeline.plugins.kinds import OBJECTIVE, POLICY

if TYPE_CHECKING:
    from tgo_pipeline.doctor.examine import Check


def checks(case: Request) -> Iterator[Check]:
    """That it can be read; that nothing of a recipe is left to fill in; that no source of the hub may move."""
    yield str(case.path), lambda: _readable(case)
    if params := case.params:
        yield "revisions", lambda: _filled_in(case.path)
        yield "revisions", lambda: _pinned(params)
        yield "fine_tune", lambda: _own_parts(params)
        yield "rewards", lambda: _captions(params)


def _readable(case: Request) -> Iterator[Finding]:
    path, params = case.path, case.params
    if params is None:
        hint = "" if path.exists() else " `tgo init` begins a project."
        yield fail(str(path), f"{(case.error or '').removeprefix(f'{path}: ')}{hint}")
        return
    tuning = params.fine_tune
    yield ok(
        str(path),
        f"model {params.model}, target {params.target.reward}, objective {tuning.objective} (preset {tuning.preset}).",
    )


def _own_parts(params: Params) -> Iterator[Finding]:
    """Raise `TgoError` if an objective or a model family of one's own cannot be used."""
    params.fine_tune.load_parts()
    named = (params.fine_tune.objective, params.fine_tune.policy)
    for kind, name in zip((OBJECTIVE, POLICY), named, strict=True):
        if name is not None and name not in (*kind.builtin, *kind.also):
            yield ok("fine_tune", f"{kind.noun} {name}: can be imported.")


def _captions(params: Params) -> Iterator[Finding]:
    """Raise `TgoError` if the oracle of the small world cannot judge the images of the prompts."""
    require_known_captions(params)
    yield from ()


def _filled_in(path: Path) -> Iterator[Finding]:
    """The lines of a recipe that still wait for a commit."""
    for number, line in Recipe(path.name, path.read_text(encoding="utf-8")).to_fill():
        if PLACEHOLDER in line:
            yield fail(
                f"{path}, line {number}",
                f"`{line}`: replace {PLACEHOLDER} by the commit that you pin; the newest is below, under model hub.",
            )


def _pinned(params: Params) -> Iterator[Finding]:
    found = sources(params)
    moving = [source for source in found if moves(source.revision)]
    for source in moving:
        given = f"at {source.revision}" if source.revision else "without a revision"
        yield warn(
            source.subject,
            f"{source.repository} {given} may change between two runs: pin a commit.",
        )
    if not moving and not any(source.revision == PLACEHOLDER for source in found):
        yield ok("revisions", "every source is pinned, or lies on this machine.")
