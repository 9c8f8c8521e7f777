"""What an app could get wrong: each mistake is put into the built kit and must make one of its own tests fail."""

from __future__ import annotations

import re
import shutil

import pytest

SOURCES = "Sources/CmCifar10Kit"
# Expressions as `re.sub` has them: what is right, what is wrong, and the test that must see it.
MUTATIONS = {
    "red and blue": (
        *("Picture.swift", r"bytes\[pixel \* channels \+ channel\] = Self"),
        *("bytes[pixel * channels + channels - 1 - channel] = Self", "GoldenTests.testSelfTest"),
    ),
    "rows and columns": (
        *("Picture.swift", r"planes\[channel \* area \+ pixel\]\)"),
        *("planes[channel * area + pixel % width * height + pixel / width])", "GoldenTests.testSelfTest"),
    ),
    "streams": ("Generator.swift", r"UInt32\(\$0 \+ 1\)", "UInt32($0)", "GoldenTests.testSelfTest"),
    "fused products": (
        *("Noise.swift", r"0\.180625 - q \* q", "0.180625.addingProduct(-q, q)", "NoiseTests.testWords"),
    ),
    "mask": ("Picture.swift", r">= 128 \? 1 : 0", ">= 128 ? 0 : 1", "GoldenTests.testSelfTest"),
}


@pytest.fixture(scope="module")
def copy(built, tmp_path_factory):
    """The built kit again, to be changed; SwiftPM compiles only what was."""
    folder = tmp_path_factory.mktemp("mutated") / "kit"
    # With the times of its files, by which SwiftPM knows what has changed.
    shutil.copytree(built, folder, copy_function=shutil.copy2)
    return folder


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_is_caught_by_the_kits_own_tests(copy, build, run_tests, name):
    file, right, wrong, caught = MUTATIONS[name]
    source = copy / SOURCES / file
    before = source.read_text()
    after = re.sub(right, wrong, before)
    assert after != before
    source.write_text(after)
    try:
        done = build(copy)
        assert done.returncode == 0, done.stdout + done.stderr
        done = run_tests(copy, f"--filter {caught.replace('.', '/')}")
    finally:
        source.write_text(before)
    assert done.returncode != 0
    assert f"Test Case '{caught}' failed" in done.stdout
