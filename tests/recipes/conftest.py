"""Recipes written by tests, and a stand-in for the command line whose steps take milliseconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cmexport.errors import UsageError
from cmexport.recipes import children
from cmexport.recipes.checking import check_document
from cmexport.recipes.planning import Chosen, plan_run
from cmexport.recipes.reading import read_document
from cmexport.recipes.steps import Run

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe; by name, so that recipes can extend each other."""

    def write_recipe(text: str, name: str = "x.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_recipe


@pytest.fixture
def refused(write: Callable[..., Path]) -> Callable[[str], str]:
    """The message that a recipe is refused with."""

    def refuse(text: str) -> str:
        with pytest.raises(UsageError) as caught:
            check_document(read_document(write(text)))
        message = str(caught.value)
        assert 1 <= len(message.splitlines()) <= 3
        return message

    return refuse


@pytest.fixture
def planned(write: Callable[..., Path], tmp_path: Path) -> Callable[..., Run]:
    """The plan of a recipe's text; output in a folder of the test."""

    def plan(text: str, **chosen) -> Run:
        document = read_document(write(text))
        return plan_run(document, check_document(document), Chosen(**{"out": tmp_path / "out", **chosen}))

    return plan


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the pretended command line keeps its notes; steps run it instead of cmexport."""
    folder = tmp_path / "notes"
    folder.mkdir()
    pretended = Path(__file__).resolve().parents[1] / "support" / "pretend_cmexport.py"
    monkeypatch.setattr(children, "PROGRAM", (sys.executable, str(pretended), str(folder)))
    return folder
