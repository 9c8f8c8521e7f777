"""Latent text-to-image models as ONNX files, in every form of the prompt, against diffusers' own pipeline."""

from __future__ import annotations

import pytest
from support.latent_forms import FORMS

from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.runner import picture_of
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.target import OnnxTarget


@pytest.mark.parametrize("name", FORMS)
def test_every_form_draws_what_diffusers_draws(name, tmp_path):
    form, target, options = FORMS[name], OnnxTarget(), OnnxOptions()
    sampler = form.sampler()
    inputs = form.inputs(sampler)
    captured = apply_rewrites(capture(sampler), [*REWRITES, *target.rewrites_for(options)])
    lowered = target.lower_one(captured, options, tmp_path, lambda _: None)
    assert {i.name for i in lowered.signature.inputs} == set(inputs)
    with OnnxRuntimeRunner(tmp_path / lowered.files[0]) as run:
        form.check(picture_of(run(inputs)), form.expected(inputs))
