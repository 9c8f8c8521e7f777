"""`cmexport verify ARTIFACT --features F`, run as a user runs it."""

from __future__ import annotations

import contextlib
import io
import math
import sys

import numpy as np
import onnxruntime as ort
import pytest
import torch
from support.networks import SETTINGS

from cmexport.cli.main import main
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.parity.inputs import draw_inputs
from cmexport.signature import Signature, known

SMALL = ("--features", "jury_of_this_test:colours", "--count", 50, "--seed", 3)

JURY = """
import numpy as np

def colours(x):
    return x.mean(dim=(2, 3))

colours.mu, colours.cov = np.full(3, 0.1), np.eye(3)
colours.classify = lambda features: features

def unknowing(x):
    return x.mean(dim=(2, 3))

def stopped(x):
    raise KeyboardInterrupt

def magnified(x):
    return 1e4 * x.mean(dim=(2, 3))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "jury_of_this_test.py").write_text(JURY)
    sys.modules.pop("jury_of_this_test", None)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def half(tiny_state_file, cmexport, tmp_path_factory):
    """In half precision: near its reference, but not so near that there is nothing to measure."""
    out = tmp_path_factory.mktemp("half")
    outcome = cmexport("onnx", tiny_state_file, *SETTINGS, "-o", out, "--fp16", "--no-verify")
    assert outcome.code == 0, outcome.stderr
    return out / "busy-onnx-fp16"


@pytest.fixture(scope="module")
def tiny_state_file(tiny_checkpoint, tmp_path_factory):
    """Weights that make pictures differ: as initialized, the last layers hardly answer to the noise."""
    torch.manual_seed(0)
    state = torch.load(tiny_checkpoint, weights_only=True)
    path = tmp_path_factory.mktemp("busy") / "busy.pt"
    torch.save({k: v + 0.05 * torch.randn(v.shape) for k, v in state.items()}, path)
    return path


def runtime_colours(artifact, count, seed):
    """Mean colours of an artefact's pictures: ONNX Runtime's own session and the documented inputs, nothing else."""
    session = ort.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])
    border = Signature((known.noise((1, 3, 8, 8)), known.label(1, 3)), known.finished((1, 3, 8, 8)))
    runs = draw_inputs(border, count, seed)
    return np.stack([session.run(["image"], run)[0][0].mean(axis=(1, 2)) for run in runs]).astype(np.float64)


def distance(mean, covariance, other_mean, other_covariance):
    """In the form with complex roots, by way of the eigenvalues of the plain product."""
    roots = np.sqrt(np.linalg.eigvals(covariance @ other_covariance).astype(complex)).real.sum()
    return ((mean - other_mean) ** 2).sum() + np.trace(covariance) + np.trace(other_covariance) - 2.0 * roots


def test_what_is_printed_is_what_a_plain_script_finds(half, cmexport):
    outcome = cmexport("verify", half, *SMALL, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr == ""
    found = outcome.json["distribution"]
    colours = runtime_colours(half, 50, 3)
    real = distance(colours.mean(0), np.cov(colours.T), np.full(3, 0.1), np.eye(3))
    assert found["distances"]["artifact_real"]["value"] == pytest.approx(real, rel=1e-4)
    assert found["agreement"]["artifact_asked"] == np.mean(colours.argmax(1) == np.arange(50) % 3)
    assert (found["pictures"], found["seed"], found["features"], found["passed"]) == (50, 3, 3, True)
    near = found["distances"]["artifact_reference"]
    assert 0.0 < near["value"] < 1e-3 * found["distances"]["halves"]
    assert near["low"] <= near["value"] <= near["high"]
    assert 60.0 < found["fidelity"]["min_db"] < found["fidelity"]["mean_db"] < math.inf
    other = cmexport("verify", half, *SMALL[:4], "--seed", 1000, "--json").json["distribution"]
    assert other["distances"]["artifact_real"]["value"] != pytest.approx(real, rel=1e-4)

    # The reference's batch changes nothing but the speed.
    again = cmexport("verify", half, *SMALL, "--batch", 7, "--json").json["distribution"]
    assert again["distances"]["artifact_real"] == found["distances"]["artifact_real"]
    assert again["distances"]["reference_real"]["value"] == pytest.approx(
        found["distances"]["reference_real"]["value"], rel=1e-5
    )


def test_for_people(half, cmexport, folder):
    shown = " ".join(cmexport("verify", half, *SMALL).stdout.split())
    for words in (
        "50 pictures (seeds 3 to 52)",
        "PSNR: mean",
        "N = 50",
        "95 % interval",
        "own two halves",
        "Same class",
    ):
        assert words in shown
    shown = " ".join(
        cmexport("verify", half, "--features", "jury_of_this_test:unknowing", "--count", 40).stdout.split()
    )
    assert "--statistics" in shown
    assert "Same class" not in shown
    np.savez(folder / "real.npz", mu=np.zeros(3), cov=np.eye(3))
    unknowing = ("--features", "jury_of_this_test:unknowing", "--statistics", "real.npz", "--count", 40)
    assert "artefact to real pictures" in cmexport("verify", half, *unknowing).stdout


def test_a_distance_can_fail(half, cmexport):
    near = ("--features", "jury_of_this_test:magnified", "--count", 40)
    value = cmexport("verify", half, *near, "--json").json["distribution"]["distances"]["artifact_reference"]["value"]
    assert cmexport("verify", half, *near, "--max-distance", value * 1.01).code == 0
    outcome = cmexport("verify", half, *near, "--max-distance", value * 0.99, "--json")
    assert outcome.code == 4
    assert "--max-distance" in outcome.stderr
    assert outcome.json["distribution"]["passed"] is False


def test_other_weights_fail_at_the_gate(half, tiny_state_file, cmexport, folder):
    state = torch.load(tiny_state_file, weights_only=True)
    state["out.2.bias"] = state["out.2.bias"] + 0.2
    torch.save(state, folder / "other.pt")
    outcome = cmexport("verify", half, "--against", folder / "other.pt", *SMALL, "--json")
    assert outcome.code == 4
    assert "mean PSNR" in outcome.stderr
    found = outcome.json["distribution"]
    assert found["fidelity"]["below_gate"] == 1.0
    assert found["distances"]["artifact_reference"]["low"] > 1e-3


def test_nan_fails_and_is_counted(half, cmexport, monkeypatch):
    drawn = OnnxRuntimeRunner.__call__

    def broken(runner, inputs):
        found = drawn(runner, inputs)
        return {"image": np.where(inputs["label"][0] == 1, np.float32(math.nan), found["image"])}

    monkeypatch.setattr(OnnxRuntimeRunner, "__call__", broken)
    outcome = cmexport("verify", half, *SMALL, "--max-distance", 1, "--json")
    assert outcome.code == 4, outcome.stderr
    assert "17 of 50 pictures hold NaN or Inf" in outcome.stderr
    assert outcome.json["distribution"]["distances"] is None
    assert "the first of seed 4" in cmexport("verify", half, *SMALL).stdout


def test_each_graph_of_several_is_compared(tiny_state_file, cmexport, folder):
    tasks = ("--task", "generate,inpaint", "--steps", 1, "--batch", 2, "--output", "uint8", "--rewrites", "none")
    outcome = cmexport("onnx", tiny_state_file, *SETTINGS, "-o", folder / "out", "--no-verify", *tasks)
    assert outcome.code == 0, outcome.stderr
    artifact = folder / "out" / "busy-onnx-fp32"
    found = cmexport("verify", artifact, *SMALL, "--json")
    assert found.code == 0, found.stderr
    assert list(found.json["functions"]) == ["generate", "inpaint"]
    assert all(f["distances"]["artifact_reference"]["value"] < 1e-4 for f in found.json["functions"].values())
    # The gate of pictures in bytes.
    assert found.json["functions"]["inpaint"]["fidelity"]["gate_db"] == pytest.approx(75.05, abs=0.01)
    alone = cmexport("verify", artifact, *SMALL, "--task", "inpaint", "--json")
    assert alone.json["distribution"]["distances"] == found.json["functions"]["inpaint"]["distances"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((*SMALL, "--blame"), 2, "--blame"),
        ((*SMALL, "--seeds", 8), 2, "--count"),
        ((*SMALL, "--inputs", "x.npz", "--expected", "y.npz"), 2, "--inputs"),
        ((*SMALL[:2], "--count", 39), 2, "at least 40"),
        ((*SMALL, "--batch", 0), 2, "--batch"),
        ((*SMALL[:4], "--seed", -1), 2, "--seed"),
        ((*SMALL, "--max-distance", -0.1), 2, "--max-distance"),
        ((*SMALL, "--max-distance", "nan"), 2, "--max-distance"),
        (("--count", 50), 2, "--count belongs to --features"),
        (("--max-distance", 0.0), 2, "--max-distance belongs to --features"),
        ((*SMALL, "--task", "inpaint"), 2, "inpaint"),
        ((*SMALL, "--statistics", "none.npz"), 3, "none.npz"),
        ((*SMALL, "--against", "none.pt"), 3, "none.pt"),
        (("--features", "none.pt"), 3, "none.pt"),
        (("--features", "no_such_module_here:f"), 3, "no_such_module_here"),
    ],
)
def test_refusals(half, cmexport, arguments, code, words):
    outcome = cmexport("verify", half, *arguments)
    assert outcome.code == code, outcome.stderr
    assert words in outcome.stderr
    assert outcome.stdout == ""
    assert len(outcome.stderr.strip().splitlines()) <= 3


def test_inception_that_is_not_at_hand_is_one_sentence(half, cmexport, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    outcome = cmexport("verify", half, "--features", "inception")
    assert outcome.code == 5
    assert "pip install 'torchmetrics[image]'" in outcome.stderr


def test_ctrl_c_prints_no_result(half, cmexport):
    outcome = cmexport("verify", half, "--features", "jury_of_this_test:stopped", "--json")
    assert outcome.code == 130
    assert outcome.stdout == ""
    assert "interrupted" in outcome.stderr


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_how_far_it_is(half, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    stderr = Terminal()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stderr):
        assert main(["verify", str(half), *map(str, SMALL)]) == 0
    for words in ("draw and judge", "/50", "pictures/s", "distances"):
        assert words in stderr.getvalue()
