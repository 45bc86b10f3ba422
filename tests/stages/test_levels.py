"""`tgo levels` as a user types it."""

import pytest

from tests.stages.conftest import Refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "data/labels holds no label shard: run the label stage first"), (["--batches", "2"], "equal to 8")],
)
def test_what_is_missing_or_wrong_is_said(arguments: list[str], message: str, refused: Refused) -> None:
    refused("levels", arguments, message)
