"""Files for Snapdragon NPUs in Qualcomm's own compiler and emulator: taken whole, and with the pictures of PyTorch."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cmexport.model import SampleRequest
from cmexport.quantize import int8
from cmexport.quantize.calibration import CalibrationOptions
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.lower import lower
from cmexport.targets.onnx.npu import pairs

ENV = os.environ.get("CMEXPORT_QNN_ENV", "")
SCRIPT = Path(__file__).parents[2] / "support" / "qnn_emulator.py"
pytestmark = pytest.mark.skipif(
    not ENV or not (Path(ENV) / "bin" / "python").exists(),
    reason="no environment with Qualcomm's emulator (x86-64 Linux): make system",
)
NPU = ["QNNExecutionProvider"]


@pytest.fixture(autouse=True, scope="module")
def _few_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "CalibrationOptions", partial(CalibrationOptions, pictures=24, gram_pictures=4))
        yield


def emulate(path, inputs, folder):
    """The outputs by name, and who ran each node."""
    np.savez(folder / "in.npz", **inputs)
    command = [f"{ENV}/bin/python", SCRIPT, path, folder / "in.npz", folder / "out.npz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    with np.load(folder / "out.npz") as found:
        outputs = dict(found)
    return outputs, outputs.pop("providers").tolist()


CASES = {
    "a16w8": ("a16w8", SampleRequest(), 49.0),
    "int8": ("int8", SampleRequest(), 41.0),
    "two steps, two pictures": ("a16w8", SampleRequest(sigmas=(80.0, 1.4), batch=2), 44.0),
    "inpaint, label baked, bytes": ("int8", SampleRequest(task="inpaint", label=3, output="uint8"), 36.0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_npu_takes_all_of_it_and_draws_the_picture(export, psnr, tmp_path, case):
    precision, request, least_db = CASES[case]
    exported = export(request, OnnxOptions(precision=precision, ep="qnn"))
    inputs = exported.inputs()
    expected = exported.reference(inputs)
    outputs, ran = emulate(exported.path, inputs, tmp_path)
    assert ran == NPU
    (drawn,) = outputs.values()
    if drawn.dtype == np.uint8:
        expected, drawn = (picture / 127.5 - 1 for picture in (expected, drawn))
    assert np.std(expected) > 0.05
    assert psnr(expected, drawn) >= least_db


def test_steps_per_channel_are_refused(export, tmp_path):
    exported = export(options=OnnxOptions(precision="int8", ep="openvino"))
    with pytest.raises(RuntimeError, match=r"assigned to the default CPU EP|Failed to finalize"):
        emulate(exported.path, exported.inputs(), tmp_path)


def test_the_compiler_still_stumbles_over_shared_codes(export, psnr, tmp_path, monkeypatch):
    """When this fails, npu/split_readers.py can go."""
    monkeypatch.setattr(pairs, "part_readers", lambda _: None)
    exported = export()
    lowered = lower(exported.captured, OnnxOptions(precision="a16w8", ep="qnn"), tmp_path, lambda _: None)
    outputs, _ = emulate(tmp_path / lowered.files[0], exported.inputs(), tmp_path)
    assert psnr(exported.reference(exported.inputs()), outputs["image"]) < 35
