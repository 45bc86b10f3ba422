"""Interpreters with the official packages: built once from pinned files, found again, and what they hold.

An environment lies in the user's cache. Where the present one has a torch that the packages work with, it is shared,
and only what conflicts is installed on top (230 MB); else it gets everything (5 GB). `TGO_ENV_OFFICIAL_REWARDS` names
another that the user has made.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import shutil
import subprocess
import sysconfig
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.plugins import folder as plugins
from tgo_pipeline.rewards.custom_identity import own_parts
from tgo_pipeline.rewards.files.open_clip import open_clip_file
from tgo_pipeline.rewards.isolated.names import (
    OwnWorker,
    foreign_environment,
    interpreter,
    own_worker,
)
from tgo_pipeline.storage import user_cache
from tgo_pipeline.storage.locks import Held, lock_path

log = logging.getLogger("tgo")
PINS = Path(__file__).with_name("pins")
_PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>\S+)")
_DISTRIBUTION = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)\.(dist|egg)-info")
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
LOOK_AGAIN_S = 1.0
"""How often a call that waits for another one looks whether that has ended."""
SHARED = ("torch", "torchvision", "numpy", "pillow")
"""What an overlay takes from the present environment."""


@dataclass(frozen=True)
class Environment:
    """What is known of one: the file of its pins, the modules that must import, and what the packages forget."""

    name: str
    modules: tuple[str, ...]
    about: str

    @property
    def variable(self) -> str:
        """The environment variable by which a user names another interpreter."""
        return "TGO_ENV_" + self.name.replace("-", "_").upper()

    @property
    def folder(self) -> Path:
        """Where the environment lies in the user's cache."""
        return user_cache.location() / "environments" / self.name

    def pins(self) -> dict[str, str]:
        """Version by distribution, of what is installed in any case."""
        return _pins(PINS / f"{self.name}.txt")


ENVIRONMENTS = {
    each.name: each
    for each in (
        Environment(
            "official-rewards", ("hpsv2.img_score", "ImageReward"), "hpsv2 1.2.0 and image-reward 1.5"
        ),
        Environment("official-hpsv3", ("hpsv3",), "hpsv3 1.0.0"),
    )
}


def python(name: str) -> Path:
    """The interpreter of an environment. Raises `TgoError` if it is not built, or of other versions."""
    environment = ENVIRONMENTS[name]
    named = os.environ.get(environment.variable)
    if named:
        return interpreter(named)
    if not (environment.folder / DONE).is_file():
        raise TgoError(
            f"the environment {name} is not there: build it with `tgo env create {name}`, or name an interpreter that "
            f"has {environment.about} in {environment.variable}."
        )
    found = versions(name)
    if stale := [f"{each} {found[each]}" for each, pin in environment.pins().items() if found[each] != pin]:
        raise TgoError(
            f"{environment.folder} has {', '.join(stale[:3])}, not what this version asks for: build it again with "
            f"`tgo env create {name} --again`."
        )
    return interpreter(str(environment.folder))


DONE = ".tgo-complete"
"""The file of a finished environment, written last."""


def versions(name: str) -> dict[str, str]:
    """The versions of the pinned packages: those that are installed, or will be."""
    environment = ENVIRONMENTS[name]
    place = os.environ.get(environment.variable) or str(environment.folder)
    try:
        there = installed(interpreter(place))
    except TgoError:
        there = {}
    return {each: there.get(_normal(each), pin) for each, pin in environment.pins().items()}


def installed(executable: Path) -> dict[str, str]:
    """Version by distribution of an interpreter's own packages, read from the names of folders."""
    return {
        _normal(match["name"]): match["version"]
        for place in site_packages(executable)
        for each in sorted(place.iterdir())
        if (match := _DISTRIBUTION.fullmatch(each.name))
    }


def code_files(own: OwnWorker) -> list[Path]:
    """The file that defines the object: of the current folder, else of the other interpreter's packages."""
    if files := plugins.code_files(f"{own.module}:{own.object}"):
        return files[-1:]
    parts = own.module.split(".")
    for place in site_packages(interpreter(own.python)):
        for file in (place.joinpath(*parts).with_suffix(".py"), place.joinpath(*parts, "__init__.py")):
            if file.is_file():
                return [file]
    return []


