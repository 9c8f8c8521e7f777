from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cmexport.errors import BackendError, UsageError
from cmexport.model import SampleRequest
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.runner import picture_of
from cmexport.targets.tensorrt.batches import batch_name, batch_of_name, rebatch
from cmexport.targets.tensorrt.info import parse_batches


def _stack(runs):
    return {n: np.concatenate([r[n] for r in runs], axis=1 if n == "renoise" else 0) for n in runs[0]}


@pytest.mark.parametrize(
    ("precision", "fields"),
    [("fp32", {}), ("fp32", {"sigmas": (80.0, 3.0)}), ("int8", {}), ("fp32", {"task": "inpaint"})],
)
def test_another_batch_draws_the_same_pictures(export, precision, fields):
    written = export(precision, SampleRequest(batch=2, **fields))
    pairs = [written.inputs(seed) for seed in range(2)]
    with OnnxRuntimeRunner(written.path) as run:
        expected = np.concatenate([picture_of(run(inputs)) for inputs in pairs])
    for batch in (4, 1):
        rebatch(written.path, f"model-b{batch}", batch)
    four = _stack(pairs)
    with OnnxRuntimeRunner(written.folder / "model-b4.onnx") as run:
        found = picture_of(run(four))
    first = {n: np.take(a, [0], axis=1 if n == "renoise" else 0) for n, a in four.items()}
    with OnnxRuntimeRunner(written.folder / "model-b1.onnx") as run:
        assert np.abs(picture_of(run(first)) - expected[:1]).max() < (1e-4 if precision == "fp32" else 0.05)
    # Quantized graphs may turn a code over where sums come in another order.
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < (1e-4 if precision == "fp32" else 0.05)


def test_every_batch_gets_a_file_and_a_rung(export, psnr):
    written = export("fp16", SampleRequest(batch=2), batches=(2, 1, 4))
    assert written.lowered.files == ("model-b2.onnx", "model-b1.onnx", "model-b4.onnx")
    assert [r.name[-1] for r in written.rungs] == ["2", "2", "1", "1", "4", "4"]
    inputs = written.inputs()
    for rung in written.rungs[1::2]:
        with rung.open() as run:
            assert psnr(written.reference(inputs), picture_of(run(inputs))) > 60
    assert onnx.load(written.folder / "model-b4.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4


def test_a_graph_for_one_picture_can_not_grow(shared_export):
    with pytest.raises(BackendError, match="shaped for one picture"):
        rebatch(shared_export("fp32").path, "model-b4", 4)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("Expand", ["noise", "shape"], ["image"]), "holds the batch"),
        (helper.make_node("Reshape", ["noise", "noise_shape"], ["image"]), "computes its shape"),
        (helper.make_node("Reshape", ["noise", "odd"], ["image"]), "doesn't start with the batch"),
        (helper.make_node("Transpose", ["noise"], ["image"], perm=[1, 0, 2, 3]), "can't be made for another batch"),
    ],
)
def test_graphs_of_another_form_are_refused(tmp_path, node, said):
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3, 4, 4]) for n in ("noise", "image")]
    shape = helper.make_node("Shape", ["noise"], ["noise_shape"])
    stored = [
        helper.make_tensor(n, TensorProto.INT64, [4], v) for n, v in (("shape", [2, 3, 4, 4]), ("odd", [3, 2, 4, 4]))
    ]
    graph = helper.make_graph([shape, node], "g", info[:1], info[1:], stored)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    with pytest.raises(BackendError, match=said):
        rebatch(path, "m-b4", 4)
    assert not (tmp_path / "m-b4.onnx").exists()


def test_batches_as_typed_have_the_smallest_above_one_first():
    assert parse_batches("1") == (1,)
    assert parse_batches("4") == (4,)
    assert parse_batches("8,1,4") == (4, 8, 1)
    for text, said in (
        ("0", "at least 1"),
        ("1,,2", "give a number"),
        ("2,2", "2 comes twice"),
        ("x", "give a number"),
    ):
        with pytest.raises(UsageError, match=said):
            parse_batches(text)


def test_names_tell_the_batch():
    assert batch_of_name(batch_name("model", 8)) == 8
    for name in ("model", "model-b", "-b3", "my-bike"):
        assert batch_of_name(name) is None
