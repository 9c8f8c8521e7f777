"""Programs that are here, missing, broken or silent; each is a script made for the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmexport.doctor import programs
from cmexport.doctor.programs import PROGRAMS, Program, examine_programs

TOOL = Program("Tool", "testing", ("tool", "tool-2"), ("--version",), "apt install tool", "TOOL")


@pytest.fixture
def place(tmp_path: Path):
    def make(name: str, lines: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
        return path

    return make


def look(tmp_path: Path, **environment: str):
    (found,) = examine_programs([TOOL], {"PATH": str(tmp_path), **environment})
    return found


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("Android Debug Bridge version 1.0.41", "1.0.41"),
        ("Chromium 156.0.8078.79 built on Debian", "156.0.8078.79"),
        ("no number", None),
        ("", None),
    ],
)
def test_one_that_is_here_tells_its_version(place, tmp_path, printed, version):
    path = place("tool", f"echo '{printed}'; echo 'Installed as 7'")
    found = look(tmp_path)
    assert (found.state, found.version, found.detail, found.remedy) == ("works", version, str(path), None)
    assert not found.required


def test_a_missing_one_says_how_to_get_it(tmp_path):
    found = look(tmp_path)
    assert (found.state, found.version, found.remedy) == ("missing", None, "apt install tool")


def test_the_variable_goes_before_the_path_and_the_second_name_counts(place, tmp_path):
    place("tool-2", "echo 2.0")
    assert look(tmp_path).version == "2.0"
    own = place("mine", "echo 3.0")
    assert look(tmp_path, TOOL=str(own)).version == "3.0"
    assert look(tmp_path, TOOL=str(tmp_path / "no-such")).version == "2.0"


def test_broken_ones(place, tmp_path, monkeypatch):
    place("tool", "echo 'tool: error while loading shared libraries' >&2; exit 127")
    found = look(tmp_path)
    assert (found.state, found.remedy) == ("broken", "apt install tool")
    assert "code 127: tool: error while loading" in found.detail
    (tmp_path / "tool").write_bytes(b"\x7fELF not really")
    assert look(tmp_path).state == "broken"
    monkeypatch.setattr(programs, "VERSION_TIMEOUT_S", 0.2)
    place("tool", "exec /bin/sleep 30")
    assert "did not answer" in look(tmp_path).detail


def test_the_known_ones_have_a_remedy():
    found = examine_programs(environment={"PATH": ""})
    assert [b.name for b in found] == [p.name for p in PROGRAMS] == ["adb", "Chromium"]
    assert all(b.state == "missing" and b.remedy for b in found)
