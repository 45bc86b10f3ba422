"""The instruction that a reward was trained with, around the prompt: read from the user's copy of the official file.

The official texts belong to their authors and do not ship with this package. Their file is parsed and never run, and
what it holds is compared with the sha256 of the text that the official scores come from. A model of one's own brings
its text as `instruction.txt`, which is taken as it is, to the last blank.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.formats.files import read_bytes
from tgo_pipeline.storage import user_cache

OWN = "instruction.txt"
PLACEHOLDER = "{text_prompt}"
_LARGEST = 2**20  # bytes; the official files have a tenth of it


@dataclass(frozen=True)
class Instruction:
    """What stands before the prompt, and behind it."""

    before: str
    after: str

    @classmethod
    def of(cls, text: str, where: str) -> Instruction:
        """From a text with `{text_prompt}` once. Raises `TgoError` for any other."""
        if text.count(PLACEHOLDER) != 1:
            raise TgoError(f"{where} must hold {PLACEHOLDER} once, where the prompt goes.")
        return cls(*text.split(PLACEHOLDER))


@dataclass(frozen=True)
class OfficialText:
    """Where an official text is: the constants of a file that make it up, and the sha256 of each."""

    file: str
    constants: Mapping[str, str]
    """Name to sha256, in the order of the text; the first has the placeholder."""
    get: str
    """What the user has to do to have the file."""
    package: str | None = None
    """The installed package that has the file, and where in it."""
    inside: str = ""

    def find(self, companions: Mapping[str, Path]) -> Path | None:
        """The user's copy: beside the weights, in this package's cache, or in the official package, which is installed
        here or in an environment of its own.
        """
        places = [companions.get(self.file), _cached(self.file), self._installed(), *self._elsewhere()]
        return next((path for path in places if path is not None and path.is_file()), None)

    def _elsewhere(self) -> Iterator[Path]:
        from tgo_pipeline.rewards.isolated import environments

        if self.package is not None and (name := f"official-{self.package}") in environments.ENVIRONMENTS:
            with contextlib.suppress(TgoError):
                for place in environments.site_packages(environments.python(name)):
                    yield place / self.package / self.inside / self.file

    def _installed(self) -> Path | None:
        if self.package is None:
            return None
        try:
            spec = importlib.util.find_spec(self.package)
        except (ImportError, ValueError):
            return None
        folders = spec.submodule_search_locations if spec is not None else None
        return Path(next(iter(folders)), self.inside, self.file) if folders else None


HPSV3 = OfficialText(
    "data_collator_qwen.py",
    {
        "INSTRUCTION": "0393599dad45a971903d1d62a3acf9bad3ccccdafa7f40f680523419e1f68b7a",
        "prompt_with_special_token": "2471faca094ae5bd6fe17b71dce20c3d7583625545e235889f7e74e7eeb69d0a",
    },
    "`tgo env create official-hpsv3`, which has it; or pip download --no-deps hpsv3==1.0.0, take "
    "hpsv3/dataset/data_collator_qwen.py out of the wheel",
    package="hpsv3",
    inside="dataset",
)
VIDEOREWARD = OfficialText(
    "prompt_template.py",
    {
        "DETAILED_PROMPT_WITH_SPECIAL_TOKEN": "fdb6309bac618dd0c8b1b589d3a0970a974f7856eecbb355a190b2dce54af700"
    },
    "take prompt_template.py from https://github.com/KlingAIResearch/VideoAlign",
)


def read_instruction(name: str, companions: Mapping[str, Path], official: OfficialText) -> Instruction:
    """The instruction of a reward: its own `instruction.txt`, else the official one in the user's copy of its file.

    Raises `TgoError` that says what to get if there is none, and for a file that is not the official one.
    """
    if own := companions.get(OWN):
        return Instruction.of(_text(own), str(own))
    path = official.find(companions)
    if path is None:
        raise TgoError(
            f"reward {name}: the instruction that it was trained with belongs to its authors and does not ship: "
            f"{official.get}, and put it into the folder of the weights, or make it {_cached(official.file)}."
        )
    return _official(path, official.constants)


def _cached(file: str) -> Path:
    return user_cache.location() / "texts" / file


def _official(path: Path, constants: Mapping[str, str]) -> Instruction:
    found = string_constants(path, list(constants))
    for name, expected in constants.items():
        digest = hashlib.sha256(found[name].encode()).hexdigest()
        if digest != expected:
            raise TgoError(
                f"{path}: {name} is not the text that the official scores come from (its sha256 is {digest}, that of "
                f"the official one {expected}): copy the official file again, as it is."
            )
    first, *rest = found.values()
    filled = first.format(
        text_prompt=PLACEHOLDER
    )  # which also makes one brace of two, as the official code does
    return Instruction.of("".join([filled, *rest]), str(path))


def string_constants(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Strings that a Python file assigns at its top level, by name. The file is parsed and not run.

    Raises `TgoError` if it is no Python file or lacks one of them.
    """
    try:
        body = ast.parse(_text(path)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TgoError(f"{path} is no Python file ({in_one_line(error)}): copy it again.") from error
    found: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            value = node.value.value
            targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
            found |= {name: value for name in targets if name in names and isinstance(value, str)}
    if missing := [name for name in names if name not in found]:
        raise TgoError(f"{path} has no text named {', '.join(missing)}: it is not the official file.")
    return {name: found[name] for name in names}


def _text(path: Path) -> str:
    """The text of a file, to the last blank."""
    try:
        return read_bytes(path, _LARGEST).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TgoError(f"{path} cannot be read as text ({in_one_line(error)}): copy it again.") from error
