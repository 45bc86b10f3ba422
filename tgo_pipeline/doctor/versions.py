"""Whether the installed packages are those that this one is made for."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.doctor.findings import Finding, fail, note, ok, warn
from tgo_pipeline.doctor.request import Request
from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from tgo_pipeline.doctor.examine import Check

PACKAGE = "tgo-pipeline"
PINS = Path("constraints.txt")
LISTED = 6  # names of packages that fit into a line or two


def checks(_: Request) -> Iterator[Check]:
    """Python, the packages that are needed, torch with its torchvision, and the tested versions."""
    yield "python", _python
    yield "packages", _packages
    yield "torchvision", _torchvision
    if PINS.is_file():
        yield str(PINS), lambda: _pins(PINS)


def _python() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    found = platform.python_version()
    _require_metadata(PACKAGE)
    wanted = metadata.metadata(PACKAGE)["Requires-Python"]
    if found in SpecifierSet(wanted):
        yield ok("python", f"{found}.")
    else:
        yield fail(
            "python", f"{found}, and {PACKAGE} needs {wanted}: make an environment with a newer Python."
        )


def _require_metadata(name: str) -> None:
    if installed(name) is None:
        raise TgoError(
            f"{name} is not installed, so it is not known which versions it needs: pip install -e . in its "
            "checkout."
        )


def _packages() -> Iterator[Finding]:
    _require_metadata(PACKAGE)
    needed = list(requirements(PACKAGE))
    wrong = [finding for requirement in needed if (finding := _wrong(requirement))]
    yield from wrong
    if not wrong:
        yield ok("packages", f"all {len(needed)} that {PACKAGE} needs, each in its range.")


def requirements(name: str) -> Iterator[Requirement]:
    """What a package needs here without extras, by its own metadata."""
    from packaging.requirements import Requirement

    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _wrong(requirement: Requirement) -> Finding | None:
    found = installed(requirement.name)
    install = f"pip install '{requirement.name}{requirement.specifier}'"
    if found is None:
        return fail(requirement.name, f"is not installed: {install}.")
    if not requirement.specifier.contains(found, prereleases=True):
        return fail(requirement.name, f"{found} is outside {requirement.specifier}: {install}.")
    return None


def installed(name: str) -> str | None:
    """The version of a package that is installed, None without it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _torchvision() -> Iterator[Finding]:
    """It is built for one release of torch, and for one CUDA (the part after the plus)."""
    torch, torchvision = installed("torch"), installed("torchvision")
    if torch is None or torchvision is None:
        return  # said above
    wanted = next((each for each in requirements("torchvision") if each.name == "torch"), None)
    install = "install both together: pip install torch torchvision"
    builds = [version.partition("+")[2] for version in (torch, torchvision)]
    if wanted is not None and not wanted.specifier.contains(torch, prereleases=True):
        yield fail(
            "torchvision", f"{torchvision} is built for torch {wanted.specifier}, found {torch}: {install}."
        )
    elif all(builds) and len(set(builds)) > 1:
        yield warn(
            "torchvision", f"{torchvision} and torch {torch} are built for different devices: {install}."
        )
    else:
        yield ok("torchvision", f"{torchvision} beside torch {torch}.")


def _pins(path: Path) -> Iterator[Finding]:
    """Installed packages that are not of the tested version; those that are not installed do not count."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pins = dict(line.split("==", 1) for line in lines if "==" in line)
    found = {name: installed(name) for name in pins}
    others = [
        f"{name} {found[name]} (tested {pin})" for name, pin in pins.items() if found[name] not in (None, pin)
    ]
    if others:
        more = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
        yield note(
            str(path),
            f"{len(others)} packages are of another version than the tested one: {', '.join(others[:LISTED])}{more}.",
        )
    else:
        yield ok(
            str(path), f"all of the {sum(v is not None for v in found.values())} installed are as tested."
        )
