"""Names of parts: of this package, of installed ones, of the project folder; and what is said of wrong ones."""

from __future__ import annotations

import abc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.modules import project_folder
from tests.plugins.packages import install
from tgo_pipeline.errors import TgoError
from tgo_pipeline.plugins import kinds
from tgo_pipeline.plugins.find import blamed
from tgo_pipeline.plugins.folder import NotChecked, looking, stated_version
from tgo_pipeline.plugins.kinds import Kind

KIND = Kind("animal", "tgo_pipeline.animals", {"cat": "tests.plugins.test_kinds:Cat"})
ALL = [value for value in vars(kinds).values() if isinstance(value, Kind)]
MODULE = """
from tests.plugins.test_kinds import Animal

class Dog(Animal):
    def sound(self):
        return len(None)

class Mute(Animal):
    pass

def function(): ...
number = 3
"""


class Animal(abc.ABC):
    """What the kind of these tests wants."""

    @abc.abstractmethod
    def sound(self) -> int: ...


class Cat(Animal):
    def sound(self) -> int:
        return 1


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with `mine.py` in it; its modules are forgotten afterwards."""
    with project_folder(tmp_path, monkeypatch, mine=MODULE):
        yield tmp_path


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that offers a dog."""
    groups = {KIND.group: {"dog": "animals:Dog"}}
    target = install(folder / "packages", "animals", {"animals.py": MODULE}, groups)
    monkeypatch.syspath_prepend(str(target))
    return target


def offer(package: Path, name: str, value: str) -> None:
    """One more package that offers something."""
    other = package / "other-1.dist-info"
    other.mkdir()
    kinds._entry_points.cache_clear()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (other / "entry_points.txt").write_text(f"[{KIND.group}]\n{name} = {value}\n")


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.noun)
def test_every_name_of_this_package_can_be_had(kind: Kind) -> None:
    for name in kind.builtin:
        assert kind.find(name) is not None
        assert kind.identity(name) is None


def test_the_three_ways_to_a_part(package: Path) -> None:
    assert KIND.load("cat", Animal) is sys.modules["tests.plugins.test_kinds"].Cat
    assert KIND.load("mine:Dog", Animal).__module__ == "mine"
    assert KIND.load("dog", Animal) is KIND.load("animals:Dog", Animal)
    assert KIND.names() == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cow", r"unknown animal 'cow'\. There are cat, dog, or name your own as module:object"),
        ("dgo", r"unknown animal 'dgo'\. Did you mean dog\?"),
        ("absent:Dog", "animal absent:Dog: there is no module 'absent', neither installed nor in"),
        ("mine:Absent", "animal mine:Absent: mine has no 'Absent'; it has Animal, Dog, Mute, function"),
        ("mine:function", "mine:function is function, no subclass of tests.plugins.test_kinds.Animal"),
        ("mine:number", "mine:number is int, no subclass of"),
        ("json:JSONDecoder", "json:JSONDecoder is JSONDecoder, no subclass of"),
        ("mine:Mute", "mine:Mute lacks sound"),
        ("broken:Dog", r"importing broken raised ZeroDivisionError: division by zero \(broken.py, line 1\)"),
        ("needy:Dog", "needy needs 'a_package_that_nobody_has', which is not installed"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(name: str, reason: str, folder: Path, package: Path) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "needy.py").write_text("import a_package_that_nobody_has\n")
    with pytest.raises(TgoError, match=reason) as refused:
        KIND.load(name, Animal)
    assert "\n" not in str(refused.value)


def test_two_packages_with_one_name_are_refused(package: Path) -> None:
    offer(package, "dog", "other:Dog")
    with pytest.raises(TgoError, match=r"two installed packages offer an animal named 'dog'.*animals:Dog"):
        KIND.load("dog", Animal)


def test_a_package_with_a_name_of_this_one_is_refused(package: Path) -> None:
    offer(package, "cat", "other:Cat")
    with pytest.raises(TgoError, match=r"'cat' \(other:Cat\), which is the name of one of this package's"):
        KIND.load("cat", Animal)


def test_a_command_that_only_looks_imports_what_is_installed_and_nothing_of_the_folder(package: Path) -> None:
    with looking():
        assert KIND.load("dog", Animal) and KIND.load("cat", Animal)
        with pytest.raises(NotChecked, match="not checked: animal mine:Dog is code of this folder"):
            KIND.load("mine:Dog", Animal)
        assert KIND.identity("mine:Dog") is not None
    assert "mine" not in sys.modules
    assert KIND.load("mine:Dog", Animal)


def test_the_identity_is_the_code_of_the_folder_or_the_version_of_a_package(
    folder: Path, package: Path
) -> None:
    assert KIND.identity("dog") == KIND.identity("animals:Dog")
    assert KIND.identity("dog") == {"part": "animals:Dog", "distribution": "animals 1"}
    before = KIND.identity("mine:Dog")
    (folder / "mine.py").write_text(MODULE + "# changed\n")
    assert KIND.identity("mine:Dog") != before
    (package / "animals-1.dist-info/direct_url.json").write_text('{"dir_info": {"editable": true}}')
    assert "code" in (KIND.identity("dog") or {})
    with pytest.raises(TgoError, match="no module 'absent'"):
        KIND.identity("absent:Dog")


def test_an_error_is_blamed_on_the_part_that_it_went_through(folder: Path) -> None:
    made = KIND.load("mine:Dog", Animal)()
    with pytest.raises(TypeError) as raised:
        made.sound()
    said = str(blamed(raised.value))
    assert said.startswith(
        "animal mine:Dog, mine.py, line 6: TypeError: object of type 'NoneType' has no len()"
    )
    with pytest.raises(ZeroDivisionError) as other:
        1 / 0  # noqa: B018
    assert blamed(other.value) is None


@pytest.mark.parametrize(
    ("code", "version"),
    [
        ("class A:\n    version = '2'\n", "2"),
        ("class A:\n    version: int = 3\n", "3"),
        ("def A(): ...\nA.scale, A.version = 'x', '4'\n", "4"),
        ("def A(): ...\nA.version = number() + 1\n", "number() + 1"),
        ("class B:\n    version = '2'\nclass A: ...\n", ""),
        ("def (:\n", ""),
    ],
)
def test_a_version_is_read_without_running_the_code(code: str, version: str, folder: Path) -> None:
    (folder / "stated.py").write_text(code)
    assert stated_version("stated:A") == version
