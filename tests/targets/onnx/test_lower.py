"""Written files in real ONNX Runtime, in every form and precision, against the PyTorch sampler."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cmexport.errors import BackendError, UsageError
from cmexport.model import SampleRequest
from cmexport.onnxfile import saving
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.onnxfile.saving import stamp
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.lower import lower
from cmexport.targets.onnx.providers import OPSET, PROFILES
from cmexport.targets.onnx.rewrites import chosen_rewrites

GATES_DB = {"fp32": 100.0, "fp16": 60.0}
TWO_STEPS = (80.0, 1.3823680064)
# One level and the middle block's attention only: half a second to lower.
SMALL = {"channel_mult": (1,), "attention_downsampling": (), "num_head_channels": 16}

CASES = {
    "batch 2": (SampleRequest(batch=2), {}),
    "bytes": (SampleRequest(batch=2, output="uint8"), SMALL),
    "baked label": (SampleRequest(label=7), SMALL),
    "two steps": (SampleRequest(sigmas=TWO_STEPS), SMALL),
    "two steps, batch 2, bytes, baked": (SampleRequest(sigmas=TWO_STEPS, batch=2, label=1, output="uint8"), SMALL),
    "additive, plain resampling, head-major, no labels": (
        SampleRequest(),
        {"use_scale_shift_norm": False, "resblock_updown": False, "qkv_order": "head_major", "num_classes": None},
    ),
}


def check(exported, precision, psnr):
    onnx.checker.check_model(str(exported.path), full_check=True)
    inputs = exported.inputs()
    expected = exported.reference(inputs)
    assert np.std(expected.astype(np.float64)) > 0.05
    for optimization in ("none", "all"):
        image = exported.run(inputs, optimization)
        assert image.dtype == expected.dtype
        if expected.dtype == np.uint8:
            levels = np.abs(image.astype(int) - expected.astype(int))
            assert levels.max() <= 1
            # One byte of 384 may round the other way.
            assert levels.mean() < (0.003 if precision == "fp32" else 0.1)
        else:
            assert psnr(expected, image) >= GATES_DB[precision], optimization


# The two forms that exist; all other profiles must give one of their files.
@pytest.mark.parametrize("precision", GATES_DB)
@pytest.mark.parametrize("ep", ["cpu", "openvino"])
def test_both_forms_give_the_picture(export, psnr, ep, precision):
    exported = export(options=OnnxOptions(precision=precision, ep=ep), **SMALL)
    check(exported, precision, psnr)
    domains = {opset.domain: opset.version for opset in exported.proto.opset_import}
    used = {node.domain for node in exported.proto.graph.node}
    if PROFILES[ep].contrib_ops:
        assert used == {"", "com.microsoft"}
        assert domains == {"": OPSET, "com.microsoft": 1}
    else:
        assert used == {""}
        assert domains == {"": OPSET}
    assert not exported.proto.functions


@pytest.mark.parametrize("ep", sorted(set(PROFILES) - {"cpu", "openvino"}))
def test_every_profile_writes_one_of_the_two_forms(export, ep):
    precision = "fp16" if ep == "nnapi" else "fp32"
    exported = export(options=OnnxOptions(precision=precision, ep=ep), **SMALL)
    form = "cpu" if PROFILES[ep].contrib_ops else "openvino"
    same = export(options=OnnxOptions(precision=precision, ep=form), **SMALL)
    if ep == "web":
        # Its label table is split in groups that WebGPU's buffers allow: see test_buffers.py.
        assert max(len(node.output) for node in exported.proto.graph.node) <= 7
        others = [
            [n.op_type for n in e.proto.graph.node if n.op_type not in ("Split", "Concat")] for e in (exported, same)
        ]
        assert others[0] == others[1]
    elif PROFILES[ep].contrib_ops and not PROFILES[ep].own_kernels:
        # The processor's own kernels have forms for large convolutions: here they only name values otherwise.
        nodes = [[n.op_type for n in e.proto.graph.node] for e in (exported, same)]
        assert nodes[0] == nodes[1]
    else:
        assert exported.path.read_bytes() == same.path.read_bytes()
    assert exported.lowered.session["ep"] == ep
    assert exported.lowered.session["providers"] == [PROFILES[ep].provider]


@pytest.mark.parametrize(("ep", "precision"), [("cpu", "fp32"), ("cpu", "fp16"), ("openvino", "fp32")])
@pytest.mark.parametrize("case", CASES)
def test_every_request_gives_the_picture(export, psnr, case, ep, precision):
    request, fields = CASES[case]
    check(export(request, OnnxOptions(precision=precision, ep=ep), **fields), precision, psnr)


@pytest.mark.parametrize("precision", GATES_DB)
def test_without_rewrites_the_picture_is_the_same(export, psnr, precision):
    exported = export(options=OnnxOptions(precision=precision, rewrites="none"), **SMALL)
    check(exported, precision, psnr)
    assert exported.lowered.rewrites == ()
    # The translator folds the sinusoid by itself, the time MLP and the projections it leaves.
    assert "Gemm" in {node.op_type for node in exported.proto.graph.node}
    assert {node.domain for node in exported.proto.graph.node} == {""}


def test_the_two_forms_differ_where_they_should(export):
    contrib = {n.op_type for n in export(**SMALL).proto.graph.node}
    plain = {n.op_type for n in export(options=OnnxOptions(ep="openvino"), **SMALL).proto.graph.node}
    assert {"Attention", "QuickGelu"} <= contrib
    assert contrib.isdisjoint({"Softmax", "Sigmoid"})
    assert {"Softmax", "Sigmoid"} <= plain
    assert not {"Sin", "Cos", "Exp", "Gemm"} & (contrib | plain)


FLOAT, INT64, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.UINT8


def border(values):
    return [
        (v.name, v.type.tensor_type.elem_type, tuple(d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values
    ]


@pytest.mark.parametrize("precision", GATES_DB)
def test_names_types_and_shapes_at_the_border(export, precision):
    graph = export(SampleRequest(sigmas=TWO_STEPS), OnnxOptions(precision=precision), **SMALL).proto.graph
    assert border(graph.input) == [
        ("noise", FLOAT, (1, 3, 8, 8)),
        ("renoise", FLOAT, (1, 1, 3, 8, 8)),
        ("label", INT64, (1,)),
    ]
    assert border(graph.output) == [("image", FLOAT, (1, 3, 8, 8))]
    request, fields = CASES["bytes"]
    graph = export(request, OnnxOptions(precision=precision), **fields).proto.graph
    assert border(graph.input) == [("noise", FLOAT, (2, 3, 8, 8)), ("label", INT64, (2,))]
    assert border(graph.output) == [("image", UINT8, (2, 8, 8, 3))]


def test_the_file_tells_nothing_of_this_machine(export):
    exported = export(**SMALL)
    proto = exported.proto
    assert proto.producer_name == "cmexport"
    assert not proto.metadata_props
    assert not any(n.metadata_props or n.doc_string for n in proto.graph.node)
    content = exported.path.read_bytes()
    for trace_of_us in (b"/site-packages/", b"adm_unet.py", b"pkg.torch", b"forward"):
        assert trace_of_us not in content


def test_node_and_value_names_are_unique(export):
    for precision in GATES_DB:
        graph = export(options=OnnxOptions(precision=precision), **SMALL).proto.graph
        nodes = [n.name for n in graph.node]
        values = [o for n in graph.node for o in n.output] + [i.name for i in graph.initializer]
        values += [i.name for i in graph.input]
        assert all(nodes)
        assert len(set(nodes)) == len(nodes)
        assert len(set(values)) == len(values)


def test_tensors_have_rank_4_at_most(export):
    for ep in ("cpu", "openvino"):
        graph = export(SampleRequest(batch=2), OnnxOptions(ep=ep)).proto.graph
        shapes = [v.type.tensor_type.shape.dim for v in (*graph.value_info, *graph.input, *graph.output)]
        assert len(shapes) > 100
        assert max(len(s) for s in shapes) == 4
        assert max(len(i.dims) for i in graph.initializer) == 4


@pytest.mark.parametrize("ep", ["cpu", "openvino"])
def test_two_steps_store_weights_once(export, ep):
    exported = export(SampleRequest(sigmas=TWO_STEPS), OnnxOptions(ep=ep), **SMALL)
    large = [i for i in exported.proto.graph.initializer if len(i.raw_data) > 4096]
    assert len({(tuple(i.dims), i.raw_data) for i in large}) == len(large) > 12
    once = export(options=OnnxOptions(ep=ep), **SMALL)
    assert exported.path.stat().st_size < 1.2 * once.path.stat().st_size


class Tokens(nn.Module):
    """Linear layers of 2048 weights each, which the translator transposes for every use."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inside = nn.Linear(8, 256)
        self.outside = nn.Linear(256, 8)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) / 4

    def forward(self, x, c_noise, label=None):
        return x + self.outside(torch.tanh(self.inside(x + c_noise.to(x.dtype) / 1000)))


