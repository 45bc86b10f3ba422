"""Which of several JSON files is meant."""

from __future__ import annotations

from collections.abc import Sequence

from tgo_pipeline.errors import TgoError
from tgo_pipeline.reading.places import Place


def json_of_split(address: str, place: Place, split: str | None, known: Sequence[str]) -> str:
    """`SPLIT.json`, or the one of the known ones that is there. Raises `TgoError` if none or more than one is."""
    if place.only is not None:
        return place.only
    wanted = known if split is None else [split]
    found = place.find(*(f"{name}.json" for name in wanted))
    if not found:
        files = " or ".join(f"{name}.json" for name in wanted)
        raise TgoError(f"{address}: {place.name} has no {files}.")
    if len(found) > 1:
        names = ", ".join(name.removesuffix(".json") for name in found)
        raise TgoError(f"{address} has the splits {names}: add one, as in {address}/{known[0]}.")
    return found[0]
