"""A licence is stated or found, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.workspace import parameters
from tgo_pipeline.errors import TgoError
from tgo_pipeline.sharing.licences import given, of_base, of_data


def test_a_known_licence_is_taken_as_it_is() -> None:
    assert given("Apache-2.0").fields == {"license": "apache-2.0"}


def test_a_licence_with_a_name_of_its_own() -> None:
    assert given("other", "my-terms", "LICENSE.md").fields == {
        "license": "other",
        "license_name": "my-terms",
        "license_link": "LICENSE.md",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("apache2",), "none that the hub knows. Did you mean apache-2.0?"),
        (("",), "none that the hub knows"),
        (("other",), "needs a name"),
        (("mit", "my-terms"), "leave them out, or say --license other"),
    ],
)
def test_a_licence_that_the_hub_would_refuse(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(TgoError, match=message.replace("?", r"\?")):
        given(*arguments)


def test_the_licence_of_a_folder_is_the_one_on_its_card(tmp_path: Path) -> None:
    card = "---\nlicense: other\nlicense_name: stabilityai-ai-community\nlicense_link: LICENSE.md\n---\n# x\n"
    (tmp_path / "README.md").write_text(card)
    found = of_base(str(tmp_path), None)
    assert found is not None
    assert found.fields == {
        "license": "other",
        "license_name": "stabilityai-ai-community",
        "license_link": "LICENSE.md",
    }


@pytest.mark.parametrize(
    "card", [None, "# no front matter\n", "---\ntags: [a]\n---\n", "---\nlicense: [a, b]\n---\n"]
)
def test_a_base_without_a_stated_licence_has_none(tmp_path: Path, card: str | None) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert of_base(str(tmp_path), None) is None


def test_a_model_of_the_hub_that_is_not_in_the_cache_has_none() -> None:
    assert of_base("nobody/has-this", "abc") is None


def test_a_broken_card_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(TgoError, match=r"README\.md"):
        of_base(str(tmp_path), None)


def test_the_small_world_is_under_the_licence_of_the_package() -> None:
    found = of_base("demo", None)
    assert found is not None
    assert found.id == "apache-2.0"


def test_data_have_a_licence_by_themselves_only_if_all_of_it_was_made_here() -> None:
    assert of_data(parameters()) is not None
    assert of_data(parameters(model="org/name")) is None
    assert of_data(parameters(prompts={"train": "mine.txt", "test_fraction": 0.1})) is None
    assert of_data(parameters(generate={"source": "images", "images": "photos"})) is None
