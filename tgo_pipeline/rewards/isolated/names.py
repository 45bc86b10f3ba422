"""What rewards in an interpreter of their own are called, and where that interpreter is.

    official:hpsv2.1, hpsv2.0, imagereward, hpsv3                 the official packages
    worker:python=PYTHON:MODULE:OBJECT                            anybody's; PYTHON is an interpreter or its environment

As the source of a reward `official:hpsv2` says enough, and a path may follow: `hpsv2.1=official:hpsv2:WEIGHTS`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tgo_pipeline.errors import TgoError

OFFICIAL, WORKER = "official:", "worker:"
_WORKER = re.compile(
    r"worker:python=(?P<python>[^=]+?):(?P<module>[A-Za-z_][\w.]*):(?P<object>[A-Za-z_][\w.]*)(=(?P<source>.+))?"
)
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
_FORM = "worker:python=PYTHON:MODULE:OBJECT, with =SOURCE behind it if the object is a class that has one"


@dataclass(frozen=True)
class Package:
    """An official package: the environment that has it, and its class in `official.py`."""

    environment: str
    object: str
    source: str
    """What it is called as the source of a reward."""
    suffix: str = ".pt"
    """How the name of the weight file ends that it reads."""


PACKAGES = {
    "hpsv2.1": Package("official-rewards", "OfficialHPSv2", "hpsv2"),
    "hpsv2.0": Package("official-rewards", "OfficialHPSv2", "hpsv2"),
    "imagereward": Package("official-rewards", "OfficialImageReward", "imagereward"),
    "hpsv3": Package("official-hpsv3", "OfficialHPSv3", "hpsv3", ".safetensors"),
}
"""By the name of the built-in reward that each is the original of."""


@dataclass(frozen=True)
class OwnWorker:
    """A reward of anybody's: the object of a module that another interpreter imports."""

    python: str
    module: str
    object: str


def is_isolated(reward: str) -> bool:
    """Whether a name is of a reward in an interpreter of its own."""
    return reward.startswith((OFFICIAL, WORKER))


def check(reward: str) -> None:
    """Raise `TgoError` unless a name of this kind stands for a reward."""
    if reward.startswith(WORKER):
        own_worker(reward)
        return
    name = reward.removeprefix(OFFICIAL)
    if name in PACKAGES:
        return
    meant = [f"{OFFICIAL}{known}" for known, package in PACKAGES.items() if package.source == name]
    if meant:
        raise TgoError(f"{reward!r} leaves open which reward is meant: write {' or '.join(meant)}.")
    raise TgoError(
        f"{reward!r} is no official package: there are {', '.join(f'{OFFICIAL}{n}' for n in PACKAGES)}."
    )


def split_worker(text: str) -> tuple[str, str | None]:
    """The reward and the source of a spec that begins with `worker:`. Raises `TgoError` for another form."""
    source = _parsed(text)["source"]
    return (text.removesuffix(f"={source}") if source else text), source


def own_worker(reward: str) -> OwnWorker:
    """The parts of a name that begins with `worker:`. Raises `TgoError` for another form."""
    found = _parsed(reward)
    return OwnWorker(found["python"], found["module"], found["object"])


def _parsed(text: str) -> re.Match[str]:
    if (match := _WORKER.fullmatch(text)) is None:
        raise TgoError(f"{text!r} is not of the form {_FORM}.")
    return match


def column(reward: str) -> str:
    """The column of a reward that was given no other name: beside its built-in twin it has one of its own."""
    if reward.startswith(OFFICIAL):
        return f"{reward.removeprefix(OFFICIAL)}-official"
    return own_worker(reward).object.rsplit(".", 1)[-1]


def of_source(reward: str, source: str) -> tuple[str, str | None]:
    """The reward that a source of this kind stands for under the name of a built-in one, and the source of that.

    Raises `TgoError` for the package of another reward.
    """
    if source.startswith(WORKER):
        return split_worker(source)
    named, _, weights = source.removeprefix(OFFICIAL).partition(":")
    package = PACKAGES.get(reward)
    if package is None or named not in (reward, package.source):
        known = ", ".join(f"{name}={OFFICIAL}{each.source}" for name, each in PACKAGES.items())
        raise TgoError(f"{source!r} is no source of {reward}: there are {known}.")
    return f"{OFFICIAL}{reward}", weights or None


def interpreter(python: str) -> Path:
    """The interpreter that a user names, or that of an environment's folder. Raises `TgoError` if there is none."""
    path = Path(python).expanduser()
    found = [path / place for place in ("bin/python", "Scripts/python.exe")] if path.is_dir() else [path]
    for each in found:
        if each.is_file():
            return each.absolute()
    what = "a folder without bin/python" if path.is_dir() else "not there"
    raise TgoError(
        f"{python} is {what}: name the interpreter of an environment, or the environment's folder."
    )


def foreign_environment() -> dict[str, str]:
    """The environment of this process without what would lead another interpreter to packages of this one."""
    return {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
