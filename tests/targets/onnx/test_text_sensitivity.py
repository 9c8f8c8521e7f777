"""The command on models with prompts: a graph that follows them too weakly is rejected, however close its pictures."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.networks import NOISE, model_around, random_weights
from torch import nn
from torch.nn import functional as F

import cmexport.exporting
from cmexport.artifact import read_manifest
from cmexport.cli.main import main
from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module
from cmexport.model import Condition
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.parity.gates import FLOOR_DB, GATES_DB, gate_of
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.metrics import compare
from cmexport.quantize.weights import with_weights
from cmexport.report.checking import _ladder
from cmexport.report.gathering import FoundArtifact
from cmexport.report.sections.parity import _remarks
from cmexport.runner import picture_of
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.signature import Choice, Input, Tokens
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.target import OnnxTarget
from cmexport.verification import Reference, yardstick_for

TOKENS = Input("tokens", (1, 7), "int64", Tokens(50, 48, 49), ("N", "T"))
LISTED = Input("prompt", (1,), "int64", Choice(5, worded=True), ("N",))


class Crossed(nn.Module):
    """Convolutions around one cross-attention on the words, whose share of the pictures is `strength`."""

    def __init__(self, strength):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 3, 3, padding=1)
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32, bias=False) for _ in range(4))
        self.strength = strength

    def forward(self, x, c_noise, words):
        x = F.silu(self.first(x) + 1e-4 * c_noise.to(x.dtype))
        pixels = x.flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(self.q(pixels)[:, None], self.k(words)[:, None], self.v(words)[:, None])
        return self.last(x + self.strength * self.out(mixed[:, 0]).transpose(1, 2).reshape(x.shape))


class Words(nn.Module):
    def __init__(self, count, rows):
        super().__init__()
        self.table, self.rows = nn.Embedding(count, 32 * rows), rows

    def forward(self, words):
        return self.table(words).reshape(len(words), -1, 32)


def model(strength=1.0, words=TOKENS, **fields):
    encoder = Words(50, 1) if words is TOKENS else Words(5, 3)
    # A vocabulary of unit vectors: scaled by their number of elements, words would hardly differ.
    encoder.table.weight.data = torch.randn(encoder.table.weight.shape, generator=torch.Generator().manual_seed(1))
    condition = Condition("words", words, encoder.eval().requires_grad_(False))
    return model_around(random_weights(Crossed(strength), 0), 8, None, conditions=(condition,), **fields)


def export(patch, tmp_path, subject, *arguments, reacting=1.0, capsys=None):
    """Run the command on `subject`; the file's cross-attention gives `reacting` times what it should."""
    real = cmexport.exporting.apply_rewrites

    def weakened(captured, *others):
        rewritten = real(captured, *others)
        if reacting == 1.0:
            return rewritten
        module = to_module(rewritten.program)
        # Whatever the rewrites call it: the largest change is asked for where the pictures' own part has no say.
        (name,) = (n for n, _ in module.named_parameters() if n.endswith("network.out.weight"))
        return with_weights(rewritten, {name: reacting * module.get_parameter(name)})

    patch.setattr("cmexport.exporting.apply_rewrites", weakened)
    patch.setattr("cmexport.cli.exporting.open_checkpoint", lambda *_a, **_k: subject)
    code = main(["onnx", "toy.pt", "-o", str(tmp_path), "--seeds", "16", *arguments])
    (folder,) = tmp_path.iterdir()
    return code, folder, json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("words", [TOKENS, LISTED], ids=["tokens", "closed list"])
def test_a_graph_that_follows_its_prompts_passes(words, monkeypatch, tmp_path, capsys):
    code, folder, manifest = export(monkeypatch, tmp_path, model(words=words))
    assert code == 0
    found = manifest["parity"]["rungs"][-1]["sensitivity"]
    assert found["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert (found["pairs"], found["low"], found["high"], found["passed"]) == (16, 0.95, 1.05, True)
    artifact = FoundArtifact(folder, read_manifest(folder), None)
    assert list(_remarks(artifact)) == ["passed: text sensitivity 1.000, gate 0.95 to 1.05, over 16 pairs of prompts"]
    assert not list(_ladder(artifact))
    *others, shipped = artifact.manifest.parity.rungs
    weak = shipped.model_copy(update={"sensitivity": shipped.sensitivity.model_copy(update={"ratio": 0.5})})
    parity = artifact.manifest.parity.model_copy(update={"rungs": (*others, weak)})
    (said,) = _ladder(replace(artifact, manifest=artifact.manifest.model_copy(update={"parity": parity})))
    assert "recorded as passed" in said
    assert "Over 16 pairs of prompts: text sensitivity 1.000, gate 0.95 to 1.05" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("precision", "reacting", "gate"),
    [
        ("fp32", 0.0, "0.95 to 1.05"),
        ("w8", 0.0, "0.9 to 1.1"),
        ("w8", 0.5, "0.9 to 1.1"),
        ("fp32", 0.5, "0.95 to 1.05"),
    ],
)
def test_a_graph_whose_cross_attention_is_cut_or_weak_is_rejected(
    precision, reacting, gate, monkeypatch, tmp_path, capsys
):
    # Words that change so little that w8's gate for pictures is met without them.
    subject = model(strength=2e-3)
    if precision == "fp32":
        monkeypatch.setattr("cmexport.verification.gate_of", lambda *_: 30.0)
    code, folder, manifest = export(monkeypatch, tmp_path, subject, "--precision", precision, reacting=reacting)
    assert code == 4
    assert folder.name.endswith(".rejected")
    last = manifest["parity"]["rungs"][-1]
    assert last["difference"]["mean_db"] >= manifest["parity"]["gate_db"]
    assert last["sensitivity"]["ratio"] == pytest.approx(reacting, abs=0.05)
    how = "hardly follow the prompt" if reacting == 0.0 else "follow the prompt too weakly"
    said = " ".join(capsys.readouterr().err.split())
    assert how in said
    assert f"gate {gate}" in said


