"""What a C++ kit takes along: sources of a tokenizer, or of photos, only where the model needs them."""

from __future__ import annotations

from pathlib import Path

from cmexport.artifact import read_manifest
from cmexport.kits import Kit, platform_named
from cmexport.kits.facts import kit_of
from cmexport.kits.rendering import render

CPP = platform_named("cpp")


def kit(artifact: Path) -> Kit:
    return kit_of(artifact, read_manifest(artifact))


def test_sources(demo: Path, worded: Path) -> None:
    without, with_words = (render(kit(artifact), CPP) for artifact in (demo, worded))
    assert with_words.keys() - without.keys() >= {
        "src/tokenizer.cpp",
        "src/unicode_tables.hpp",
        "tests/tokenizer_test.cpp",
    }
    assert not {name for name in without if "token" in name or "unicode" in name}
    assert b"tokenizer" not in without["CMakeLists.txt"]
    assert "sample/ppm.hpp" not in without
    parts = ("include/", "src/")
    assert sum(len(text) for name, text in without.items() if name.startswith(parts)) <= 60_000


def test_methods_have_what_the_graph_takes(demo: Path, editing: Path) -> None:
    header = "include/cm_cifar10/cm_cifar10.hpp"
    alone, both = (render(kit(artifact), CPP)[header].decode() for artifact in (demo, editing))
    assert "generate(Label label, std::uint64_t seed," in alone
    assert "edit(" not in alone
    assert "edit(const cmkit::Picture& image, const cmkit::Picture& mask, Label label, std::uint64_t seed," in both
    assert "ship = 8," in alone
