"""What cards say of places: nothing of this machine but a last name."""

from __future__ import annotations

import pytest

from tgo_pipeline.sharing.facts import hub_id, shown_model, without_places


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/someone/scores", "scores"),
        ("~/scores", "scores"),
        ("pickapic:/home/someone/pickapic", "pickapic:pickapic"),
        ("pickapic:~/pickapic/part.parquet", "pickapic:part.parquet"),
        ("pickscore=/home/someone/weights", "pickscore=weights"),
        ("pickapic:hf:org/name@0123456/train", "pickapic:hf:org/name@0123456/train"),
        ("https://example.org/some/page", "https://example.org/some/page"),
        ("a cat: / and a dog", "a cat: / and a dog"),
        ("demo:train", "demo:train"),
    ],
)
def test_a_path_of_this_machine_is_shown_by_its_last_name(value: str, shown: str) -> None:
    assert without_places({"any": [value]}) == {"any": [shown]}
    assert shown_model(value) == shown


def test_a_folder_that_is_gone_is_no_id_of_the_hub() -> None:
    assert hub_id("/home/someone/gone") is None
    assert hub_id("org/name") == "org/name"
