"""Names of rewards as names of files."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tgo_pipeline.storage.paths import file_name


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("hpsv2.1", "mean_z", "pickscore", "my-reward+2"):
        assert file_name(name) == name


def test_separators_do_not_collide() -> None:
    names = ["clip/openai-l14", "clip:openai-l14", "clip_openai-l14", "..", ".hidden", "a b", "ä"]
    assert len({file_name(name) for name in names}) == len(names)


@given(st.text(min_size=1, max_size=40))
def test_every_text_gives_one_plain_name(text: str) -> None:
    name = file_name(text)
    assert Path(name).name == name and not name.startswith(".") and name.isascii()
