"""Builds `report.html`: one file that holds its images, its charts and their runtime, and needs no network."""

from __future__ import annotations

import base64
import functools
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.rendering import text
from tgo_pipeline.report import sections
from tgo_pipeline.report.adequacy import adequacy
from tgo_pipeline.report.examples import examples
from tgo_pipeline.report.gallery.gallery import Exhibition, prepare
from tgo_pipeline.report.models import models
from tgo_pipeline.report.run import describe
from tgo_pipeline.report.thumbnails import BUDGET_BYTES, Album
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.storage.tables import sample_column
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.storage.writing import atomic

log = logging.getLogger("tgo")
HERE = Path(__file__).parent / "page"
STYLES = ("report.css", "gallery.css")
SCRIPTS = ("elements", "theme", "charts", "clips", "samples", "gallery", "detail", "keys", "start")
"""Joined in this order into one script with a scope of its own."""
RESERVE_BYTES = 2048
"""Kept free for the numbers that the text says of the gallery: a few sentences."""
EXPORTS = "window.vegaEmbed = vegaEmbed;"


def build(params: Params, workspace: Workspace) -> None:
    """Write the report of a run; sections whose inputs are missing say which stage writes them.

    The page names no time and no folder: the same run gives the same bytes. Raises `TgoError` for a table of the wrong
    schema.
    """
    output = workspace.report
    page = render(params, workspace)
    with atomic(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    log.info("%s: %s", output, text.size(output.stat().st_size))


def render(params: Params, workspace: Workspace) -> str:
    """The page as text, at most `report.max_mb` megabytes of UTF-8: the gallery takes what the rest leaves.

    Raises `TgoError` if not even the rest fits.
    """
    report = params.report
    album = album_of(report.max_mb, 3 * report.examples + 2 * report.pairs)
    context = _sections(params, workspace, album) | {"max_mb": report.max_mb}
    advice = "report.max_mb is {mb:g}, but {what}: give more, or lower report.examples and report.pairs."
    return filled("report.html.j2", context, prepare(params, workspace), report.max_mb, advice)


def album_of(max_mb: float, images: int) -> Album:
    """Room for the images in the text of a page, of which so many are expected."""
    spare = int(max_mb * 1e6) - sum(len(part.encode()) for part in _fixed().values())
    return Album(max(0, min(BUDGET_BYTES, spare // 2)), max(1, images))


def _fixed() -> dict[str, str]:
    """What every page has."""
    return {"style": style(), "runtime": vega_runtime(), "script": script()}


def filled(
    template: str, context: Mapping[str, Any], exhibition: Exhibition | None, max_mb: float, advice: str
) -> str:
    """A page of at most `max_mb` megabytes of UTF-8, of which the gallery takes what the rest leaves.

    Raises `TgoError`, with the `advice`, if not even the rest fits.
    """
    limit, fixed = int(max_mb * 1e6), _fixed()
    whole = {**context, **fixed, "policy": content_policy(fixed["runtime"], fixed["script"])}
    found = _environment().get_template(template)

    def page(budget: int) -> str:
        return found.render(**whole, gallery=exhibition and exhibition.hang(budget)).lstrip()

    without = len(page(0).encode())
    if without > limit:
        what = f"the page takes {text.size(without)} before a single sample is in its gallery"
        raise TgoError(advice.format(mb=max_mb, what=what))
    return page(limit - without - RESERVE_BYTES)


def _sections(params: Params, workspace: Workspace, album: Album) -> dict[str, Any]:
    """What every section shows but the gallery; images go into `album` in the order of the sections."""
    evaluation = sections.evaluation(params, workspace)
    return {
        "params": params,
        "what": _kind(workspace),
        "run": describe(params, workspace),
        "evaluation": evaluation,
        "models": models(params, workspace, evaluation.roles) if evaluation else None,
        "scores": sections.scores(params, workspace),
        "adequacy": adequacy(params, workspace.adequacy),
        "labels": sections.labels(params, workspace),
        "training": sections.training_curves(workspace),
        "pairs": sections.before_after(params, workspace, evaluation, album),
        "examples": examples(workspace.labels, workspace.generations, params.report.examples, album),
        "album": album,
    }


def _kind(workspace: Workspace) -> str:
    """What the run's samples are called."""
    shards = parquet_files(workspace.generations)
    return "clip" if shards and sample_column(shards[0]) == "video" else "image"


def style() -> str:
    """The page's style sheets as one."""
    return "".join((HERE / name).read_text(encoding="utf-8") for name in STYLES)


def script() -> str:
    """The page's own scripts as one."""
    parts = [(HERE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


@functools.cache
def vega_runtime() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script without imports; takes a second."""
    return vl_convert.javascript_bundle(EXPORTS)


def content_policy(*scripts: str) -> str:
    """The Content-Security-Policy of the page: its own scripts by hash, no connection, no other source.

    Should a prompt ever escape as markup, the browser still refuses to run it. Vega compiles expressions, hence
    `unsafe-eval`.
    """
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:; "
        "media-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    named = (
        text.number,
        text.fixed,
        text.signed,
        text.percent,
        text.count,
        text.size,
        text.visible,
        text.script_json,
    )
    environment.filters.update({function.__name__: function for function in named})
    return environment
