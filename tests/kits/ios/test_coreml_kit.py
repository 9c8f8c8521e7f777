"""`cmexport kit --platform ios` of a real Core ML artefact, whose golden pictures cmexport's executor draws."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from cmexport.artifact import read_manifest
from cmexport.kits import make_kit, platform_named
from cmexport.kits.facts import Kit, kit_of
from cmexport.kits.golden import golden_files
from cmexport.kits.platforms.ios import PLATFORM, swift_string


@pytest.fixture(scope="module")
def made(coreml, tmp_path_factory):
    return make_kit(coreml, platform_named("ios"), tmp_path_factory.mktemp("kit"))


def test_its_golden_pictures_are_onnx_runtimes(made, demo):
    """The same network in float32: what a phone must show, by two programs that share no code."""
    golden = made.folder / "Sources/CmCifar10Kit/Resources/golden"
    others = golden_files(demo, kit_of(demo, read_manifest(demo)), None)
    pictures = json.loads((golden / "golden.json").read_text())["pictures"]
    assert len(pictures) == 4
    for picture in pictures:
        name = picture["expected"]
        drawn, other = (
            np.frombuffer(data, np.uint8).astype(int) for data in ((golden / name).read_bytes(), others[name])
        )
        error = np.mean((drawn - other) ** 2)
        assert 10 * np.log10(255**2 / max(error, 1e-12)) >= made.kit.main.least_db
        # Half precision: a byte is off by one level now and then, never by two.
        assert np.abs(drawn - other).max() <= 1


def test_it_compiles(made, swift, stubs, tmp_path):
    (tmp_path / "module.swift").write_text("import Foundation\nextension Bundle { static let module = Bundle.main }\n")
    command = (
        "cd /mnt/kit; swiftc -typecheck -swift-version 6 -warnings-as-errors -parse-as-library -I/mnt/stubs "
        "-module-name CmCifar10Kit Sources/*/*.swift /mnt/more/module.swift"
    )
    done = swift(command, kit=made.folder, stubs=stubs, more=tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_file_of_the_package_is_known_by_its_hash(made):
    source = (made.folder / "Sources/CmCifar10Kit/Model.swift").read_text()
    assert {file.sha256 for file in made.kit.files} == set(re.findall(r'sha256: "([0-9a-f]{64})"', source))
    key = re.search(r'key: "([0-9a-f]{16})"', source)
    assert key
    # Another content, another name among the compiled ones.
    other = made.kit.model_copy(
        update={"files": (made.kit.files[0].model_copy(update={"sha256": "0" * 64}), *made.kit.files[1:])}
    )
    assert key[1] not in {package.key for package in PLATFORM.context(other)["packages"]}


def test_a_package_asks_for_the_system_that_its_model_was_exported_for(made):
    def several(kit: Kit) -> Kit:
        (run,) = kit.runs
        graphs = tuple(graph.model_copy(update={"function": "generate"}) for graph in run.graphs)
        return kit.model_copy(update={"runs": (run.model_copy(update={"graphs": graphs}),)})

    def systems(kit: Kit) -> tuple[int, int]:
        context = PLATFORM.context(kit)
        return context["ios"], context["macos"]

    older = made.kit.model_copy(update={"session": {**made.kit.session, "ios": 16}})
    assert systems(made.kit) == (18, 15)
    assert systems(older) == (16, 13)
    # Several functions in one package are newer than that.
    assert systems(several(older)) == (18, 15)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("a cat", '"a cat"'),
        ('say "hi" \\(x)', '"say \\u{22}hi\\u{22} \\u{5c}(x)"'),
        ("häß\n😿", '"h\\u{e4}\\u{df}\\u{a}\\u{1f63f}"'),
    ],
)
def test_strings(text, spelled):
    assert swift_string(text) == spelled


def test_numbers_that_core_ml_has_no_arrays_of_are_refused(made):
    (run,) = made.kit.runs
    (graph,) = run.graphs
    wide = graph.model_copy(update={"inputs": (graph.inputs[1].model_copy(update={"dtype": "int64"}),)})
    kit = made.kit.model_copy(update={"runs": (run.model_copy(update={"graphs": (wide,)}),)})
    assert "int64" in PLATFORM.refusal(kit)
    assert not PLATFORM.refusal(made.kit)
