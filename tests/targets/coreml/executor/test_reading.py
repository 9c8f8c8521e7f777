"""Packages as they come: read faithfully, or refused with one sentence, whatever was done to them."""

import contextlib
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from cmexport.errors import CheckpointError, UsageError
from cmexport.targets.coreml.executor import Executor, describe_placement, read_program

MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def small(save_mil, mb, normal):
    """A package with a convolution, a palette, text and integer parameters, and weights of both kinds."""
    lut, indices = normal(1, 16), np.arange(60, dtype=np.uint8) * 3

    def build(x):
        weight = mb.constexpr_lut_to_dense(indices=indices, lut=lut, shape=np.uint32([8, 15]))
        y = mb.conv(x=x, weight=normal(2, 5, 3, 3, 3), bias=normal(3, 5), pad_type="same", name="first")
        y = mb.reshape(x=mb.silu(x=y), shape=[1, -1, 15])
        yield mb.softmax(x=mb.linear(x=y, weight=weight, name="second"), axis=-1, name="result")

    return save_mil(build, {"x": normal(4, 1, 3, 3, 4)}, 16)


@pytest.fixture
def copy(small, tmp_path):
    path = tmp_path / "copy.mlpackage"
    shutil.copytree(small, path)
    return path


@pytest.fixture
def edit(copy, ct):
    """`edit(change)` applies a function to the specification and writes it back."""
    from coremltools.proto import Model_pb2

    def apply(change):
        model = Model_pb2.Model()
        model.ParseFromString((copy / MODEL).read_bytes())
        function = model.mlProgram.functions["main"]
        change(model, function, function.block_specializations[function.opset].operations)
        (copy / MODEL).write_bytes(model.SerializeToString())
        return copy

    return apply


def run(path):
    """Read and execute."""
    program = read_program(path)
    inputs = {i.name: np.ones(i.type.shape, i.type.dtype) for i in program.functions["main"].inputs}
    return Executor(program)(inputs)


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        run(path)
    message = str(caught.value)
    assert message.count("\n") <= 2
    assert str(path) in message
    assert message.rpartition(";")[2].strip(), "what to do"


def find(operations, kind):
    return next(op for op in operations if op.type == kind)


def test_what_is_read(small, ct):
    program = read_program(small)
    assert list(program.functions) == ["main"]
    assert program.default_function == "main"
    assert program.specification_version == 7
    assert program.metadata["com.github.apple.coremltools.version"] == ct.__version__
    function = program.functions["main"]
    assert function.opset == "CoreML6"
    assert [str(i.type) for i in function.inputs] == ["float32[1, 3, 3, 4]"]
    assert function.outputs == ("result",)
    conv = next(op for op in function.ops if op.type == "conv")
    assert conv.where == "operation 'conv' (at 'first')"
    assert conv.outputs[0].type.shape == (1, 5, 3, 4)
    assert run(small)["result"].sum() == pytest.approx(4, abs=1e-5)


def test_placement_of_a_float32_program(small):
    facts = describe_placement(read_program(small))
    assert facts.op_counts == {"conv": 1, "silu": 1, "reshape": 1, "linear": 1, "softmax": 1}
    assert facts.compression == {"constexpr_lut_to_dense": 1}
    assert facts.highest_rank == 4
    assert facts.precisions == ("float32",)
    stored = {w.dtype: (w.tensors, w.nbytes) for w in facts.weights}
    assert stored["float32"][0] >= 2
    assert stored["uint8"] == (1, 60)
    (departure,) = facts.departures
    assert departure.reason.startswith("float32 operations run on the CPU")
    assert departure.operations[0] == "first"


def test_placement_names_what_leaves_the_neural_engine(save_mil, mb, normal):
    def build(x, i):
        h = mb.cast(x=x, dtype="fp16")
        y = mb.conv(x=h, weight=normal(1, 2, 3, 2, 2).astype(np.float16), dilations=[2, 2], name="dilated")
        yield mb.cast(x=mb.gather(x=y, indices=i, axis=1, name="lookup"), dtype="fp32")
        yield mb.add(x=i, y=np.int32(1), name="count")

    path = save_mil(build, {"x": normal(1, 1, 3, 5, 5), "i": np.zeros(1, np.int32)})
    facts = describe_placement(read_program(path))
    reasons = {d.operations: d.reason for d in facts.departures}
    assert "dilated" in reasons[("dilated",)]
    assert "gathering" in reasons[("lookup",)]
    assert "whole numbers" in reasons[("count",)]
    assert len(reasons) == 3
    assert facts.precisions == ("float16",)