def worker_parts(reward: str) -> dict[str, str]:
    """What the further numbers of a worker's reward are called, and mean, as its file states it.

    None where the interpreter is not there, which is said when the reward is needed.
    """
    own = own_worker(reward)
    try:
        files = code_files(own)
    except TgoError:
        return {}
    return own_parts(f"{own.module}:{own.object}", files[0]) if files else {}


def site_packages(executable: Path) -> list[Path]:
    """The folders of an interpreter's own packages."""
    root = executable.absolute().parent.parent
    return [*sorted(root.glob("lib/python3*/site-packages")), *root.glob("Lib/site-packages")]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins(file: Path) -> dict[str, str]:
    lines = (_PIN.match(line) for line in file.read_text(encoding="utf-8").splitlines())
    return {line["name"]: line["version"] for line in lines if line}


def create(name: str, *, again: bool = False, full: bool = False) -> Path:
    """Build an environment, unless it is there; returns its folder. Raises `TgoError` that says what failed.

    A call waits for another one that is building it.
    """
    environment = ENVIRONMENTS.get(name)
    if environment is None:
        raise TgoError(f"there is no environment {name!r}: there are {', '.join(ENVIRONMENTS)}.")
    with _alone(environment.folder):
        return _create(environment, again, full)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder that is being built; wait while another process does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        for wait in itertools.count():
            try:
                held.enter_context(lock_path(folder, leave_file=False))
                break
            except Held as error:
                if not wait:
                    log.info("waiting: %s", str(error).partition(":")[0])
                time.sleep(LOOK_AGAIN_S)
        yield


def _create(environment: Environment, again: bool, full: bool) -> Path:
    if (environment.folder / DONE).is_file() and not again:
        python(environment.name)
        return environment.folder
    if not full and not (lacking := [each for each in SHARED if not _present(each)]):
        try:
            return _build(environment, overlay=True)
        except TgoError as error:
            log.warning("not on the torch of this environment (%s): installing another", error)
    elif not full:
        log.info("this environment has no %s to share: installing everything", ", ".join(lacking))
    return _build(environment, overlay=False)


def _present(distribution: str) -> bool:
    from importlib import metadata

    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _build(environment: Environment, *, overlay: bool) -> Path:
    folder = environment.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    except (OSError, subprocess.CalledProcessError) as error:
        raise TgoError(f"{folder} cannot be made with Python's venv: {error}") from error
    executable = interpreter(str(folder))
    if overlay:
        shared = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        place = site_packages(executable)[0]
        (place / "shared.pth").write_text("\n".join(dict.fromkeys(shared)) + "\n", encoding="utf-8")
    pins = PINS / f"{environment.name}.txt"
    if not overlay:
        _pip(executable, "--requirement", str(PINS / f"{environment.name}-full.txt"))
    _pip(executable, "--no-deps", "--requirement", str(pins))
    _supply(environment, executable)
    _check(environment, executable)
    (folder / DONE).touch()
    return folder


def _pip(executable: Path, *what: str) -> None:
    _run(executable, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what], "pip")


def _check(environment: Environment, executable: Path) -> None:
    """Import what the environment is for; hpsv2 takes a name from tkinter, which a Python may lack."""
    lines = [
        "import sys, types",
        "sys.modules.setdefault('turtle', types.SimpleNamespace(forward=None))",
        *(f"import {module}" for module in environment.modules),
    ]
    _run(executable, ["-c", "\n".join(lines)], "importing its packages")


def _run(executable: Path, arguments: list[str], what: str) -> None:
    environment = foreign_environment()
    done = subprocess.run(
        [executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "")
        raise TgoError(f"{what} failed in {executable.parent.parent}: {said.strip()[:400]}")


def _supply(environment: Environment, executable: Path) -> None:
    """The vocabulary that hpsv2's wheel lacks: open_clip's, which is the same file."""
    for place in _of_package(executable, "hpsv2/src/open_clip"):
        shutil.copy(open_clip_file(VOCABULARY), place)


def _of_package(executable: Path, path: str) -> Iterator[Path]:
    return (place / path for place in site_packages(executable) if (place / path).is_dir())


def describe() -> Iterator[tuple[str, str, str]]:
    """Name, what it has, and where it is or how it is made, of every environment."""
    for name, environment in ENVIRONMENTS.items():
        try:
            where = str(python(name))
        except TgoError as error:
            where = str(error)
        yield name, environment.about, where
