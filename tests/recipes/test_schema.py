"""The published schema is the one that recipes are read with."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from cmexport.recipes.schema import json_schema, schema_text

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "docs" / "recipe.schema.json"


def test_the_published_schema_is_current() -> None:
    how = "python -c 'from cmexport.recipes.schema import schema_text; print(schema_text(), end=str())'"
    assert PUBLISHED.read_text() == schema_text(), f"renew it: {how} > {PUBLISHED.relative_to(ROOT)}"


def keys(schema: dict, name: str) -> set[str]:
    return set(schema["$defs"][name]["properties"])


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_recipes_use_keys_of_the_published_schema(path) -> None:
    schema, data = json.loads(PUBLISHED.read_text()), tomllib.loads(path.read_text())
    assert path.read_text().startswith("#:schema ../docs/recipe.schema.json\n")
    assert set(data) <= set(schema["properties"])
    for table, name in (("targets", "Target"), ("devices", "Device"), ("schedules", "Schedule")):
        for entry in data.get(table, {}).values():
            assert set(entry) <= keys(schema, name)


def test_unknown_keys_are_refused_by_the_schema_too() -> None:
    schema = json_schema()
    assert all(part["additionalProperties"] is False for part in (schema, *schema["$defs"].values()))


def test_the_manual_describes_every_key() -> None:
    manual = (ROOT / "docs" / "recipes.md").read_text()
    schema = json_schema()
    names = set(schema["properties"]).union(*(keys(schema, name) for name in schema["$defs"]))
    assert not [name for name in sorted(names) if f"`{name}`" not in manual]