def test_pictures_in_the_description_are_known(ct, save_mil, mb, tmp_path):
    import torch

    class Scale(torch.nn.Module):
        def forward(self, x):
            return x * 0.5 + 10

    traced = torch.jit.trace(Scale().eval(), torch.rand(1, 3, 4, 4))
    model = ct.convert(
        traced,
        inputs=[ct.ImageType("photo", (1, 3, 4, 4), scale=1 / 255.0)],
        outputs=[ct.ImageType("image", color_layout=ct.colorlayout.RGB)],
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    path = tmp_path / "pictures.mlpackage"
    model.save(str(path))
    program = read_program(path)
    assert program.image_inputs == {"photo"}
    assert program.image_outputs == {"image"}
    result = Executor(program)({"photo": np.full((1, 3, 4, 4), 255, np.float32)})["image"]
    assert result.shape == (1, 3, 4, 4)
    np.testing.assert_allclose(result, 10.5, atol=1e-4)


def test_functions_share_weights(ct, save_mil, mb, normal, tmp_path):
    weight, x = normal(1, 6, 4), normal(2, 3, 4)
    paths = [
        save_mil(lambda x, f=f: [getattr(mb, f)(x=mb.linear(x=x, weight=weight))], {"x": x}, 18)
        for f in ("relu", "exp")
    ]
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, path in zip(("rectify", "grow"), paths, strict=True):
        descriptor.add_function(str(path), "main", name)
    descriptor.default_function_name = "grow"
    joined = tmp_path / "both.mlpackage"
    ct.utils.save_multifunction(descriptor, str(joined))
    program = read_program(joined)
    assert sorted(program.functions) == ["grow", "rectify"]
    (grown,) = Executor(program)({"x": x}).values()
    (kept,) = Executor(program, "rectify")({"x": x}).values()
    np.testing.assert_allclose(grown, np.exp(x @ weight.T), rtol=1e-5)
    np.testing.assert_allclose(kept, np.maximum(x @ weight.T, 0), atol=1e-5)
    assert [w.tensors for w in describe_placement(program).weights] == [1]


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS])
def test_a_missing_file(copy, name):
    (copy / name).unlink()
    refused(copy, Path(name).name)


def test_no_package_at_all(copy, tmp_path):
    refused(tmp_path / "none.mlpackage", "there is no such .mlpackage")
    refused(copy / MODEL, "there is no such .mlpackage")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "not JSON"),
        ("[" * 100000, "not JSON"),
        ("[]", "names no model"),
        ("{}", "names no model"),
        ('{"rootModelIdentifier": ["a"], "itemInfoEntries": {}}', "names no model"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": 7}}}', "names no model"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "../../x"}}}', "outside the package"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "/etc/passwd"}}}', "outside the package"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "com.apple.CoreML"}}}', "model is missing"),
    ],
)
def test_a_damaged_manifest(copy, content, match):
    (copy / "Manifest.json").write_text(content)
    refused(copy, match)


def test_a_model_that_is_a_link_out_of_the_package(copy, tmp_path):
    outside = tmp_path / "outside.mlmodel"
    (copy / MODEL).rename(outside)
    (copy / MODEL).symlink_to(outside)
    refused(copy, "outside the package")


def test_weights_that_are_a_link_out_of_the_package(copy, tmp_path):
    outside = tmp_path / "outside.bin"
    (copy / WEIGHTS).rename(outside)
    (copy / WEIGHTS).symlink_to(outside)
    refused(copy, "outside the package")


@pytest.mark.parametrize(
    "name", ["@model_path/../../../../secret", "/etc/passwd", "@model_path//etc/passwd", "weights/weight.bin", "", "\0"]
)
def test_a_weights_file_outside_the_package(edit, name):
    def change(_, function, operations):
        for op in operations:
            for value in op.attributes.values():
                if value.WhichOneof("value") == "blobFileValue":
                    value.blobFileValue.fileName = name

    refused(edit(change), "weights file outside the package")


def first_stored(operations):
    values = (v for op in operations for _, v in sorted(op.attributes.items()))
    return next(v for v in values if v.WhichOneof("value") == "blobFileValue")


def _offset(_, function, operations):
    first_stored(operations).blobFileValue.offset += 64


def _far_offset(_, function, operations):
    first_stored(operations).blobFileValue.offset = 2**63


def _longer_weight(_, function, operations):
    first_stored(operations).type.tensorType.dimensions[0].constant.size += 1


def _huge_weight(_, function, operations):
    first_stored(operations).type.tensorType.dimensions[0].constant.size = 2**62


def _unknown(_, function, operations):
    find(operations, "silu").type = "swizzle"
    find(operations, "softmax").type = "lstm"


def _other_shape(_, function, operations):
    find(operations, "conv").outputs[0].type.tensorType.dimensions[1].constant.size = 6


def _other_shape_later(_, function, operations):
    find(operations, "silu").outputs[0].type.tensorType.dimensions[3].constant.size = 5


def _other_rank(_, function, operations):
    find(operations, "silu").outputs[0].type.tensorType.rank = 3


def _other_input(_, function, operations):
    function.inputs[0].type.tensorType.dimensions[1].constant.size = 4


def _undefined(_, function, operations):
    find(operations, "silu").inputs["x"].arguments[0].name = "nowhere"


def _cycle(_, function, operations):
    find(operations, "conv").inputs["x"].arguments[0].name = find(operations, "silu").outputs[0].name


def _twice(_, function, operations):
    find(operations, "silu").outputs[0].name = find(operations, "conv").outputs[0].name


def _no_argument(_, function, operations):
    del find(operations, "silu").inputs["x"]


