"""Stored and compressed weights: the file's layout, and every constexpr against numpy."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmexport.errors import CheckpointError
from cmexport.targets.coreml.executor import Executor, read_program
from cmexport.targets.coreml.executor.blobs import BlobFile, packed_bytes, unpack

few = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

SUB_BYTE = {"int4": (-8, 8), "uint1": (0, 2), "uint2": (0, 4), "uint3": (0, 8), "uint4": (0, 16), "uint6": (0, 64)}


def _sub_byte(name, values):
    """An array with coremltools' own mark of a sub-byte type."""
    from coremltools.converters.mil.mil import types

    return values.astype(types.nptype_from_builtin(types.string_to_builtin(name)))


def test_blobs_are_what_coremltools_own_storage_says(ct, tmp_path):
    from coremltools import libmilstoragepython as storage

    path, rng = tmp_path / "weight.bin", np.random.default_rng(0)
    writer = storage._BlobStorageWriter(str(path))
    written = {}
    for name, (low, high) in SUB_BYTE.items():
        values = _sub_byte(name, rng.integers(low, high, 37))
        written[getattr(writer, f"write_{name}_data")(values)] = (name, values)
    for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32"):
        info = np.iinfo(name)
        values = rng.integers(info.min, info.max, 37, dtype=name, endpoint=True)
        written[getattr(writer, f"write_{name}_data")(values)] = (name, values)
    floats = rng.standard_normal(37).astype(np.float32)
    written[writer.write_float_data(floats)] = ("float32", floats)
    halves = floats.astype(np.float16)
    written[writer.write_fp16_data(halves.view(np.uint16))] = ("float16", halves)
    del writer
    file, reader = BlobFile.open(path), storage._BlobStorageReader(str(path))
    for offset, (name, values) in written.items():
        assert np.array_equal(file.read(offset, name, 37), values), name
        theirs = {"float32": "read_float_data", "float16": "read_fp16_data"}.get(name, f"read_{name}_data")
        read = np.asarray(getattr(reader, theirs)(offset))
        assert np.array_equal(read.view(np.float16) if name == "float16" else read, values), name


@pytest.mark.parametrize("name", SUB_BYTE)
def test_bits_are_packed_from_the_least_significant_one(name):
    low, high = SUB_BYTE[name]
    values = np.random.default_rng(1).integers(low, high, 29)
    bits = {"int4": 4}.get(name) or int(name[4:])
    number = sum((int(v) % 2**bits) << (i * bits) for i, v in enumerate(values))
    data = np.frombuffer(number.to_bytes(packed_bytes(name, 29), "little"), np.uint8)
    assert np.array_equal(unpack(data, name, 29), values)


@pytest.mark.parametrize(
    ("position", "value", "reason"),
    [
        (64, b"\0\0\0\0", "no blob begins there"),
        (68, struct.pack("<I", 3), "it holds uint8, and the program says float32"),
        (68, struct.pack("<I", 99), "it holds type 99"),
        (72, struct.pack("<Q", 2**62), "it holds 4611686018427387904 bytes"),
        (80, struct.pack("<Q", 2**62), "outside this file"),
        (80, struct.pack("<Q", 2**64 - 4), "outside this file"),
    ],
)
def test_a_damaged_blob_is_named(ct, tmp_path, position, value, reason):
    from coremltools import libmilstoragepython as storage

    path = tmp_path / "weight.bin"
    writer = storage._BlobStorageWriter(str(path))
    offset = writer.write_float_data(np.ones(16, np.float32))
    del writer
    data = bytearray(path.read_bytes())
    data[position : position + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=reason):
        BlobFile.open(path).read(offset, "float32", 16)
    for wrong in (0, 7, 65, 2**40, 2**63):
        with pytest.raises(CheckpointError, match="that is no position"):
            BlobFile.open(path).read(wrong, "float32", 16)


@few
@given(data=st.data(), signed=st.booleans())
def test_ios16_weights(check, mb, normal, data, signed):
    shape = tuple(data.draw(st.integers(1, 5)) for _ in range(data.draw(st.integers(1, 4))))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    axis, count = (a := data.draw(st.integers(-len(shape), len(shape) - 1))), shape[a]
    kind = np.int8 if signed else np.uint8
    whole = rng.integers(-100 if signed else 0, 100, shape).astype(kind)
    scale, zero = rng.random(count).astype(np.float32), rng.integers(0, 9, count).astype(kind)
    bits = data.draw(st.sampled_from([1, 2, 4, 6, 8]))
    lut, elements = normal(1, 2**bits), int(np.prod(shape))
    indices, mask = rng.integers(0, 2**bits, elements), rng.random(elements) < 0.5
    packed = np.packbits((indices[:, None] >> np.arange(bits)) & 1, bitorder="little").astype(np.uint8)
    kept = normal(2, elements)[mask]

    def build(x):
        one = np.float32(1)
        given_ = {"scale": scale, "zero_point": zero, "axis": axis}
        yield mb.mul(x=mb.constexpr_affine_dequantize(quantized_data=whole, **given_), y=one)
        yield mb.mul(x=mb.constexpr_lut_to_dense(indices=packed, lut=lut, shape=np.uint32(shape)), y=one)
        if mask.any():
            bitmap = np.packbits(mask, bitorder="little")
            yield mb.mul(x=mb.constexpr_sparse_to_dense(nonzero_data=kept, mask=bitmap, shape=np.uint32(shape)), y=one)
        yield mb.mul(x=mb.constexpr_cast(source_val=lut.astype(np.float16), output_dtype="fp32"), y=one)
        yield mb.identity(x=x)

    along = [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]
    dense = np.zeros(elements, np.float32)
    dense[mask] = kept
    expected = [
        (whole.astype(np.float64) - zero.reshape(along)) * scale.reshape(along),
        lut[indices].reshape(shape),
        *([dense.reshape(shape)] if mask.any() else []),
        lut.astype(np.float16),
    ]
    x = normal(3, 2)
    check(build, {"x": x}, [*expected, x], ios=16)


