"""Writes report.html from the tables of all other stages; it opens offline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgo_pipeline.params import Params
from tgo_pipeline.storage.workspace import HERE, Workspace

if TYPE_CHECKING:
    from stages import Inputs
    from tgo_pipeline.storage.shards import Status


def run(params: Params, workspace: Workspace = HERE) -> None:
    """Build the report; a section whose stage has not run says so."""
    from tgo_pipeline.report.build import build

    build(params, workspace)


def shards(params: Params, workspace: Workspace = HERE) -> tuple[Status, str]:
    """Whether the page is there."""
    from tgo_pipeline.storage.shards import table_status

    return table_status(workspace.report), str(workspace.report)


def inputs(_: Params) -> Inputs:
    """What else the page depends on."""
    from tgo_pipeline import report
    from tgo_pipeline.inputs import named_files

    return {"versions": {"report": report.VERSION}, "files": named_files.page()}


if __name__ == "__main__":
    from stages import main

    main("report")
