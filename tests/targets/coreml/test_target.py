"""The target as a whole: several graphs in one package, stamped facts, the ladder's rungs."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest

from cmexport.errors import UsageError
from cmexport.model import SampleRequest
from cmexport.runner import picture_of
from cmexport.signature import Signature, known
from cmexport.targets.base import LoweredModel
from cmexport.targets.coreml.info import CoreMlOptions
from cmexport.targets.coreml.joining import join
from cmexport.targets.coreml.runner import ExecutorRunner
from cmexport.targets.coreml.target import CoreMlTarget

FP16 = CoreMlOptions(precision="fp16")
GENERATE, INPAINT = SampleRequest(), SampleRequest(task="inpaint", sigmas=(80.0, 1.4))
FLAT = {"channel_mult": (1,)}
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"

BORDER = Signature((known.noise((1, 3, 8, 8)),), known.finished((1, 3, 8, 8)))


@pytest.fixture(scope="module")
def joined(rewritten, tmp_path_factory):
    """Two tasks in one package, and each one's weights' size before they were joined."""
    folder = tmp_path_factory.mktemp("joined")
    target = CoreMlTarget()
    alone = {}

    def graph(request):
        for package in folder.iterdir():
            alone[package.stem] = (package / WEIGHTS).stat().st_size
        return rewritten(request, **FLAT)[1]

    graphs = {request.task: partial(graph, request) for request in (GENERATE, INPAINT)}
    return folder, target, target.lower(graphs, FP16, folder, lambda _: None), alone


def test_tasks_become_functions_that_share_their_weights(joined, spec):
    folder, _, lowered, alone = joined
    package = folder / "model.mlpackage"
    assert [p.name for p in folder.iterdir()] == ["model.mlpackage"]
    assert set(lowered) == {"generate", "inpaint"}
    assert {model.files for model in lowered.values()} == {lowered["generate"].files}
    assert lowered["generate"].files[0] == "model.mlpackage/Manifest.json"
    assert (package / WEIGHTS).stat().st_size < 1.2 * alone["generate"]
    message = spec(package)
    assert set(message.mlProgram.functions) == {"generate", "inpaint"}
    assert message.description.defaultFunctionName == "generate"
    assert {f.name: [o.name for o in f.output] for f in message.description.functions} == {
        "generate": ["image"],
        "inpaint": ["edited"],
    }
    assert message.description.metadata.author == "cmexport"


@pytest.mark.parametrize("request_", [GENERATE, INPAINT], ids=["generate", "inpaint"])
def test_each_function_draws_its_own_tasks_pictures(joined, export, psnr, request_):
    folder, target, lowered, _ = joined
    made = export(request_, FP16, **FLAT)
    inputs = made.inputs()
    session = {**lowered[request_.task].session, "function": request_.task}
    shipped = target.rungs(folder, lowered[request_.task].files, session)[-1]
    with shipped.open() as run:
        found = picture_of(run(inputs))
    assert psnr(made.reference(inputs), found) >= 60.0
    # The same operations on the same weights: what it drew alone.
    assert np.array_equal(found, made.run(inputs))


def test_below_ios_18_each_task_keeps_its_package(tmp_path):
    lowered = {
        name: LoweredModel((f"{name}.mlpackage/Manifest.json",), {}, {"ios": 17}, {}, BORDER)
        for name in ("generate", "stroke")
    }
    target = CoreMlTarget()
    assert join(tmp_path, lowered) == lowered
    rung = target.rungs(tmp_path, lowered["stroke"].files, {"ios": 17, "function": "stroke"})[-1]
    # There is only "main" in it.
    assert rung.open.args == (tmp_path / "stroke.mlpackage", None)


def test_facts_are_stamped_into_the_description_and_nothing_else_changes(export, spec, tmp_path):
    made = export(GENERATE, FP16, **FLAT)
    shutil.copytree(made.package, tmp_path / "model.mlpackage")
    CoreMlTarget().stamp(tmp_path, made.lowered.files, {"cmexport.task": "generate", "cmexport.version": "1"})
    changed = [f for f in made.lowered.files if (tmp_path / f).read_bytes() != (made.folder / f).read_bytes()]
    assert changed == ["model.mlpackage/Data/com.apple.CoreML/model.mlmodel"]
    description = spec(tmp_path / "model.mlpackage").description
    facts = dict(description.metadata.userDefined)
    assert facts["cmexport.task"] == "generate"
    assert "com.github.apple.coremltools.conversion_date" not in facts
    assert description.metadata.author == "cmexport"
    assert all(f.shortDescription for f in (*description.input, *description.output))
    inputs = made.inputs()
    with ExecutorRunner(tmp_path / "model.mlpackage") as run:
        assert np.array_equal(picture_of(run(inputs)), made.run(inputs))


def test_identifiers_come_from_the_content(export):
    manifests = [
        json.loads((export(r, FP16, **FLAT).package / "Manifest.json").read_text()) for r in (GENERATE, INPAINT)
    ]
    for manifest in manifests:
        assert manifest["rootModelIdentifier"] in manifest["itemInfoEntries"]
    assert not set(manifests[0]["itemInfoEntries"]) & set(manifests[1]["itemInfoEntries"])


def test_half_precision_is_reported_as_a_range_and_gated_as_declared(tmp_path):
    target = CoreMlTarget()
    files = ("model.mlpackage/Manifest.json",)
    half = target.rungs(tmp_path, files, {"ios": 18, "half": True})
    assert [(r.name, r.gate_db) for r in half] == [
        ("Core ML, half sums", 45.0),
        ("Core ML, no subnormals", 45.0),
        ("Core ML, ideal", None),
    ]
    assert [r.name for r in target.rungs(tmp_path, files, {"ios": 18, "half": False})] == ["Core ML, ideal"]


def test_the_emulated_modes_stay_above_their_gate(export, psnr):
    made = export(GENERATE, FP16, **FLAT)
    inputs = made.inputs()
    reference, ideal = made.reference(inputs), made.run(inputs)
    for mode in ("fp16", "ftz"):
        found = made.run(inputs, mode)
        assert psnr(reference, found) >= 55.0
        assert not np.array_equal(found, ideal)


def test_a_mac_also_predicts_on_each_unit(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    rungs = CoreMlTarget().rungs(tmp_path, ("model.mlpackage/Manifest.json",), {"ios": 18, "half": True})
    assert [r.name for r in rungs[:3]] == ["Core ML, CPU", "Core ML, GPU", "Core ML, Neural Engine"]
    assert rungs[-1].name == "Core ML, ideal"


def test_an_unknown_release_is_refused_before_anything_is_captured():
    with pytest.raises(UsageError, match="--ios 19"):
        CoreMlTarget().rewrites_for(CoreMlOptions(ios=19))
