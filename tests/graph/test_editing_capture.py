"""Editing tasks as graphs: what is at the border, ranks that every backend takes, rewrites that leave the picture."""

from __future__ import annotations

import pytest
import torch

from cmexport.errors import UsageError
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve

BORDER = {
    "generate": ["noise", "renoise", "label"],
    "inpaint": ["noise", "renoise", "label", "image", "mask"],
    "colorize": ["noise", "renoise", "label", "image"],
    "superres": ["noise", "renoise", "label", "image"],
    "stroke": ["noise", "renoise", "label", "image"],
    "denoise": ["label", "image"],
}


def request_for(task, **fields):
    sigmas = (1.5,) if task == "denoise" else (80.0, 1.4)
    return SampleRequest(sigmas=sigmas, task=task, patch=4 if task == "superres" else None, **fields)


@pytest.mark.parametrize("task", BORDER)
def test_the_border_of_the_graph(adm_model, captured, task):
    found = captured(adm_model(), request_for(task, batch=2))
    assert [spec.name for spec in found.signature.inputs] == BORDER[task]
    shapes = {spec.name: spec.shape for spec in found.signature.inputs}
    assert shapes.get("renoise", (1, 2, 3, 8, 8)) == (1, 2, 3, 8, 8)
    assert shapes.get("image", (2, 3, 8, 8)) == (2, 3, 8, 8)
    assert shapes.get("mask", (2, 1, 8, 8)) == (2, 1, 8, 8)
    output = found.signature.output
    # No format lets an input and an output share a name.
    assert output.name == ("image" if task == "generate" else "edited")
    assert output.shape == (2, 3, 8, 8)
    placeholders = [n.name for n in to_module(found.program).graph.nodes if n.op == "placeholder"]
    assert placeholders == BORDER[task]


@pytest.mark.parametrize("task", BORDER)
def test_no_tensor_but_renoise_has_more_than_four_axes(adm_model, captured, task):
    module = to_module(captured(adm_model(), request_for(task, batch=2)).program)
    ranks = {n.name: n.meta["val"].dim() for n in module.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)}
    assert {name for name, rank in ranks.items() if rank > 4} <= {"renoise"}


@pytest.mark.parametrize("task", BORDER)
def test_rewrites_apply_to_every_task(adm_model, captured, task):
    original = captured(adm_model(), request_for(task, batch=2))
    rewritten = apply_rewrites(original, REWRITES)
    assert {r.name for r in rewritten.rewrites if r.applied} >= {"fold_constants", "tabulate_labels", "fold_scales"}
    inputs = original.examples(5)
    with torch.no_grad():
        before, after = (to_module(c.program)(**inputs) for c in (original, rewritten))
    before, after = ((x[0] if isinstance(x, tuple | list) else x) for x in (before, after))
    torch.testing.assert_close(after, before, rtol=0, atol=2e-5)


def test_example_masks_are_zeros_and_ones(adm_model, captured):
    mask = captured(adm_model(), request_for("inpaint", batch=2)).examples()["mask"]
    assert set(mask.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("fields", "words"), [({"task": "superres"}, "--patch"), ({"task": "x"}, "--task x")])
def test_the_border_refuses_what_the_sampler_would(adm_model, fields, words):
    model = adm_model()
    with pytest.raises(UsageError, match=words):
        resolve(model, SampleRequest(**fields))
