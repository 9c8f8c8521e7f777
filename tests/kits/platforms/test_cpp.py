"""What a C++ kit takes along: sources of a tokenizer, or of photos, only where the model needs them."""

from __future__ import annotations

import pytest
from support.made_up_kits import RUNS, made_up

from cmexport.kits import platform_named
from cmexport.kits.rendering import render

CPP = platform_named("cpp")
HEADER = "include/model_2_models/model_2_models.hpp"


def rendered(runs: str) -> dict[str, str]:
    return {name: text.decode() for name, text in render(made_up(RUNS[runs]), CPP).items()}


def test_a_tokenizer_only_for_words():
    with_words, without = rendered("words, guidance, stages"), rendered("noise alone")
    sources = {"src/tokenizer.cpp", "src/unicode_tables.hpp", "tests/tokenizer_test.cpp", "include/cmkit/tokenizer.hpp"}
    assert sources <= with_words.keys()
    assert not {name for name in without if "token" in name or "unicode" in name}
    assert "tokenizer" not in without["CMakeLists.txt"]


def test_photos_only_where_there_is_something_to_edit():
    without, both, edits = map(rendered, ("noise alone", "labels, several ways of editing", "editing alone"))
    assert "src/photo.cpp" not in without
    assert "photo" not in without["CMakeLists.txt"] + without[HEADER]
    assert {"src/photo.cpp", "tests/photo_test.cpp"} <= both.keys() & edits.keys()
    assert "sample/ppm.hpp" in edits
    assert "sample/ppm.hpp" not in both


def test_sources_are_few():
    sources = [text for name, text in rendered("noise alone").items() if name.startswith(("include/", "src/"))]
    assert sum(map(len, sources)) <= 60_000


@pytest.mark.parametrize(
    ("runs", "methods"),
    [
        ("noise alone", ["generate(std::uint64_t seed,"]),
        ("words, guidance, stages", ["generate(std::string_view text, float guidance, std::uint64_t seed,"]),
        ("prompts, bytes, grey", ["generate(Prompt prompt, std::uint64_t seed,"]),
        ("no noise", ["edit(const cmkit::Picture& image, Label label,"]),
        (
            "labels, several ways of editing",
            [
                "generate(Label label, std::uint64_t seed,",
                "inpaint(const cmkit::Picture& image, const cmkit::Picture& mask, Label label, std::uint64_t seed,",
                "colorize(const cmkit::Picture& image, Label label, std::uint64_t seed,",
            ],
        ),
    ],
)
def test_methods_have_what_the_graphs_take(runs, methods):
    found = [line.strip() for line in rendered(runs)[HEADER].splitlines() if line.startswith("  cmkit::Picture ")]
    assert found == [f"cmkit::Picture {method}" for method in methods]


def test_names_are_told_as_they_are():
    facts = rendered("prompts, bytes, grey")["src/model_2_models.cpp"]
    for literal in ('"say \\"no\\""', '"\\\\n"', "\"a&b<c>'d'\"", '"日本"', '"\\?\\?/"'):
        assert literal in facts
    assert (
        '{"guidance", Element::float32, {1}, 1.0F, 8.5F}'
        in rendered("words, guidance, stages")["src/model_2_models.cpp"]
    )
