"""The target as a whole: facts, rungs, several graphs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from cmexport.signature import Signature, known
from cmexport.targets.coreai.runner import CoreAiRunner
from cmexport.targets.coreai.target import CoreAiTarget

FILES = ("model.aimodel/main.mlirb", "model.aimodel/main.hash", "model.aimodel/metadata.json")

BORDER = Signature((known.noise((1, 3, 8, 8)),), known.finished((1, 3, 8, 8)))


def test_facts_are_stamped_into_the_metadata_and_nothing_else_changes(write, tmp_path):
    pytest.importorskip("coreai_torch", reason="coreai-torch is not installed", exc_type=ImportError)
    made = write()
    shutil.copytree(made.asset, tmp_path / "model.aimodel")
    CoreAiTarget().stamp(tmp_path, made.lowered.files, {"cmexport.task": "generate", "cmexport.version": "1"})
    changed = [f for f in made.lowered.files if (tmp_path / f).read_bytes() != (made.folder / f).read_bytes()]
    assert changed == ["model.aimodel/metadata.json"]
    facts = json.loads((tmp_path / "model.aimodel/metadata.json").read_text())
    assert facts["creatorDefinedMetadata"] == {"cmexport.task": "generate", "cmexport.version": "1"}
    assert facts["author"] == "cmexport"
    inputs = made.inputs()
    with CoreAiRunner(tmp_path / "model.aimodel") as run:
        assert np.array_equal(run(inputs)["image"], made.run(inputs))


@pytest.mark.parametrize(("system", "name"), [("Linux", "Core AI runtime, CPU"), ("Darwin", "Core AI runtime")])
def test_one_rung_with_the_precisions_own_gate(tmp_path, monkeypatch, system, name):
    monkeypatch.setattr("platform.system", lambda: system)
    (rung,) = CoreAiTarget().rungs(tmp_path, FILES, {"half": True})
    assert (rung.name, rung.gate_db) == (name, None)
    assert rung.open.args == (tmp_path / "model.aimodel",)


def test_each_task_keeps_its_asset(tmp_path):
    (rung,) = CoreAiTarget().rungs(tmp_path, ("stroke.aimodel/main.mlirb",), {"function": "stroke"})
    assert rung.open.args == (tmp_path / "stroke.aimodel",)
