"""The promise of every rewrite: on whatever architecture comes, the picture stays within 1e-6 relative.

The oracle evaluates the sampler's equations in float64 with `network.double()`; the rewritten program, whose constants
are stored in float32, is evaluated in float64 as well, so that only the rewrites' own errors show.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import SampleRequest

LIMIT = 1e-6
TWO_STEPS = (80.0, 1.3823680064)


@st.composite
def architectures(draw):
    """Fields of an ADM UNet; groups of 32 channels need a base width of 32."""
    mult = draw(st.sampled_from([(1,), (1, 2), (2, 1)]))
    factors = [2**level for level in range(len(mult))]
    resblock = draw(st.booleans())
    return {
        "channel_mult": mult,
        "num_res_blocks": draw(st.sampled_from([1, 1, 2])),
        "attention_downsampling": tuple(f for f in factors if draw(st.booleans())),
        "num_head_channels": draw(st.sampled_from([-1, 8, 16, 32])),
        "num_heads": draw(st.sampled_from([1, 2, 4])),
        "qkv_order": draw(st.sampled_from(["thirds", "head_major"])),
        "use_scale_shift_norm": draw(st.booleans()),
        "resblock_updown": resblock,
        "conv_resample": True if resblock else draw(st.booleans()),
        "num_classes": draw(st.sampled_from([None, 2, 10])),
        "seed": draw(st.integers(0, 99)),
    }


@st.composite
def requests(draw, classes):
    label = draw(st.sampled_from([None, None, 0, 1])) if classes else None
    return SampleRequest(
        sigmas=draw(st.sampled_from([(), (), (), TWO_STEPS])),
        label=label,
        batch=draw(st.sampled_from([1, 1, 2])),
        output=draw(st.sampled_from(["float", "float", "uint8"])),
    )


def check(model, request, rewrites, captured, exact_picture, relative_error):
    graph = captured(model, request)
    inputs = graph.examples(7)
    expected = exact_picture(model, request, inputs)
    rewritten = apply_rewrites(graph, rewrites)
    assert relative_error(rewritten, expected, inputs) <= LIMIT
    # The program itself, in float32 and with its finishing operations, as ONNX Runtime will get it.
    (image,) = (rewritten.program.module(check_guards=False)(**inputs),)
    wanted = expected.clamp(-1.0, 1.0)
    if request.output == "uint8":
        wanted = ((wanted + 1.0) * 127.5).permute(0, 2, 3, 1)
        assert (image.double() - wanted).abs().max() <= 0.51
    else:
        torch.testing.assert_close(image.double(), wanted, rtol=0, atol=1e-4)
    return rewritten


# Random architectures every time would make the run's length random too; widen max_examples to search for more.
@settings(max_examples=7, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_all_rewrites_on_random_architectures(data, adm_model, captured, exact_picture, relative_error):
    fields = data.draw(architectures())
    request = data.draw(requests(fields["num_classes"]))
    check(adm_model(fresh=True, **fields), request, REWRITES, captured, exact_picture, relative_error)


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_subset_of_rewrites_on_random_architectures(data, adm_model, captured, exact_picture, relative_error):
    fields = data.draw(architectures())
    request = data.draw(requests(fields["num_classes"]))
    subset = [rewrite for rewrite in REWRITES if data.draw(st.booleans(), label=rewrite.name)]
    check(adm_model(fresh=True, **fields), request, subset, captured, exact_picture, relative_error)


ALONE = {
    "scale-shift, thirds, label input": ({}, SampleRequest()),
    "additive, head-major, unconditional, two steps": (
        {
            "use_scale_shift_norm": False,
            "qkv_order": "head_major",
            "resblock_updown": False,
            "num_classes": None,
            "channel_mult": (1,),
            "attention_downsampling": (),
        },
        SampleRequest(sigmas=TWO_STEPS, batch=2),
    ),
}


@pytest.fixture(scope="module")
def alone(adm_model, captured, exact_picture):
    """Each case captured once; applying rewrites leaves the capture as it is."""
    cases = {}
    for name, (fields, request) in ALONE.items():
        model = adm_model(**fields)
        graph = captured(model, request)
        inputs = graph.examples(7)
        cases[name] = graph, inputs, exact_picture(model, request, inputs)
    return cases


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda r: r.name)
@pytest.mark.parametrize("case", ALONE)
def test_each_rewrite_alone(alone, case, rewrite, relative_error):
    graph, inputs, expected = alone[case]
    rewritten = apply_rewrites(graph, [rewrite])
    (report,) = rewritten.rewrites
    assert relative_error(rewritten, expected, inputs) <= LIMIT
    assert report.name == rewrite.name
    idle = {("merge_affine_norm", "additive"), ("tabulate_labels", "additive")}
    assert (report.applied == 0) == ((rewrite.name, case.split(",")[0]) in idle)


@pytest.mark.parametrize(
    ("fields", "request_"),
    [
        ({}, SampleRequest()),
        ({"resnet_time_scale_shift": "scale_shift", "classes": 4}, SampleRequest()),
        ({"classes": 4}, SampleRequest(batch=2)),
        ({"resnet_time_scale_shift": "scale_shift", "classes": 4}, SampleRequest(label=2, sigmas=TWO_STEPS)),
        (
            {
                "resnet_time_scale_shift": "scale_shift",
                "downsample_type": "resnet",
                "upsample_type": "resnet",
                "add_attention": True,
                "norm_eps": 1e-6,
            },
            SampleRequest(batch=2),
        ),
    ],
    ids=["default", "scale_shift, classes", "default, classes, batch 2", "baked label, two steps", "batch 2"],
)
def test_all_rewrites_on_diffusers_networks(diffusers_model, captured, exact_picture, relative_error, fields, request_):
    model = diffusers_model(**fields)
    rewritten = check(model, request_, REWRITES, captured, exact_picture, relative_error)
    applied = {r.name: r.applied for r in rewritten.rewrites}
    assert applied["fold_constants"] > 0
    assert applied["fold_scales"] >= 2
    assert applied["fold_attention"] > 0
    assert (applied["merge_affine_norm"] > 0) == ("resnet_time_scale_shift" in fields)
    assert (applied["tabulate_labels"] > 0) == ("classes" in fields and request_.label is None)
