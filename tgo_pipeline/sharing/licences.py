"""The licence that a card states: the one given, or the one that the base model's own card states; never a guess."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import yaml_text
from tgo_pipeline.formats.files import read_text
from tgo_pipeline.storage.stores.inputs import local_path

if TYPE_CHECKING:
    from tgo_pipeline.params import Params

CARD = "README.md"
OTHER = "other"
_IDS = (
    "apache-2.0 mit openrail openrail++ bigscience-openrail-m creativeml-openrail-m "
    "bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause "
    "bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 "
    "cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 "
    "cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 "
    "cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl "
    "gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl "
    "apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 ofl-1.1 osl-3.0 postgresql ncsa unlicense zlib "
    "pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 "
    "llama3.2 llama3.3 llama4 gemma unknown other"
)
LICENCES = frozenset(_IDS.split())
"""The identifiers that the model hub knows; everything else is `other` with a name of its own."""


@dataclass(frozen=True)
class Licence:
    """A licence as a card's front matter has it, and in words where it is from."""

    id: str
    name: str | None
    link: str | None
    origin: str

    @property
    def fields(self) -> dict[str, Any]:
        """The keys of the front matter."""
        given = {"license": self.id, "license_name": self.name, "license_link": self.link}
        return {key: value for key, value in given.items() if value}


def given(licence: str, name: str | None = None, link: str | None = None) -> Licence:
    """A licence as the user states it. Raises `TgoError` for an identifier that the hub would refuse."""
    key = licence.strip().lower()
    if key not in LICENCES:
        close = difflib.get_close_matches(key, LICENCES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise TgoError(
            f"licence {licence!r} is none that the hub knows.{hint} Give its identifier (apache-2.0, openrail++, ...), "
            "or `other` with --license-name and --license-link."
        )
    if key == OTHER and not name:
        raise TgoError("licence other needs a name: give --license-name, and --license-link to its text.")
    if key != OTHER and (name or link):
        raise TgoError(
            f"--license-name and --license-link describe a licence that the hub does not know, but --license is {key}: "
            "leave them out, or say --license other."
        )
    return Licence(key, name, link, "stated by whoever made this card")


def of_base(model: str, revision: str | None) -> Licence | None:
    """The licence that the base model's card states; None if it has no card, or one that states none.

    An embedded model is part of this package and under its licence. A hub id is looked up in the local cache alone.
    """
    from tgo_pipeline.params import EMBEDDED

    if model in EMBEDDED:
        return package("the base model ships with tgo-pipeline, under its licence")
    path = _card(model, revision)
    fields = front_matter(path) if path else {}
    licence, name, link = (_word(fields.get(key)) for key in ("license", "license_name", "license_link"))
    return Licence(licence, name, link, "the licence of the base model, by its card") if licence else None


def package(origin: str) -> Licence:
    """The licence of this package, as its metadata states it."""
    return Licence(metadata.metadata("tgo-pipeline")["License-Expression"].lower(), None, None, origin)


def _word(value: Any) -> str | None:
    """A single value of the front matter; a list of several licences is not one that could be copied."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) and value else None


def _card(model: str, revision: str | None) -> Path | None:
    folder = local_path(model)
    if folder.is_dir():
        return folder / CARD if (folder / CARD).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, CARD, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def front_matter(card: Path) -> dict[str, Any]:
    """The front matter of a card, empty if it has none. Raises `TgoError` if it is broken."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    try:
        block = REGEX_YAML_BLOCK.search(read_text(card))
        fields = yaml_text.loads(block.group(2)) if block else {}
    except (OSError, UnicodeDecodeError, TgoError) as error:
        raise TgoError(
            f"the licence cannot be read from {card} ({error}): correct it, or give --license."
        ) from error
    return fields if isinstance(fields, dict) else {}


def of_data(params: Params) -> Licence | None:
    """The licence of a data set that is all of the small world's making; None for any other, which has to be stated."""
    from tgo_pipeline.params import EMBEDDED

    own_images = params.model in EMBEDDED and params.generate.source == "model"
    if own_images and params.prompts.train.startswith("demo:"):
        return package(
            "prompts and images are of the small world that ships with tgo-pipeline, under its licence"
        )
    return None
