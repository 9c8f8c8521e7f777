"""What is written draws the reference's pictures: all tasks, both precisions, in Apple's runtime."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cmexport.errors import BackendError
from cmexport.model import SampleRequest
from cmexport.targets.coreai.half import to_half
from cmexport.targets.coreai.target import CoreAiTarget
from cmexport.targets.info import LoweringOptions

pytest.importorskip("coreai_torch", reason="coreai-torch is not installed", exc_type=ImportError)

TWO = (80.0, 1.4)
REQUESTS = {
    "one step": SampleRequest(),
    "two steps, two pictures": SampleRequest(sigmas=TWO, batch=2),
    "label inside": SampleRequest(label=3),
    "inpaint": SampleRequest(task="inpaint", sigmas=TWO),
    "colorize": SampleRequest(task="colorize", sigmas=TWO),
    "superres": SampleRequest(task="superres", patch=4, sigmas=TWO),
    "denoise": SampleRequest(task="denoise", sigmas=(3.0,)),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_float32_pictures_are_the_references(write, psnr, request_):
    made = write(request_)
    inputs = made.inputs()
    assert psnr(made.reference(inputs), made.run(inputs)) >= 120.0


@pytest.mark.parametrize("name", ["one step", "two steps, two pictures", "inpaint"])
def test_half_precision_pictures_keep_their_gate(write, psnr, name):
    made = write(REQUESTS[name], "fp16")
    inputs = made.inputs()
    found = made.run(inputs)
    assert found.dtype == np.float32
    assert 60.0 <= psnr(made.reference(inputs), found) < 100.0


def test_a_model_without_classes_has_no_label(write, psnr):
    made = write(classes=None)
    inputs = made.inputs()
    assert set(inputs) == {"noise"}
    assert psnr(made.reference(inputs), made.run(inputs)) >= 120.0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_graph_that_was_not_rewritten(write, psnr, precision):
    made = write(precision=precision, rewrites=())
    inputs = made.inputs()
    assert psnr(made.reference(inputs), made.run(inputs)) >= (110.0 if precision == "fp32" else 60.0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bytes_are_rounded_in_the_graph(write, precision):
    made = write(SampleRequest(output="uint8"), precision)
    inputs = made.inputs()
    reference, found = made.reference(inputs), made.run(inputs)
    assert found.dtype == np.uint8
    assert found.shape == (1, 8, 8, 3)
    differences = np.abs(reference.astype(int) - found.astype(int))
    assert differences.max() <= 1
    # Half precision is off by 1e-3 of the range, a quarter of a level, at the very worst.
    assert (differences > 0).mean() <= (0.0 if precision == "fp32" else 0.1)


def test_half_precision_is_half_the_size_and_leaves_the_model_alone(write):
    wide, half = write(), write(precision="fp16")
    assert half.lowered.precision_plan == {"default": "float16", "border": "float32"}
    programs = [(made.asset / "main.mlirb").stat().st_size for made in (wide, half)]
    assert programs[1] < 0.6 * programs[0]
    assert {p.dtype for p in half.model.network.parameters()} == {torch.float32}
    # The model is shared by all these graphs: its pictures must still be float32's.
    before = {name: t.clone() for name, t in wide.captured.program.state_dict.items()}
    to_half(wide.captured)
    assert all(torch.equal(before[name], t) for name, t in wide.captured.program.state_dict.items())


def test_the_border_is_float32_and_the_label_int32(write):
    from coreai.authoring import AIModelAsset

    for precision in ("fp32", "fp16"):
        summary = AIModelAsset.load(write(precision=precision).asset).summary()
        inputs, outputs = dict(summary.function_inputs("main")), dict(summary.function_outputs("main"))
        assert set(inputs) == {"noise", "label"}
        assert "Float32" in inputs["noise"]
        assert "Int32" in inputs["label"]
        assert set(outputs) == {"image"}
        assert "Float32" in outputs["image"]


def test_the_asset_says_what_it_is_and_not_where_it_was_made(write):
    made = write(SampleRequest(task="inpaint", sigmas=TWO))
    facts = json.loads((made.asset / "metadata.json").read_text())
    assert facts["author"] == "cmexport"
    for said in ("Edits a picture", "mask: 1 where the picture is kept", "Output edited: values from -1 to 1"):
        assert said in facts["description"]
    program = (made.asset / "main.mlirb").read_bytes()
    for place in (Path.cwd(), made.folder, Path(torch.__file__).parent):
        assert os.fsencode(place) not in program
    assert b"adm_unet" not in program


def test_files_are_listed_with_the_program_first(write):
    made = write()
    assert made.lowered.files == (
        "model.aimodel/main.mlirb",
        "model.aimodel/main.hash",
        "model.aimodel/metadata.json",
    )
    assert made.lowered.tools["coreai-torch"].startswith("0.")


class Spectrum(torch.nn.Module):
    def forward(self, noise):
        return torch.special.bessel_j0(noise)


def test_an_operator_without_a_form_is_refused(toy, tmp_path):
    captured = toy(Spectrum(), noise=torch.zeros(1, 1, 4, 4))
    with pytest.raises(BackendError, match=r"Core AI: this network can't be translated: .*bessel") as caught:
        CoreAiTarget().lower_one(captured, LoweringOptions(), tmp_path, lambda _: None)
    assert len(str(caught.value).splitlines()) == 1


class Loud(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.full((1, 1, 1, 1), 7e4))

    def forward(self, noise):
        return noise * self.gain


def test_a_weight_beyond_half_precision_is_refused(toy):
    with pytest.raises(BackendError, match=r"gain holds 7e\+04, beyond 65504"):
        to_half(toy(Loud(), noise=torch.zeros(1, 1, 4, 4)))
