"""Networks that take something else than a class, and models of latents: toys, from a formula to a file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.networks import model_around, random_weights
from torch import nn
from torch.nn import functional as F

import cmexport
from cmexport.bench.devices.base import MeasureOptions
from cmexport.bench.jobs import prepare_job
from cmexport.errors import UsageError
from cmexport.exporting import ExportOptions, export_model
from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import Codec, Condition, SampleRequest, class_labels
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.metrics import compare
from cmexport.progress import Progress
from cmexport.runner import picture_of
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.signature import Choice, Input, Range, Tokens
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.target import OnnxTarget
from cmexport.verification import VerifyOptions

WORDS, LENGTH, WIDTH = 50, 7, 16


class Denoiser(nn.Module):
    """Convolutions, each modulated by one number or one row for every picture."""

    def __init__(self, names, width=24):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.time = nn.Linear(1, width)
        self.rows = nn.ModuleDict({name: nn.Linear(size, width) for name, size in names.items()})

    def forward(self, x, c_noise, **conditions):
        shift = self.time(0.01 * c_noise.to(x.dtype).reshape(-1, 1))
        for name, row in self.rows.items():
            shift = shift + row(conditions[name].reshape(len(x), -1))
        return self.last(F.silu(self.first(x) + shift[:, :, None, None]))


class Encoder(nn.Module):
    """Tokens (N, T) to one row (N, D)."""

    def __init__(self, words=WORDS):
        super().__init__()
        self.table, self.mix = nn.Embedding(words, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens):
        row = self.mix(self.table(tokens))
        return row.mean(dim=1) if row.dim() == 3 else row


DIFFICULTY = Condition("difficulty", Input("difficulty", (1,), law=Range(0.0, 1.0), layout=("N",)))
TOKENS = Input("tokens", (1, LENGTH), "int64", Tokens(WORDS, 48, 49), ("N", "T"))
PROMPT = Condition("embeddings", TOKENS, random_weights(Encoder(), 1))
LISTED = Condition("embeddings", Input("prompt", (1,), "int64", Choice(5), ("N",)), random_weights(Encoder(5), 2))
CODEC = Codec(
    random_weights(nn.Sequential(nn.Upsample(scale_factor=2.0), nn.Conv2d(3, 1, 3, padding=1)), 3), 1, 2, 0.5, 0.1
)


def model(*conditions, sizes, codec=None):
    network = random_weights(Denoiser(sizes), 0)
    return model_around(network, 8, None, conditions=conditions, codec=codec, clamp=codec is None)


CASES = {
    "scalar": (model(DIFFICULTY, sizes={"difficulty": 1}), ("noise", "difficulty")),
    "prompt": (model(PROMPT, sizes={"embeddings": WIDTH}), ("noise", "tokens")),
    "listed": (model(LISTED, sizes={"embeddings": WIDTH}), ("noise", "prompt")),
    "several": (
        model(PROMPT, DIFFICULTY, sizes={"embeddings": WIDTH, "difficulty": 1}, codec=CODEC),
        ("noise", "tokens", "difficulty"),
    ),
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("sigmas", [(80.0,), (80.0, 5.0, 1.0)], ids=["one step", "three"])
@pytest.mark.parametrize("case", CASES)
def test_the_file_draws_what_pytorch_draws(case, sigmas, batch, tmp_path):
    subject, names = CASES[case]
    sampler = resolve(subject, SampleRequest(sigmas=sigmas, batch=batch))
    later = ("renoise",) if len(sigmas) > 1 else ()
    assert sampler.signature.names == (names[0], *later, *names[1:])
    rewritten = apply_rewrites(capture(sampler), REWRITES)
    lowered = OnnxTarget().lower_one(rewritten, OnnxOptions(), tmp_path, lambda _: None)
    inputs = draw_inputs(sampler.signature, 4)
    with TorchRunner(sampler) as reference, OnnxRuntimeRunner(tmp_path / lowered.files[0]) as run:
        expected, found = (np.concatenate([picture_of(r(i)) for i in inputs]) for r in (reference, run))
    assert compare(expected, found).passes(100.0)
    side = 8 if subject.codec is None else 16
    assert expected.shape == (4, 3 if subject.codec is None else 1, side, side)


def test_a_step_is_the_formula():
    subject = CASES["several"][0]
    sampler = resolve(subject)
    given = sampler.signature.examples(3)
    first = sampler.plan.evaluations[0]
    x = first.sigma * given["noise"]
    row = PROMPT.encode(given["tokens"])
    answer = subject.network(
        first.c_in * x, torch.tensor([first.c_noise]), embeddings=row, difficulty=given["difficulty"]
    )
    latents = first.c_skip * x + first.c_out * answer
    picture = CODEC.decoder(latents / 0.5 + 0.1).clamp(-1, 1)
    torch.testing.assert_close(sampler.module()(**given), picture, rtol=0, atol=2e-5)


def test_of_a_closed_list_of_prompts_the_encoder_becomes_a_table():
    sampler = resolve(CASES["listed"][0])
    rewritten = apply_rewrites(capture(sampler), REWRITES)
    report = {r.name: r for r in rewritten.rewrites}["tabulate_labels"]
    assert report.applied == 1
    assert "5 x 24 table" in report.note
    assert not [name for name in rewritten.program.state_dict if "encoders" in name]
    open_prompt = apply_rewrites(capture(resolve(CASES["prompt"][0])), REWRITES)
    assert {r.name: r.applied for r in open_prompt.rewrites}["tabulate_labels"] == 0
    assert [name for name in open_prompt.program.state_dict if "encoders" in name]


def test_a_listed_prompt_is_baked_as_a_class_is():
    subject = CASES["listed"][0]
    sampler = resolve(subject, SampleRequest(label=3))
    assert sampler.signature.names == ("noise",)
    noise = sampler.signature.examples()["noise"]
    wanted = resolve(subject).module()(noise=noise, prompt=torch.tensor([3]))
    assert torch.equal(sampler.module()(noise=noise), wanted)


def test_weights_of_encoders_and_decoders_are_counted():
    subject = CASES["several"][0]
    parts = (subject.network, PROMPT.encode, CODEC.decoder)
    assert subject.parameters == sum(p.numel() for part in parts for p in part.parameters())
    assert subject.classes is None
    assert class_labels(None) == ()


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (SampleRequest(task="stroke"), "samples latents"),
        (SampleRequest(sigmas=(80.0, 1.0), sampler="heun"), "not for a model of latents"),
        (SampleRequest(label=1), "takes a prompt, no label"),
    ],
)
def test_what_a_latent_model_cannot_do_is_refused(request_, said):
    with pytest.raises(UsageError, match=said):
        resolve(CASES["several"][0], request_)


@pytest.mark.parametrize("case", ["several", "listed"])
def test_a_written_file_is_drawn_verified_and_benched_from_its_manifest_alone(case, tmp_path):
    subject, names = CASES[case]
    folder = export_model(subject, SampleRequest(), ExportOptions(verify=VerifyOptions(8)), tmp_path).folder
    sampler = resolve(subject)
    manifest = json.loads((folder / "manifest.json").read_text())
    laws = {"noise": "normal", "tokens": "tokens(7)", "difficulty": "range(0,1)", "prompt": "choice(5)"}
    stated = [(i["name"], i["law"], i["batch_axis"]) for i in manifest["graphs"][0]["signature"]["inputs"]]
    assert stated == [(name, laws[name], 0) for name in names]
    artifact = cmexport.open(folder)
    with TorchRunner(sampler) as reference:
        expected = [picture_of(reference(sampler.signature.draw(index))) for index in range(4)]
    np.testing.assert_allclose(artifact.sample(count=4), np.concatenate(expected), atol=1e-5)
    with pytest.warns(UserWarning, match="compared with the pictures in golden/ only"):
        assert artifact.verify().worst_db > 100
    job = prepare_job(folder, MeasureOptions(pictures=4), Progress())
    for index, run in enumerate(job.runs):
        for name, array in sampler.signature.draw(index).items():
            np.testing.assert_array_equal(run[name], array)
    if case == "several":
        given = {"tokens": np.array([48, 3, 49, 49, 49, 49, 49]), "difficulty": np.float32(0.5)}
        inputs = sampler.signature.draw() | sampler.signature.spread(given)
        with TorchRunner(sampler) as reference:
            np.testing.assert_allclose(artifact.sample(**given), picture_of(reference(inputs)), atol=1e-5)