@few
@given(data=st.data(), kind=st.sampled_from(["int4", "uint4", "int8", "uint8"]))
def test_ios18_blocks_of_scales(check, mb, data, kind):
    counts = [data.draw(st.integers(1, 3)) for _ in range(data.draw(st.integers(1, 3)))]
    block = [data.draw(st.integers(1, 3)) for _ in counts]
    shape = [c * b for c, b in zip(counts, block, strict=True)]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    low, high = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-128, 128), "uint8": (0, 256)}[kind]
    whole, offset = rng.integers(low, high, shape), rng.integers(low, high, counts)
    scale = rng.random(counts).astype(np.float32) + np.float32(0.5)
    mask = rng.random(shape) < 0.6
    mask.flat[0] = True

    def build(x):
        one = np.float32(1)
        q, o = _sub_byte(kind, whole), _sub_byte(kind, offset)
        yield mb.mul(x=mb.constexpr_blockwise_shift_scale(data=q, scale=scale, offset=o), y=one)
        yield mb.mul(x=mb.constexpr_blockwise_shift_scale(data=q, scale=scale), y=one)
        m = _sub_byte("uint1", mask)
        sparse = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=m, nonzero_data=_sub_byte(kind, whole[mask]), scale=scale, offset=o
        )
        yield mb.mul(x=mb.constexpr_sparse_to_dense(nonzero_data=sparse[1], mask=sparse[0]), y=one)
        yield mb.identity(x=x)

    spread = np.ones(block)
    exact = (whole - np.kron(offset, spread)) * np.kron(scale.astype(np.float64), spread)
    x = np.ones(2, np.float32)
    check(build, {"x": x}, [exact, whole * np.kron(scale, spread), exact * mask, x], ios=18)


@few
@given(data=st.data(), bits=st.sampled_from([1, 2, 3, 4, 6, 8]), vector=st.integers(1, 3))
def test_ios18_palettes(check, mb, normal, data, bits, vector):
    groups = [data.draw(st.integers(1, 3)) for _ in range(data.draw(st.integers(1, 3)))]
    block = [data.draw(st.integers(1, 3)) for _ in groups]
    shape = [c * b for c, b in zip(groups, block, strict=True)]
    axis = data.draw(st.integers(0, len(shape) - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    indices, lut = rng.integers(0, 2**bits, shape), normal(1, *groups, 2**bits, vector)
    mask = rng.random(shape) < 0.6
    mask.flat[0] = True
    found = np.empty((*shape, vector))
    for cell in np.ndindex(*shape):
        found[cell] = lut[tuple(c // b for c, b in zip(cell, block, strict=True))][indices[cell]]

    def longer(values):
        """Vectors laid out along their axis, cell by cell."""
        moved = np.moveaxis(values, -1, axis + 1)
        return moved.reshape(*shape[:axis], shape[axis] * vector, *shape[axis + 1 :])

    expected = longer(found)
    covered = longer(np.repeat(mask[..., None], vector, -1))

    def build(x):
        one, kind = np.float32(1), f"uint{bits}"
        where = {"vector_axis": axis} if vector > 1 else {}
        yield mb.mul(x=mb.constexpr_lut_to_dense(indices=_sub_byte(kind, indices), lut=lut, **where), y=one)
        sparse = mb.constexpr_lut_to_sparse(
            indices_mask=_sub_byte("uint1", mask),
            indices_nonzero_data=_sub_byte(kind, indices[mask]),
            lut=lut,
            **where,
        )
        yield mb.mul(x=mb.constexpr_sparse_to_dense(nonzero_data=sparse[1], mask=sparse[0]), y=one)
        yield mb.identity(x=x)

    x = np.ones(2, np.float32)
    check(build, {"x": x}, [expected, expected * covered, x], ios=18)


def test_low_memory_gives_the_same_and_a_replaced_file_is_noticed(save_mil, mb, normal):
    weight, x = normal(1, 8, 4), normal(2, 3, 4)
    path = save_mil(lambda x: [mb.linear(x=x, weight=weight)], {"x": x})
    program = read_program(path)
    eager, frugal = Executor(program), Executor(program, low_memory=True)
    (first,), (second,) = eager({"x": x}).values(), frugal({"x": x}).values()
    np.testing.assert_allclose(first, x @ weight.T, atol=1e-5)
    assert np.array_equal(first, second)
    (path / "Data/com.apple.CoreML/weights/weight.bin").write_bytes(b"\0" * 100)
    assert np.array_equal(next(iter(eager({"x": x}).values())), first)
    with pytest.raises(CheckpointError, match=r"weight\.bin: the weights file is damaged"):
        frugal({"x": x})


def test_results_do_not_share_memory_with_constants(save_mil, mb, normal):
    weight, x = normal(1, 3, 4), normal(2, 3, 4)

    def build(x):
        yield mb.add(x=x, y=np.float32(0))
        yield mb.reshape(x=mb.constexpr_cast(source_val=weight.astype(np.float16), output_dtype="fp32"), shape=[4, 3])

    executor = Executor(read_program(save_mil(build, {"x": x})))
    first = executor({"x": x})
    kept = {name: array.copy() for name, array in first.items()}
    for array in first.values():
        array[:] = 7
    again = executor({"x": x})
    assert all(np.array_equal(again[name], kept[name]) for name in kept)
    assert torch.equal(torch.from_numpy(x), torch.from_numpy(normal(2, 3, 4)))
