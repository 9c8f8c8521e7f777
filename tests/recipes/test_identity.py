"""What a step of a recipe depends on: code that it runs, not code that it doesn't."""

import grimp
import pytest

from cmexport.recipes.identity import _WITHOUT

VERBS = {"export": "exporting"}


@pytest.fixture(scope="module")
def imports():
    graph = grimp.build_graph("cmexport")
    # The package's own module names the Python interface for type checkers and imports nothing.
    graph.remove_import(importer="cmexport", imported="cmexport.api")
    return graph


@pytest.mark.parametrize("kind", _WITHOUT)
def test_what_does_not_count_is_never_imported(kind, imports):
    verb = f"cmexport.cli.{VERBS.get(kind, kind)}"
    reached = {name.split(".")[1] for name in imports.find_upstream_modules(verb) if "." in name}
    assert "parity" in reached or kind in ("bench", "report")
    assert reached.isdisjoint(_WITHOUT[kind])


@pytest.mark.parametrize("kind", _WITHOUT)
def test_what_does_not_count_is_there(kind, imports):
    assert {f"cmexport.{name}" for name in _WITHOUT[kind]} <= imports.modules
