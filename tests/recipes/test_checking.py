"""Every fault is told with its line and the nearest valid name."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from cmexport.recipes.checking import check_document, missing_checkpoint
from cmexport.recipes.planning import Chosen, checkpoint_path
from cmexport.recipes.reading import read_document


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        # Keys, at every level.
        ("[target.onnx]\n", 1, 'unknown key "target"; did you mean "targets"?'),
        ("\n[targets.onnx]\nprecisons = ['fp16']\n", 3, 'unknown key "precisons"; did you mean "precisions"?'),
        ("[checkpoint]\nfiel = 'a'\n[targets.onnx]\n", 2, 'did you mean "file"?'),
        ("[targets.onnx]\n[schedules]\na = { step = 1 }\n", 3, 'unknown key "step"; did you mean "steps"?'),
        ("[targets.onnx]\n[devices.local]\nrun = 3\n", 3, 'did you mean "runs"?'),
        ("[targets.onnx]\n[report]\nhtm = 'a'\n", 3, 'did you mean "html"?'),
        ("[targets.onnx]\n[plans.p]\nkeep_bd = 50\n", 3, 'did you mean "keep_db"?'),
        ("[targets.onnx]\n[verify]\nfeatures='inception'\ncuont = 50\n", 4, 'did you mean "count"?'),
        ("[targets.onnx]\n[checkpoint.set]\nsigma_dat = 1\n", 3, '"sigma_dat"; did you mean "sigma_data"?'),
        # Names and values.
        ("[targets.corml]\nprecisions = ['fp16']\n", 1, 'unknown target "corml"; did you mean "coreml"?'),
        ("[targets.a]\ntarget = 'tensort'\n", 2, 'target: unknown value "tensort"; did you mean "tensorrt"?'),
        ("[targets.onnx]\nprecisions = [\n 'fp32',\n 'fp-16',\n]\n", 4, 'unknown value "fp-16"; did you mean "fp16"?'),
        ("[targets.onnx]\nprecisions = ['fp32', 'w6']\n", 2, 'onnx has no precision "w6"; did you mean "w'),
        ("[targets.onnx]\nprecisions = ['fp32', 'fp32']\n", 2, '"fp32" comes twice'),
        ("[targets.onnx]\ntasks = ['inpant']\n", 2, 'did you mean "inpaint"?'),
        ("[targets.coreml]\nios = 15\n", 2, "ios: unknown value 15"),
        ("[targets.onnx]\nios = 17\n", 2, "onnx has no ios; coreml has"),
        ("[targets.onnx]\nschedules = ['twe']\n[schedules]\ntwo = {steps = 2}\n", 2, 'did you mean "two"?'),
        ("[targets.onnx]\nneeds = ['coremi']\n[targets.coreml]\n", 2, 'unknown table "coremi"; did you mean "coreml"?'),
        ("[targets.onnx]\n[devices.phone]\ndevice = 'adv://x'\n", 3, 'unknown device "adv://x"; did you mean "adb://serial"?'),
        ("[targets.onnx]\n[devices.locla]\n", 2, 'unknown device "locla"; did you mean "local"?'),
        ("[targets.onnx]\n[devices.local]\ntargets = ['onx']\n", 3, 'unknown target "onx"; did you mean "onnx"?'),
        ("[targets.onnx]\n[devices.local]\nenergy = 'nvm'\n", 3, 'did you mean "nvml"?'),
        ("[targets.onnx]\n[schedules]\nh = { steps = 18, sampler = 'huen' }\n", 3, 'did you mean "heun"?'),
        ("[targets.onnx]\n[targets.'a b']\ntarget = 'onnx'\n", 2, "names are letters"),
        ("[targets.local]\ntarget = 'onnx'\n[devices.local]\n", 3, "is a name in [targets] too"),
        ("[targets.onnx]\nprompts = 'none.txt'\n", 2, "prompts: there is no file"),
        ("[targets.onnx]\ncalibration_prompts = 'none.txt'\n", 2, "calibration_prompts: there is no file"),
        ("[targets.onnx]\n[plans.p]\ncalibration_prompts = 'none.txt'\n", 3, "calibration_prompts: there is no file"),
        (
            "[targets.onnx]\nprompt = 'a cat'\ncalibration_prompts = 'r.toml'\n",
            3,
            "calibration_prompts and prompt contradict",
        ),
        ("[targets.onnx]\nprompt = 'a cat'\ncondition = 'embeddings'\n", 3, "prompt and condition contradict"),
        ("[targets.onnx]\nguidance = 5\nguidance_input = true\n", 3, "guidance and guidance_input contradict"),
        # Types and ranges.
        ("[targets.onnx]\nbatch = '4'\n", 2, "targets.onnx.batch: input should be a valid integer"),
        ("[targets.onnx]\nbatch = true\n", 2, "valid integer"),
        ("[targets.onnx]\nbatch = 0\n", 2, "greater than or equal to 1"),
        ("[targets.onnx]\nseeds = 4\n", 2, "greater than or equal to 8"),
        ("[targets.onnx]\nprecisions = []\n", 2, "at least 1 item"),
        ("[targets.onnx]\nprecisions = 'fp16'\n", 2, 'valid list, not "fp16"'),
        ("targets = 3\n", 1, "targets: input should be a valid dictionary"),
        ("[targets]\nonnx = 'fp16'\n", 2, "targets.onnx"),
        ("[targets.onnx]\ngate_db = -3\n", 2, "must be a PSNR in dB"),
        ("[targets.onnx]\ngate_db = { fp32 = 'high' }\n", 2, "the gate of fp32 must be a PSNR"),
        ("[targets.onnx]\ngate_db = { fp16 = 70 }\n", 2, '"fp16" is none of the precisions'),
        ("[targets.onnx]\ngate_db = 90\n", 2, "below cmexport's own gate for fp32, 100"),
        ("[targets.onnx]\ngate_db = 110\nverify = false\n", 2, "nothing to judge"),
        ("[checkpoint.set]\nsigma_data = -1\n[targets.onnx]\n", 2, "must be a finite number above 0"),
        ("[checkpoint.set]\nsigma_data = {a = 1}\n[targets.onnx]\n", 2, "checkpoint.set.sigma_data: must be a number"),
        ("[checkpoint]\nsha256 = 'abc'\n[targets.onnx]\n", 2, "should match pattern"),
        ("[verify]\n[targets.onnx]\n", 1, 'key "features" is missing in [verify]'),
        # What only makes sense together.
        ("[schedules]\na = { steps = 2, sigmas = [80] }\n[targets.onnx]\n", 2, "give one of steps and sigmas"),
        ("[schedules]\na = { timesteps = [0, 22] }\n[targets.onnx]\n", 2, "timesteps must descend"),
        ("[schedules]\na = { timesteps = [22, 1], levels = 40 }\n[targets.onnx]\n", 2, "must end in 0"),
        ("[schedules]\na = { timesteps = [39, 0], levels = 40 }\n[targets.onnx]\n", 2, "start at 38 at most"),
        ("[schedules]\na = { levels = 40 }\n[targets.onnx]\n", 2, "levels only says"),
        ("[schedules]\na = { sampler = 'heun' }\n[targets.onnx]\n", 2, "needs steps"),
        ("[targets.coreml]\nschedules = ['h']\n[schedules]\nh = {sampler = 'heun', steps = 9}\n", 2, "onnx has"),
        ("[targets.coreml]\nprecisions = ['mixed']\n", 2, "needs budget_db"),
        ("[targets.onnx]\nbudget_db = 50\n", 2, "budget_db goes with none of the precisions fp32"),
        ("[targets.onnx]\nprecisions = ['int8']\nplan = 'p.toml'\n", 3, "plan: there is no file"),
        ("[targets.onnx]\noutput = 'image'\n", 2, 'did you mean "uint8"?'),
        ("[targets.onnx]\npatch = 2\n", 2, "patch is for the task superres"),
        ("[targets.onnx]\nbatches = [1, 4]\n", 2, "onnx has no batches"),
        ("[targets.onnx]\n[devices.local]\nidentity = 'key'\n", 3, "there is no file"),
        ("[targets.onnx]\n[report]\nhtml = '../x.html'\n", 3, "a file name in the output folder"),
        ("# empty\n", 1, "nothing to do"),
    ],
)  # fmt: skip
def test_a_fault(refused, text, line, said) -> None:
    message = refused(text)
    assert re.match(rf".*x\.toml, line {line}: ", message), message
    assert said in message


def test_circles_of_needs(refused) -> None:
    message = refused(
        "[targets.onnx]\nneeds = ['coreml']\n[targets.coreml]\nneeds = ['tensorrt']\n"
        "[targets.tensorrt]\nneeds = ['onnx']\n"
    )
    found = re.search(r"x\.toml, line (\d): a circle: (.*)", message)
    assert found, message
    names = found[2].split(" needs ")
    assert names[0] == names[-1]
    assert len(names) == 4
    needs = {"onnx": "coreml", "coreml": "tensorrt", "tensorrt": "onnx"}
    assert all(needs[a] == b for a, b in pairwise(names))
    assert int(found[1]) == {"onnx": 2, "coreml": 4, "tensorrt": 6}[names[0]]
    assert "circle: onnx needs onnx" in refused("[targets.onnx]\nneeds = ['onnx']\n")


def test_a_circle_through_a_plan(refused) -> None:
    message = refused("[targets.onnx]\nprecisions = ['int8']\nplan = 'p'\n[plans.p]\nneeds = ['onnx']\n")
    assert "circle" in message


def test_several_faults_in_the_order_of_their_lines(refused) -> None:
    message = refused("jbos = 1\n[targets.onnx]\nbatch = 0\nlabel = -1\npatch = 0\nseeds = 1\n")
    assert re.findall(r"line (\d)", message) == ["1", "3", "4"]
    assert message.endswith("(and 2 more faults)")


def test_an_unknown_name_without_a_near_one_lists_what_is_known(refused) -> None:
    assert "; known: onnx, coreml, coreai, tensorrt" in refused("[targets.zzzzzz]\n")


def test_a_missing_checkpoint(write) -> None:
    path = write("[targets.onnx]\n[checkpoint]\nurl = 'https://example.org/a'\nfile = 'model.pt'\n")
    path.with_name("modell.pt").touch()
    document = read_document(path)
    recipe = check_document(document)
    file = checkpoint_path(document, recipe, Chosen())
    assert file == path.parent / "model.pt"
    error = missing_checkpoint(document, recipe, file)
    assert str(error).startswith(f"{path}, line 4: there is no checkpoint {file}; did you mean")
    assert "modell.pt" in str(error)
    assert "https://example.org/a" in str(error)
    assert missing_checkpoint(document, recipe, path) is None
    assert missing_checkpoint(document, recipe, None) is None