@pytest.fixture(scope="module")
def tokens():
    return Tokens().eval().requires_grad_(False)


@pytest.mark.parametrize("ep", ["cpu", "openvino"])
def test_two_steps_store_linear_weights_once(export, psnr, tokens, ep):
    exported = export(SampleRequest(sigmas=TWO_STEPS, label=0), OnnxOptions(ep=ep), network=tokens)
    check(exported, "fp32", psnr)
    assert [sorted(i.dims) for i in exported.proto.graph.initializer if len(i.dims) == 2] == [[8, 256], [8, 256]]


def test_rewrites_are_named_across_both_registries(export, tmp_path):
    """`--rewrites` names general rewrites and this target's own in one list."""
    graph = export(**SMALL).captured
    lowered = lower(graph, OnnxOptions(rewrites="fold_constants,fold_scales"), tmp_path, lambda _: None)
    assert lowered.rewrites == ()
    assert [form.name for form in chosen_rewrites(PROFILES["cpu"], "fold_scales,pack_attention")] == ["pack_attention"]
    # A plain provider has no packed attention; naming it is no mistake.
    assert chosen_rewrites(PROFILES["qnn"], "pack_attention") == ()
    assert chosen_rewrites(PROFILES["cpu"], "none") == ()
    known = "known: all, none, fit_half, fold_attention"
    with pytest.raises(UsageError, match=f"unknown rewrite 'pack_everything'; {known}"):
        lower(graph, OnnxOptions(rewrites="pack_everything"), tmp_path, lambda _: None)


