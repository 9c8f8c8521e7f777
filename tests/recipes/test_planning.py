"""Recipes become command lines that the command line takes."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from cmexport.cli.exporting import export_verb
from cmexport.model import NoiseRange
from cmexport.recipes.checking import check_document
from cmexport.recipes.planning import Chosen, plan_run
from cmexport.recipes.reading import read_document
from cmexport.recipes.steps import Run, Step
from cmexport.sampling.schedules import TUNED_TWO_STEPS, karras_levels, sigmas_at
from cmexport.targets.registry import INFOS

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.toml"))
STUDENTS = [
    *("cd_imagenet64_l2", "cd_imagenet64_lpips", "ct_imagenet64"),
    *("cd_bedroom256_l2", "cd_bedroom256_lpips", "ct_bedroom256"),
    *("cd_cat256_l2", "cd_cat256_lpips", "ct_cat256"),
]


def plan_of(path: Path) -> Run:
    document = read_document(path)
    return plan_run(document, check_document(document), Chosen())


def parsed(step: Step) -> dict:
    """What the verb would get; parsing only."""
    verb, *arguments = step.arguments
    app = typer.Typer(add_completion=False)
    app.command(verb)(export_verb(INFOS[verb]) if verb in INFOS else import_module(f"cmexport.cli.{verb}").command)
    artefacts = ["artefact"] if step.kind in ("verify", "bench", "report") else []
    with get_command(app).make_context(verb, [*arguments, *artefacts], resilient_parsing=False) as context:
        return dict(context.params)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_become_command_lines(path) -> None:
    plan = plan_of(path)
    seen: set[str] = set()
    for step in plan.steps:
        assert seen.issuperset((*step.needs, *step.after)), "each after all it needs"
        assert step.name not in seen
        seen.add(step.name)
        parsed(step)
    places = [(step.place, step.target, step.arguments[3]) for step in plan.steps if step.kind == "export"]
    assert len(set(places)) == len(places), "no two artefacts in one folder"


def test_all_nine_released_students_have_a_recipe() -> None:
    names = {path.stem for path in RECIPES}
    assert names.issuperset(STUDENTS)
    assert names.issuperset({"demo", "ect_cifar10", "iphone", "snapdragon", "jetson", "browser"})


@pytest.mark.parametrize("student", STUDENTS)
def test_students_have_their_constants_and_tuned_levels(student) -> None:
    plan = plan_of(next(path for path in RECIPES if path.stem == student))
    assert plan.checkpoint.name == f"{student}.pt"
    two = parsed(next(step for step in plan.steps if step.name == "onnx/fp32/two-steps"))
    settings = dict(text.split("=") for text in two["assignments"])
    assert settings["image_size"] == ("64" if "64" in student else "256")
    assert settings["qkv_order"] == "thirds"
    assert settings["precond"] == "cm"
    levels = int(settings["levels"])
    assert levels == (40 if student.startswith("cd_") else 201 if "64" in student else 151)
    if student in TUNED_TWO_STEPS:
        noise = NoiseRange(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0, levels=levels)
        tuned = TUNED_TWO_STEPS[student]
        timesteps = tuple(map(int, two["timesteps"].split(",")))
        assert int(two["levels"]) == tuned.levels == levels
        assert sigmas_at(noise, timesteps, levels) == (80.0, karras_levels(noise, levels)[tuned.index])
    else:
        assert two["steps"] == "2"


def test_every_option_arrives(planned, tmp_path) -> None:
    (tmp_path / "plan.toml").touch()
    (tmp_path / "cache").mkdir()
    plan = planned(
        """
        [checkpoint]
        trust = true
        set = { clamp = false, channel_mult = [1, 2], sigma_data = 0.25 }
        [schedules]
        a = { sigmas = [80, 1.25] }
        b = { timesteps = [22, 0], levels = 40 }
        [targets.onnx]
        precisions = ["fp32", "int8"]
        schedules = ["a", "b"]
        tasks = ["generate", "superres"]
        patch = 2
        label = 0
        batch = 4
        output = "uint8"
        rewrites = "none"
        seeds = 16
        ep = "arm"
        plan = "plan.toml"
        [targets.mixed]
        target = "coreml"
        precisions = ["fp32", "mixed"]
        budget_db = 45
        keep_fp32 = "auto"
        ios = 17
        output = "image"
        verify = false
        [targets.tensorrt]
        batches = [1, 8]
        trt = "rtx"
        sm = [86, 120]
        compat = ["version"]
        strip = true
        refit = true
        timing_cache = "cache/times"
        [devices.box]
        device = "ssh://me@box"
        runs = 3
        seconds = 0.5
        threads = 1
        sustained = 2
        repeats = 2
        energy = "off"
        provider = "cpu"
        pictures = 2
        python = "python3.12"
        identity = "plan.toml"
        """
    )
    steps = {step.name: parsed(step) for step in plan.steps}
    expected = {
        "onnx/fp32/a": {"sigmas": "80.0,1.25", "plan": None, "ep": "arm", "task": "generate,superres", "patch": 2},
        "onnx/int8/b": {
            "timesteps": "22,0",
            "levels": 40,
            "plan": tmp_path / "plan.toml",
            **{"label": "0", "batch": 4, "output": "uint8", "rewrites": "none", "seeds": 16, "trust": True},
            "assignments": ["clamp=false", "channel_mult=1,2", "sigma_data=0.25"],
        },
        "mixed/fp32": {"budget_db": None, "keep_fp32": "none", "ios": 17, "no_verify": True},
        "mixed/mixed": {"budget_db": 45.0, "keep_fp32": "auto", "output": "image"},
        "tensorrt/fp32": {
            **{"batch": "1,8", "trt": "rtx", "sm": "86,120", "compat": "version", "strip": True, "refit": True},
            "timing_cache": tmp_path / "cache" / "times",
        },
        "bench:box-1": {
            **{"device": "ssh://me@box", "runs": 3, "seconds": 0.5, "threads": 1, "sustained": 2.0, "repeats": 2},
            **{"energy": "off", "provider": "cpu", "pictures": 2, "python": "python3.12"},
            "identity": tmp_path / "plan.toml",
        },
    }
    for name, options in expected.items():
        assert {key: steps[name][key] for key in options} == options, name
    places = {step.name: step.place for step in plan.steps}
    assert places["onnx/int8/b"] == "onnx/b"
    assert places["mixed/mixed"] == "mixed"
    assert places["tensorrt/fp32"] == ""


def test_benches_keep_artefacts_of_one_name_apart(planned) -> None:
    plan = planned(
        "[schedules]\na = {steps = 1}\nb = {steps = 2}\n[targets.onnx]\nschedules = ['a', 'b']\n"
        "precisions = ['fp32', 'fp16']\n[devices.local]\n"
    )
    benches = [step for step in plan.steps if step.kind == "bench"]
    assert [step.after for step in benches] == [("onnx/fp32/a", "onnx/fp16/a"), ("onnx/fp32/b", "onnx/fp16/b")]
    assert [step.output for step in benches] == ["local-1.jsonl", "local-2.jsonl"]
    assert all(step.alone for step in benches)


def test_devices_bench_what_they_can_run(planned, monkeypatch) -> None:
    plan = planned("[targets.onnx]\n[targets.tensorrt]\n[devices.local]\n[devices.browser]\nprecisions = ['fp16']\n")
    benches = [step for step in plan.steps if step.kind == "bench"]
    assert [(step.name, step.after) for step in benches] == [("bench:local", ("onnx/fp32",))]


def test_needs_and_plans(planned) -> None:
    plan = planned(
        "[targets.int]\ntarget = 'onnx'\nprecisions = ['int8', 'fp16']\nplan = 'p'\nneeds = ['onnx']\n"
        "[targets.onnx]\n[plans.p]\nkeep_db = 55\n[verify]\nfeatures = 'inception'\ntargets = ['int']\n[report]\n"
    )
    steps = {step.name: step for step in plan.steps}
    assert set(steps["int/int8"].needs) == {"plan:p", "onnx/fp32"}
    assert steps["int/fp16"].needs == ("onnx/fp32",)
    assert parsed(steps["int/int8"])["plan"] == Path("{plans}/p.toml")
    assert parsed(steps["plan:p"])["keep_db"] == 55
    assert {name for name in steps if name.startswith("verify")} == {"verify:int/int8", "verify:int/fp16"}
    assert parsed(steps["verify:int/int8"])["features"] == "inception"
    assert set(steps["report"].after) == set(steps) - {"report", "plan:p"}


def test_paths_are_relative_to_the_file_they_are_written_in(write, tmp_path) -> None:
    (tmp_path / "base").mkdir()
    write('[checkpoint]\nfile = "../m.pt"\n[targets.onnx]\n', "base/base.toml")
    plan = plan_of(write('extends = "base/base.toml"\n'))
    assert plan.checkpoint == Path(os.path.normpath(tmp_path / "m.pt"))
    assert plan.out == Path("out/x")


def test_the_command_line_decides(planned, tmp_path) -> None:
    plan = planned("out = 'a'\njobs = 3\n[targets.onnx]\n", jobs=5, checkpoint=tmp_path / "other.pt")
    assert (plan.out, plan.jobs, plan.checkpoint) == (tmp_path / "out", 5, tmp_path / "other.pt")
    assert planned("out = 'a'\njobs = 3\n[targets.onnx]\n", out=None).jobs == 3
    assert planned("out = 'a'\n[targets.onnx]\n", out=None).out == Path("a")


@pytest.mark.parametrize("labels", ["cifar10", "names.txt"])
def test_names_of_classes_go_to_every_export(labels, tmp_path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n")
    (tmp_path / "r.toml").write_text(f'[checkpoint]\nlabels = "{labels}"\n[targets.onnx]\n[targets.coreml]\n')
    exports = [step for step in plan_of(tmp_path / "r.toml").steps if step.kind == "export"]
    file = tmp_path / "names.txt"
    for step in exports:
        assert parsed(step)["labels"] == ("cifar10" if labels == "cifar10" else str(file))
        assert (file in step.reads) == (labels == "names.txt")
    assert len(exports) == 2


def test_targets_of_latent_models(tmp_path) -> None:
    (tmp_path / "words.txt").write_text("a cat\n")
    path = tmp_path / "latent.toml"
    path.write_text(
        "[plans.p]\ncalibration_prompts = 'words.txt'\n"
        "[targets.onnx]\nprompts = 'words.txt'\nguidance = 5.0\ndecoder = 'tiny:taesd'\n"
        "[targets.coreml]\nprompt = 'a cat'\nguidance_input = true\n"
        "[targets.tensorrt]\ncondition = 'embeddings'\ncalibration_prompts = 'words.txt'\n"
    )
    *exports, scored = plan_of(path).steps
    assert parsed(scored)["calibration_prompts"] == tmp_path / "words.txt"
    listed, baked, embedded = map(parsed, exports)
    assert (listed["prompts"], listed["guidance"]) == (tmp_path / "words.txt", 5.0)
    assert listed["decoder"] == f"tiny:{tmp_path / 'taesd'}"
    assert (baked["prompt"], baked["guidance_input"], baked["condition"]) == ("a cat", True, "tokens")
    assert (embedded["condition"], embedded["calibration_prompts"]) == ("embeddings", tmp_path / "words.txt")
    for step in (scored, exports[0], exports[2]):
        assert tmp_path / "words.txt" in step.reads
    assert baked["calibration_prompts"] is None
