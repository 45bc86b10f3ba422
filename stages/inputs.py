"""Note the versions of the code and the files that params.yaml names, stage by stage; writes inputs.yaml for DVC.

DVC runs this first and always. Every other stage lists its own entry of inputs.yaml in dvc.yaml as a parameter, so it
runs again when the version of its code or one of its files has changed, here and where the package is installed.
"""

from __future__ import annotations

import importlib
import logging

from stages import STAGES
from tgo_pipeline.errors import TgoError
from tgo_pipeline.inputs.demanded import lacking, read_yaml, require_known_captions
from tgo_pipeline.params import Params
from tgo_pipeline.plugins.folder import looking
from tgo_pipeline.storage.project import git_agrees
from tgo_pipeline.storage.workspace import HERE, Workspace
from tgo_pipeline.storage.writing import atomic

log = logging.getLogger("tgo")
HEADER = """\
# Written by the stage `inputs` whenever DVC runs: versions of the code, and the files that params.yaml names with a
# digest of what they hold. DVC runs a stage again when its entry changes. Do not edit.
"""


def run(params: Params, workspace: Workspace = HERE) -> None:
    """Write inputs.yaml. Raises `TgoError` for what would end the run at a later stage, when much is spent."""
    import yaml

    _require_sections(workspace)
    _require_commit()
    require_known_captions(params)
    with looking():
        entries = {name: importlib.import_module(f"stages.{name}").inputs(params) for name in STAGES}
    if _is_of_an_earlier_pipeline(workspace):
        log.info(
            "%s is of an earlier version of %s: every stage runs once more. What is finished is kept; the long stages "
            "find that they have nothing to do.",
            workspace.lock,
            workspace.pipeline,
        )
    with atomic(workspace.inputs) as temporary:
        content = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1000)
        temporary.write_text(HEADER + content, encoding="utf-8")


def _is_of_an_earlier_pipeline(workspace: Workspace) -> bool:
    """Whether DVC has run stages here without this one, or by other commands than it runs now."""
    now = read_yaml(workspace.pipeline).get("stages") or {}
    known = read_yaml(workspace.lock).get("stages") or {}
    changed = (stage in now and entry.get("cmd") != now[stage].get("cmd") for stage, entry in known.items())
    return bool(known) and ("inputs" not in known or any(changed))


def _require_sections(workspace: Workspace) -> None:
    """DVC refuses to run a stage with a parameter that is not in the file; better now than after days of sampling."""
    if said := lacking(workspace):
        raise TgoError(said)


def _require_commit() -> None:
    """dvclive, which writes the log of the training, fails in a git repository that has no commit yet."""
    if git_agrees(HERE.root, "rev-parse", "--is-inside-work-tree") and not git_agrees(
        HERE.root, "rev-parse", "--verify", "--quiet", "HEAD"
    ):
        raise TgoError(
            "this git repository has no commit, and dvclive, which writes the log of the training, needs one: "
            "`git add -A`, `git commit`, and run again."
        )


if __name__ == "__main__":
    from stages import main

    main("inputs")
