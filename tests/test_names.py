"""No two public classes of one name: a name says which class is meant, wherever it is read."""

import ast
from collections import defaultdict

from tests.test_layers import ROOT, modules


def test_public_classes_have_names_of_their_own() -> None:
    places = defaultdict(list)
    for path in modules(ROOT).values():
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
