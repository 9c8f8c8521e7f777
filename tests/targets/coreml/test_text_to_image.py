"""Latent text-to-image models as packages, in every form of the prompt, against diffusers' own pipeline."""

from __future__ import annotations

import pytest
from support.latent_forms import FORMS, Form

from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.runner import picture_of
from cmexport.targets.coreml.info import CoreMlOptions
from cmexport.targets.coreml.runner import ExecutorRunner
from cmexport.targets.coreml.target import CoreMlTarget


def written(sampler, folder, precision="fp32"):
    target, options = CoreMlTarget(), CoreMlOptions(precision=precision)
    captured = apply_rewrites(capture(sampler), [*REWRITES, *target.rewrites_for(options)])
    return target.lower_one(captured, options, folder, lambda _: None)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_draws_what_diffusers_draws(name, tmp_path):
    form = FORMS[name]
    sampler = form.sampler()
    inputs = form.inputs(sampler)
    lowered = written(sampler, tmp_path)
    assert {i.name for i in lowered.signature.inputs} == set(inputs)
    assert {i.dtype for i in lowered.signature.inputs} <= {"float32", "int32"}
    with ExecutorRunner(tmp_path / "model.mlpackage") as run:
        form.check(picture_of(run(inputs)), form.expected(inputs))


def test_half_precision_keeps_latents_in_float32(ops_of, tmp_path):
    lowered = written(Form().sampler(), tmp_path, "fp16")
    float16, float32 = 10, 11
    found = ops_of(tmp_path / "model.mlpackage")
    latents = [(kind, types) for kind, shapes, types in found if (1, 4, 8, 8) in shapes and kind != "cast"]
    made = [(kind, types) for kind, types in latents if kind in ("conv", "add", "sub", "mul")]
    assert sum(kind == "conv" for kind, _ in made) == 2
    assert len(made) > 4
    assert all(types == [float32] for _, types in made)
    # One convolution, sum, norm and activation of each evaluation before them, no more.
    assert sum(types == [float32] for kind, _, types in found if kind == "silu") == 2
    assert sum(types == [float32] for kind, _, types in found if kind == "conv") == 2
    kinds = {kind: types for kind, _, types in found}
    assert kinds["linear"] == kinds["softmax"] == kinds["gather"] == [float16]
    assert lowered.precision_plan["latents"] == "float32"
