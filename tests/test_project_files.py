"""Issue and pull-request templates, and hooks before a commit."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = sorted((ROOT / ".github").rglob("*.yml"))


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda f: f.name)
def test_issue_forms_are_what_the_forge_takes(file):
    form = yaml.safe_load(file.read_text())
    if file.name == "config.yml":
        assert form == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= form.keys()
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in asked} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert len({part["id"] for part in asked}) == len(asked)
    assert all(part["attributes"]["label"] for part in asked)
    (doctor,) = (part for part in asked if part["attributes"]["label"] == "cmexport doctor --json")
    assert doctor["validations"]["required"] is True


def test_pull_requests_are_asked_for_the_machine_too():
    assert len(TEMPLATES) == 3
    assert "cmexport doctor --json" in (ROOT / ".github/PULL_REQUEST_TEMPLATE.md").read_text()


def test_the_hooks_run_what_make_lint_runs():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    linted = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    for hook in local["hooks"]:
        tool, *arguments = shlex.split(hook["entry"].removeprefix(".venv/bin/"))
        wanted = [a for a in arguments if a != "--force-exclude"]
        assert f"$(BIN)/{' '.join([tool, *wanted])}" in linted, hook["id"]
        assert hook["language"] == "system"
