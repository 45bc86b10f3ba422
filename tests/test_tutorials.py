"""The tutorials can be followed: every block of a page runs, in its order, from an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.project import ROOT, run

FOLDER = ROOT / "docs/tutorials"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "README")
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def script(page: str) -> str:
    """The blocks of a page as one shell script; Python's run where the commands before them are."""
    blocks = BLOCK.findall((FOLDER / f"{page}.md").read_text(encoding="utf-8"))
    return "\n".join(
        f"python - <<'BLOCK'\n{code}BLOCK" if kind == "python" else code for kind, code in blocks
    )


def test_every_page_is_listed() -> None:
    listed = re.findall(r"\]\((\w+)\.md\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_runs(page: str, tmp_path: Path) -> None:
    run(tmp_path, "bash", "-euo", "pipefail", "-c", script(page))
