"""A target is one folder and one line: a toy, put into the registry, is in every verb without another edit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.networks import SETTINGS
from support.toy.info import INFO

from cmexport.bench.devices.base import MeasureOptions, check_runnable
from cmexport.bench.jobs import prepare_job
from cmexport.doctor import Finding, diagnose
from cmexport.doctor.backends import run_probe
from cmexport.errors import UsageError
from cmexport.progress import Progress
from cmexport.targets.registry import INFOS

# What recipes may name is fixed when they are imported: a process of its own has the toy from the start.
RECIPES = """
import sys
from support.toy.info import INFO
from cmexport.targets.registry import INFOS
INFOS["toy"] = INFO
from cmexport.cli.main import main
from cmexport.recipes.schema import json_schema
wheels = json_schema()["$defs"]["Target"]["properties"]["wheels"]
assert wheels["description"] == "toy: How many wheels it has.", wheels
sys.exit(main(["run", *sys.argv[1:]]))
"""
RECIPE = """
[targets.toy]
wheels = 4
[targets.onnx]
[devices.local]
[devices.browser]
"""


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(INFOS, INFO.name, INFO)
        yield


@pytest.fixture(scope="module")
def exported(cmexport, tiny_checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("toy")
    done = cmexport("toy", tiny_checkpoint, *SETTINGS, "-o", out, "--seeds", 8, "--wheels", 4, "--rewrites", "none")
    assert done.code == 0, done.stderr
    return out / "tiny-toy-fp32", done


def test_it_has_a_verb_with_its_own_options(cmexport):
    assert INFO.summary in cmexport("--help").stdout
    helped = cmexport("toy", "--help").stdout
    assert "--wheels" in helped
    assert "How many wheels it has." in helped
    assert not {"--ep", "--fp16"} & set(helped.split())
    assert "--wheels" not in cmexport("onnx", "--help").stdout


def test_it_refuses_what_it_does_not_have(cmexport, tiny_checkpoint):
    done = cmexport("toy", tiny_checkpoint, "--wheels", 2)
    assert (done.code, done.stderr.strip()) == (2, "error: --wheels 2: a toy with fewer than 3 falls over")
    done = cmexport("toy", tiny_checkpoint, "--precision", "fp16")
    assert done.code == 2
    assert done.stderr.startswith("error: --precision fp16: this target has fp32; fp16 is for `cmexport onnx`, ")
    assert cmexport("toy", tiny_checkpoint, "--sampler", "heun").code == 2


def test_it_exports_verifies_and_says_what_that_means(cmexport, exported):
    folder, done = exported
    assert "model.toy rolls" in done.stdout
    assert INFO.scope in " ".join(done.stdout.split())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["target"], manifest["files"][0]["path"]) == ("toy", "model.toy")
    assert manifest["numerics"]["wheels"] == 4
    assert manifest["parity"]["passed"]
    verified = cmexport("verify", folder, "--seeds", 8)
    assert verified.code == 0, verified.stderr
    assert INFO.scope in " ".join(verified.stdout.split())


def test_doctor_looks_for_its_library():
    # Opening all that are installed takes 10 s.
    diagnosis = diagnose(lambda name: run_probe(name) if "toy" in name else Finding("works", ""))
    found = {b.name: b for b in diagnosis.backends}
    assert (found["Toy box"].state, found["Toy box"].detail) == ("works", "rolls")


def test_devices_know_whether_they_run_it(exported):
    job = prepare_job(exported[0], MeasureOptions(pictures=1), Progress())
    check_runnable([job], "browser", "a browser runs")
    with pytest.raises(UsageError, match="native runners run ONNX artefacts, not toy"):
        check_runnable([job], "adb", "native runners run")


def test_bench_and_report_have_it(cmexport, exported, tmp_path):
    options = ("--device", "local", "--runs", 1, "--seconds", 0, "--energy", "off", "--pictures", 1, "-o", "r.jsonl")
    done = cmexport("bench", exported[0], *options, cwd=tmp_path)
    record = json.loads((tmp_path / "r.jsonl").read_text())
    assert record["artifact"]["target"] == "toy", done.stderr
    done = cmexport("report", "r.jsonl", exported[0], "--markdown", "r.md", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "toy" in (tmp_path / "r.md").read_text()


def test_recipes_have_steps_for_it(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    path = ":".join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", RECIPES, "r.toml", "--dry-run", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    steps = {step["step"]: step for step in json.loads(done.stdout)["steps"]}
    assert list(steps) == ["toy/fp32", "onnx/fp32", "bench:local", "bench:browser"]
