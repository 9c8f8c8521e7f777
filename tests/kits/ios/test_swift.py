"""The kit for iOS, built with Swift and run: its own tests, further ones of its parts, its sample and its README."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support.readme_code import blocks

SHELL = "export LD_LIBRARY_PATH=/mnt/stubs; cd /mnt/kit"
CHECK = "swiftc -typecheck -swift-version 6 -warnings-as-errors -I/mnt/stubs -I.build/debug/Modules"


def _passed(done) -> int:
    assert done.returncode == 0, done.stdout
    # Each class counts its own; the last line counts them all.
    executed = re.findall(r"Executed (\d+) tests, with 0 failures", done.stdout)
    assert executed
    return max(map(int, executed))


@pytest.fixture(scope="module")
def worded_kit(artifact, disguise, build, tmp_path_factory) -> Path:
    kit = tmp_path_factory.mktemp("worded") / "kit"
    disguise(artifact("worded"), kit)
    done = build(kit)
    assert done.returncode == 0, done.stdout + done.stderr
    return kit


def test_its_own_tests_and_further_ones_pass(built, run_tests):
    done = run_tests(built)
    assert _passed(done) > 20
    # The pictures that ONNX Runtime drew for `golden/`, drawn again through Swift by the same library.
    assert "worst inf dB" in done.stdout


def test_a_kit_that_takes_words(worded_kit, run_tests):
    done = run_tests(worded_kit)
    assert _passed(done) > 15
    assert "TokenizerTests.testVectors" in done.stdout


@pytest.mark.parametrize("name", ["built", "worded_kit"])
def test_the_sample_and_the_readmes_code_type_check(name, request, swift, stubs, tmp_path):
    kit = request.getfixturevalue(name)
    code = blocks(kit / "README.md", "swift")
    assert len(code) >= 3
    for number, block in enumerate(code):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "main.swift").write_text(block)
    each = " && ".join(f"{CHECK} /mnt/code/{number}/main.swift" for number in range(len(code)))
    command = f"{SHELL}; {CHECK} -parse-as-library Sample/*.swift && {each}"
    done = swift(command, kit=kit, stubs=stubs, code=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_wrong_member_is_refused(built, swift, stubs, tmp_path):
    """The stubs are no net without a bottom: code that names what isn't there is refused."""
    shutil.copy(built / "Sample/ContentView.swift", tmp_path)
    code = (tmp_path / "ContentView.swift").read_text()
    assert "scaledToFit" in code
    (tmp_path / "ContentView.swift").write_text(code.replace("scaledToFit", "scaledToFitt"))
    done = swift(f"{SHELL}; {CHECK} -parse-as-library /mnt/code/*.swift", kit=built, stubs=stubs, code=tmp_path)
    assert done.returncode != 0
    assert "has no member 'scaledToFitt'" in done.stderr
