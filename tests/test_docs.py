"""The documentation as pages: the navigation names them all, and their readers load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def pages(nav):
    for entry in nav:
        for value in entry.values():
            yield from pages(value) if isinstance(value, list) else [value]


def test_the_navigation_names_every_page_once():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = sorted(pages(settings["nav"]))
    assert named == sorted(p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md"))
    assert (ROOT / "Makefile").read_text().count("mkdocs build --strict") == 1


def test_readers_of_the_pages_load_nothing_from_other_hosts():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert settings["theme"]["font"] is False
    assert [next(iter(p)) if isinstance(p, dict) else p for p in settings["plugins"]] == ["search", "mkdocstrings"]
    assert "extra_javascript" not in settings
    assert all((ROOT / "docs" / name).is_file() for name in settings["extra_css"])
    assert "url(" not in (ROOT / "docs" / "pages.css").read_text()