AMPLIFYING = replace(NOISE, sigma_data=20.0)
"""c_out(80) = 19.4: what the network is off by is multiplied."""


def rounded_by_hand(module, bits):
    """To nearest per output channel, layers of 1024 weights or more."""
    module, top = copy.deepcopy(module), 2 ** (bits - 1) - 1
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.numel() >= 1024:
            scale = layer.weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (layer.weight.dim() - 1)) / top
            layer.weight.data = (layer.weight / scale).round() * scale
    return module


@pytest.mark.parametrize(("precision", "bits"), [("w6", 6), ("a16w8", 8)])
def test_where_rounding_is_amplified_the_gate_is_what_the_precision_plainly_reaches(precision, bits):
    sampler = resolve(model(noise=AMPLIFYING))
    assert sampler.plan.evaluations[0].c_out > 19
    yardstick = yardstick_for(Reference(sampler, capture(sampler)), precision)
    with torch.no_grad(), yardstick.open() as plain:
        modules = (sampler.module(), rounded_by_hand(sampler.module(), bits))
        inputs = [sampler.signature.examples(i) for i in range(16)]
        exact, wanted = (torch.cat([module(**given) for given in inputs]).numpy() for module in modules)
        found = np.concatenate([picture_of(plain({k: v.numpy() for k, v in given.items()})) for given in inputs])
    reached = compare(exact, wanted).mean_db
    assert reached < GATES_DB[precision]
    gate, origin = yardstick.gate(GATES_DB[precision], compare(exact, found), in_bytes=False)
    assert gate == pytest.approx(reached, abs=0.5)
    assert origin == f"plain {precision} in PyTorch"


def test_a_measured_gate_is_printed_and_recorded(monkeypatch, tmp_path, capsys):
    subject = model(noise=replace(NOISE, sigma_data=10.0))
    _, folder, manifest = export(monkeypatch, tmp_path, subject, "--w4")
    gate = manifest["parity"]["gate_db"]
    assert FLOOR_DB < gate < GATES_DB["w4"]
    assert manifest["parity"]["gate_origin"] == manifest["numerics"]["gate_origin"] == "plain w4 in PyTorch"
    assert f"Gate {gate:.4g} dB: plain w4 in PyTorch" in " ".join(capsys.readouterr().out.split())
    read = read_manifest(folder)
    assert gate_of(read.precision, read.numerics) == gate
    assert not list(_ladder(FoundArtifact(folder, read, None)))


def test_other_models_keep_the_absolute_gate():
    sampler = resolve(model())
    reference = Reference(sampler, capture(sampler))
    assert all(yardstick_for(reference, precision) is None for precision in GATES_DB)


def test_in_half_precision_the_answer_of_the_network_stays_wide_where_it_is_multiplied(tmp_path):
    """c_out is 19.4; rounding an answer to 11 bits would cost 20 log10(19.4) = 26 dB more than elsewhere."""
    sampler = resolve(model(noise=AMPLIFYING))
    graph = apply_rewrites(capture(sampler), REWRITES)
    found = {}
    (tmp_path / "wide").mkdir()
    (tmp_path / "half").mkdir()
    for name, subject in {"wide": graph, "half": replace(graph, amplification=1.0)}.items():
        lowered = OnnxTarget().lower_one(subject, OnnxOptions(precision="fp16"), tmp_path / name, lambda _: None)
        inputs = draw_inputs(sampler.signature, 16)
        with TorchRunner(sampler) as reference, OnnxRuntimeRunner(tmp_path / name / lowered.files[0]) as run:
            expected, drawn = (np.concatenate([picture_of(r(i)) for i in inputs]) for r in (reference, run))
        found[name] = compare(expected, drawn).mean_db
    assert found["wide"] > found["half"] + 3
