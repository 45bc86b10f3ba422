"""Builds `report.html`: one file that holds its pictures, its charts and their runtime, and needs no network."""

from __future__ import annotations

import base64
import functools
import hashlib
import logging
import time
from pathlib import Path

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tgo_pipeline.params import Params
from tgo_pipeline.report import sections, text
from tgo_pipeline.report.collect import Sources
from tgo_pipeline.report.examples import examples
from tgo_pipeline.report.pictures import Album
from tgo_pipeline.report.run import describe, minute
from tgo_pipeline.shards import atomic

log = logging.getLogger("tgo")
HERE = Path(__file__).parent
EXPORTS = "window.vegaEmbed = vegaEmbed;"


def build(params: Params, sources: Sources, output: Path, now: float | None = None) -> Path:
    """Write the report of a run to `output`; sections whose inputs are missing say which stage writes them.

    `now` is the POSIX time that the page states as its own. Raises `TgoError` for a table of the wrong schema.
    """
    page = render(params, sources, time.time() if now is None else now)
    with atomic(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    log.info("%s: %s", output, text.size(output.stat().st_size))
    return output


def render(params: Params, sources: Sources, now: float) -> str:
    """The page as text."""
    album = Album()
    runtime, script = vega_runtime(), (HERE / "report.js").read_text(encoding="utf-8")
    context = {
        "params": params,
        "run": describe(params, sources),
        "built": minute(now),
        "evaluation": sections.evaluation(params, sources),
        "scores": sections.scores(params, sources),
        "labels": sections.labels(sources),
        "training": sections.training_curves(sources),
        "examples": examples(sources.labels, sources.generations, params.report.examples, album),
    }
    shown = context["evaluation"].emphasised if context["evaluation"] else [params.target.reward]
    context["pairs"] = sections.before_after(params, sources, shown, album)
    template = _environment().get_template("report.html.j2")
    return template.render(
        **context,
        album=album,
        style=(HERE / "report.css").read_text(encoding="utf-8"),
        runtime=runtime,
        script=script,
        policy=content_policy(runtime, script),
    ).lstrip()


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
        "base-uri 'none'; form-action 'none'"
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
