"""`tgo sweep` as a user types it."""

import pytest

from tests.stages.conftest import Refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "data/prompts.parquet does not exist: run `tgo run prompts` first"),
        (["--strengths", "1,two"], "it must be numbers with commas between them"),
        (["--strengths", "0"], "no strength to compare with 0"),
    ],
)
def test_what_is_missing_or_wrong_is_said(arguments: list[str], message: str, refused: Refused) -> None:
    refused("sweep", arguments, message)