def _text_for_tensor(_, function, operations):
    conv = find(operations, "conv")
    conv.inputs["weight"].arguments[0].name = conv.inputs["pad_type"].arguments[0].name


def _tensor_for_text(_, function, operations):
    conv = find(operations, "conv")
    conv.inputs["pad_type"].arguments[0].name = conv.inputs["strides"].arguments[0].name


def _no_value(_, function, operations):
    del find(operations, "const").attributes["val"]


def _variable_constant(_, function, operations):
    # A constant may not depend on an input: moved after it in the program, the palette reads x.
    op = find(operations, "constexpr_lut_to_dense")
    del op.attributes["lut"]
    op.inputs["lut"].arguments.add().name = function.inputs[0].name


def _no_output(_, function, operations):
    block = function.block_specializations[function.opset]
    del block.outputs[:]


def _unknown_output(_, function, operations):
    function.block_specializations[function.opset].outputs[0] = "nowhere"


def _no_body(_, function, operations):
    function.opset = "CoreML99"


def _unknown_type(_, function, operations):
    find(operations, "silu").outputs[0].type.tensorType.dataType = 2


def _state(_, function, operations):
    function.inputs[0].type.stateType.wrappedType.tensorType.dataType = 11


def _zero_strides(_, function, operations):
    name = find(operations, "conv").inputs["strides"].arguments[0].name
    const = next(op for op in operations if op.outputs[0].name == name)
    const.attributes["val"].immediateValue.tensor.ints.values[:] = [0, 0]


def _too_few_numbers(_, function, operations):
    name = find(operations, "conv").inputs["strides"].arguments[0].name
    const = next(op for op in operations if op.outputs[0].name == name)
    del const.attributes["val"].immediateValue.tensor.ints.values[:]


def _neural_network(model, function, operations):
    model.neuralNetwork.layers.add()


def _nothing(model, function, operations):
    model.ClearField("mlProgram")


def _no_functions(model, function, operations):
    model.mlProgram.functions.clear()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_offset, "no blob begins there"),
        (_far_offset, "no position in this file"),
        (_longer_weight, "and the program needs"),
        (_huge_weight, "impossible size"),
        (_unknown, r"operations 'lstm' \(at 'result'\), 'swizzle' \(at 'silu_0'\) are not among those"),
        (_other_shape, r"'conv' \(at 'first'\).*shape \[1, 5, 3, 4\], and the program says \[1, 6, 3, 4\]"),
        (_other_shape_later, r"'silu' .*its result has shape \[1, 5, 3, 4\], and the program says \[1, 5, 3, 5\]"),
        (_other_rank, "4 extents and rank 3"),
        (_other_input, "4 channels don't fit"),
        (_undefined, r"'silu' .* uses 'nowhere', which nothing before it defines"),
        (_cycle, "which nothing before it defines"),
        (_twice, "a second time"),
        (_no_argument, "parameter 'x' is missing"),
        (_text_for_tensor, "is text where a tensor belongs"),
        (_tensor_for_text, "is a tensor where text belongs"),
        (_no_value, "has no value"),
        (_variable_constant, "is constant and uses 'x', which isn't"),
        (_no_output, "returns nothing"),
        (_unknown_output, "returns 'nowhere', which nothing defines"),
        (_no_body, "no body for its opset 'CoreML99'"),
        (_unknown_type, "can't be of type string"),
        (_state, "a state, which this executor can't hold"),
        (_zero_strides, "strides"),
        (_too_few_numbers, "0 numbers for a constant"),
        (_neural_network, "kind neuralNetwork, not an ML Program"),
        (_nothing, "kind none, not an ML Program"),
        (_no_functions, "no functions"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_an_edited_specification(edit, change, match):
    refused(edit(change), match)


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS])
def test_truncated_at_every_twentieth(copy, name):
    whole = (copy / name).read_bytes()
    for percent in range(0, 100, 5):
        (copy / name).write_bytes(whole[: len(whole) * percent // 100])
        with pytest.raises(CheckpointError):
            run(copy)


@pytest.mark.parametrize("name", ["Manifest.json", MODEL, WEIGHTS])
def test_flipped_bytes_never_escape(copy, name):
    """Bytes replaced at random: either it still runs, or it is refused; nothing else."""
    whole, chance = (copy / name).read_bytes(), random.Random(5)
    refusals = 0
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 8])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (copy / name).write_bytes(data)
        # UsageError: an input's name or type became something that numpy can't be.
        with contextlib.suppress(UsageError):
            try:
                run(copy)
            except CheckpointError as error:
                refusals += str(copy) in str(error)
    assert refusals > 10


def test_manifests_may_name_the_model_in_any_folder(copy):
    (copy / "Data" / "other").mkdir()
    shutil.move(copy / "Data/com.apple.CoreML", copy / "Data/other/m")
    entry = {"path": "other/m/model.mlmodel"}
    (copy / "Manifest.json").write_text(json.dumps({"rootModelIdentifier": "r", "itemInfoEntries": {"r": entry}}))
    assert run(copy)["result"].shape == (1, 4, 8)