def test_unknown_profiles_are_refused(export, tmp_path):
    with pytest.raises(UsageError, match="--ep tpu: unknown execution provider; known: cpu, cuda"):
        lower(export(**SMALL).captured, OnnxOptions(ep="tpu"), tmp_path, lambda _: None)
    assert list(tmp_path.iterdir()) == []


class Masked(nn.Module):
    def forward(self, noise):
        mask = torch.ones(4, 4).tril() > 0
        return nn.functional.scaled_dot_product_attention(noise, noise, noise, attn_mask=mask)


class Untranslatable(nn.Module):
    def forward(self, noise):
        return torch.linalg.svd(noise)[0] * noise


@pytest.mark.parametrize("module", [Masked(), Untranslatable()])
def test_operators_without_a_form_are_a_backend_error(toy, tmp_path, module):
    graph = toy(module, torch.randn(1, 2, 4, 4))
    with pytest.raises(BackendError, match=r"ONNX: this network can't be translated at opset 20: .+") as caught:
        lower(graph, OnnxOptions(), tmp_path, lambda _: None)
    assert caught.value.exit_code == 5
    assert len(str(caught.value).splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


def test_large_weights_go_to_a_file_beside(export, monkeypatch, tmp_path):
    whole = export(**SMALL)
    monkeypatch.setattr(saving, "EXTERNAL_DATA_BYTES", 100_000)
    lowered = lower(whole.captured, OnnxOptions(), tmp_path, lambda _: None)
    assert lowered.files == ("model.onnx", "model.onnx.data")
    assert (tmp_path / "model.onnx").stat().st_size < 200_000 < (tmp_path / "model.onnx.data").stat().st_size
    stamp(tmp_path, lowered.files, {"cmexport.name": "external"})
    inputs = whole.inputs()
    with OnnxRuntimeRunner(tmp_path / "model.onnx", threads=1) as run:
        np.testing.assert_array_equal(run(inputs)["image"], whole.run(inputs))


def test_stamped_facts_are_read_by_onnx_and_onnx_runtime(export, tmp_path):
    exported = export(**SMALL)
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.path.read_bytes())
    facts = {"cmexport.sigmas": "[80.0]", "cmexport.note": "größer als 2 MB: " + "x" * 5000}
    stamp(tmp_path, ("model.onnx",), facts)
    stamp(tmp_path, ("model.onnx",), {"cmexport.later": "1"})
    everything = {**facts, "cmexport.later": "1"}
    assert {p.key: p.value for p in onnx.load(path).metadata_props} == everything
    with OnnxRuntimeRunner(path, threads=1) as run:
        assert run._session.get_modelmeta().custom_metadata_map == everything
        inputs = exported.inputs()
        np.testing.assert_array_equal(run(inputs)["image"], exported.run(inputs))
    assert path.stat().st_size - exported.path.stat().st_size < 6000


def test_a_file_that_is_not_valid_onnx_is_refused(export, monkeypatch, tmp_path):
    def write_garbage(model, path):
        path.write_bytes(onnx.helper.make_model(onnx.GraphProto()).SerializeToString())

    monkeypatch.setattr(saving, "write_model", write_garbage)
    with pytest.raises(BackendError, match=r"model.onnx: the ONNX checker refuses the written file"):
        lower(export(**SMALL).captured, OnnxOptions(), tmp_path, lambda _: None)
