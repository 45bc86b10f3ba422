"""A copy of this project with toy parameters, for the tests that run it as a user does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROMPTS = [
    f"a {colour} {shape} on a white background"
    for colour in ("red", "blue")
    for shape in ("circle", "square")
]
TOY = {
    "prompts": {"train": "demo:train", "test": {"four": "prompts.txt"}, "limit": 12},
    "generate": {"images_per_prompt": 4, "guidance_scale": 1.0, "steps": 2, "shard_size": 4},
    "fine_tune": {
        "temperature": 0.01,
        "steps": 12,
        "batch_size": 8,
        "learning_rate": 1.0e-4,
        "checkpoint_every": 1,
    },
    "evaluate": {"images_per_prompt": 1, "bootstrap": 200, "rewards": {"oracle": "demo"}},
    "runtime": {"device": "cpu", "threads": 1},
}


def environment() -> dict[str, str]:
    """This environment with this interpreter first on the path, one thread and no network of its own."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@example.org",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@example.org",
    }


def run(
    folder: Path,
    *command: str,
    ok: bool = True,
    timeout_s: float = 900,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command in the project; with `ok`, a failure shows its whole output."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment(), **(variables or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if ok and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def copy_project(folder: Path, **sections: object) -> Path:
    """Copy what git would commit into `folder` as a repository of its own, with toy parameters; return it."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, target)
    (folder / "dvc.lock").unlink(missing_ok=True)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    set_params(folder, {**TOY, **sections})
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "toy"]):
        run(folder, "git", *command)
    return folder


def set_params(folder: Path, sections: dict) -> None:
    """Update whole sections of the project's params.yaml (top-level scalars are replaced)."""
    path = folder / "params.yaml"
    content = yaml.safe_load(path.read_text())
    for name, value in sections.items():
        content[name] = {**content.get(name, {}), **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def stage(folder: Path, name: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one stage as `python -m stages.<name>`."""
    return run(folder, sys.executable, "-m", f"stages.{name}", ok=ok)
